"""Loss functions, pure functions of tensors.

:func:`margin_loss`, :func:`spread_loss`, :func:`nll_loss` and :func:`reconstruction_loss` train capsule networks;
:func:`channel_correlation`, subtracted from a loss, makes the channels of a layer more alike before some of them are
pruned.
"""

from capsexp.losses.ccm import channel_correlation
from capsexp.losses.margin import margin_loss
from capsexp.losses.nll import nll_loss
from capsexp.losses.reconstruction import reconstruction_loss
from capsexp.losses.spread import spread_loss

__all__ = ["channel_correlation", "margin_loss", "nll_loss", "reconstruction_loss", "spread_loss"]
