"""Classification by class capsules: a loss of their scores, and of a reconstruction if the network has a decoder."""

import math
from collections.abc import Mapping
from typing import Any, cast

import lightning as L
import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.errors import require, require_choice, require_number
from capsexp.lightning_modules.base import BaseModule, Made
from capsexp.losses.margin import REDUCTIONS, margin_loss
from capsexp.losses.nll import nll_loss
from capsexp.losses.reconstruction import reconstruction_loss
from capsexp.losses.spread import spread_loss
from capsexp.models.base import CapsuleClassifier
from capsexp.nn.routing_hooks import class_layer
from capsexp.types import Batch, StepOutput

LOSSES = ("margin", "spread", "nll", "cross_entropy")

FITTING: Mapping[str, tuple[tuple[str, ...], str]] = {
    "length": (LOSSES, "are lengths"),
    "probability": (LOSSES, "lie in 0..1, each for itself"),
    "share": (("nll", "cross_entropy"), "add up to 1 and are no lengths"),
    "none": (("cross_entropy",), "are none"),
}
"""The losses that fit each kind of activations, and why others do not."""


class CapsNetModule(BaseModule):
    """Sabour et al. (2017), sections 3 and 4.1: loss = margin + reconstruction_weight * squared pixel differences.

    The decoder reconstructs from the true class in training, and from the class of the highest score in evaluation.

    The margin of the spread loss grows linearly over the optimizer steps of a fit, as many as its limits allow: a fit
    that stops early does not reach the last one.  It depends on the number of the step alone, so a resumed fit goes on
    with the same margin.  Evaluation, and a step outside of a fit, take the last margin, so that losses of all epochs
    can be compared.

    Args:
        loss: ``margin``, for lengths; ``spread`` (Hinton et al. 2018); ``nll`` of activations divided by their sum
            (Hahn et al. 2019); or ``cross_entropy`` of scores read as logits (Tsai et al. 2020).
        present: m+ of the margin loss.
        absent: m- of the margin loss.
        down_weight: lambda of the margin loss.
        reduction: of the margin loss over the classes: ``sum``, or ``half_mean`` (1 / (2 K) of it), beside which a
            reconstruction of the same weight counts 2 K times as much.
        first_margin: margin of the spread loss in the first step of a fit, at most ``last_margin``.
        last_margin: margin of the spread loss in the last step, and in evaluation.
        reconstruction_weight: weight of the squared differences summed over an image, at least 0.
        **parts: arguments of :class:`BaseModule`.
    """

    def __init__(
        self,
        *,
        loss: str = "margin",
        present: float = 0.9,
        absent: float = 0.1,
        down_weight: float = 0.5,
        reduction: str = "sum",
        first_margin: float = 0.2,
        last_margin: float = 0.9,
        reconstruction_weight: float = 0.0005,
        **parts: Any,
    ) -> None:
        self._loss = require_choice("loss", loss, LOSSES)
        check_loss(parts.get("model"), loss)
        super().__init__(**parts)
        self._margin: dict[str, Any] = {
            "present": require_number("present", present, 0, 1),
            "absent": require_number("absent", absent, 0, 1),
            "down_weight": require_number("down_weight", down_weight, 0),
            "reduction": require_choice("reduction", reduction, REDUCTIONS),
        }
        self._first_margin = require_number("first_margin", first_margin, 0, 1)
        self._last_margin = require_number("last_margin", last_margin, 0, 1, open_ends="<")
        require(first_margin <= last_margin, "first_margin", f"be at most last_margin={last_margin}", first_margin)
        self._fit_steps = 0
        self._reconstruction_weight = require_number("reconstruction_weight", reconstruction_weight, 0)

    @property
    def alone(self) -> str | None:
        """The reason why fits with the spread loss are never stacked."""
        return "the margin of the loss spread moves with every step" if self._loss == "spread" else None

    @property
    def spread_margin(self) -> float:
        """The margin of the spread loss: that of the present step in a fit, else the last one."""
        if not (self.training and self._fit_steps):
            return self._last_margin
        done = min(1.0, self.trainer.global_step / max(1, self._fit_steps - 1))
        return self._first_margin + done * (self._last_margin - self._first_margin)

    def on_train_start(self) -> None:
        """Note how many optimizer steps the fit may take, those before a resume included."""
        self._fit_steps = 0 if self._loss != "spread" else _steps_of(self.trainer)

    def on_train_end(self) -> None:
        """Forget it."""
        self._fit_steps = 0

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of the two terms of the loss; empty without a decoder."""
        return () if cast("CapsuleClassifier", self.model).decoder is None else (self._loss, "reconstruction")

    def made_by(self, model: nn.Module, images_BCHW: Tensor, labels_B: Tensor) -> Made:
        """``scores`` (B, K) of the classes and, if ``model`` has a decoder, its images ``drawn`` (B, C, H, W)."""
        capsnet = cast("CapsuleClassifier", model)
        output = capsnet.capsules(images_BCHW)
        scores_BK = capsnet.scores(output)
        if capsnet.decoder is None:
            return {"scores": scores_BK}
        shown_B = labels_B if capsnet.training else capsnet.decoder.longest(scores_BK)
        return {"scores": scores_BK, "drawn": capsnet.decoder(output.poses_BJE, shown_B)}

    def judged(self, made: Made, batch: Batch) -> StepOutput:
        """The loss and the scores for the outputs ``made`` of a batch."""
        loss = self._loss_of(made["scores"], batch.labels_B)
        if "drawn" not in made:
            return StepOutput(loss, made["scores"])
        reconstruction = reconstruction_loss(made["drawn"], batch.pixels_BCHW / 255)
        whole = loss + self._reconstruction_weight * reconstruction
        return StepOutput(whole, made["scores"], {self._loss: loss, "reconstruction": reconstruction})

    def _loss_of(self, scores_BK: Tensor, labels_B: Tensor) -> Tensor:
        if self._loss == "margin":
            return margin_loss(scores_BK, labels_B, **self._margin)
        if self._loss == "spread":
            return spread_loss(scores_BK, labels_B, margin=self.spread_margin)
        return nll_loss(scores_BK, labels_B) if self._loss == "nll" else F.cross_entropy(scores_BK, labels_B)


def _steps_of(trainer: L.Trainer) -> int:
    """The optimizer steps that a fit takes if nothing stops it.

    Raises:
        ConfigError: the fit has no limit.
    """
    steps = trainer.estimated_stepping_batches
    require(steps != math.inf, "trainer.max_epochs", "be a limit: the margin of loss=spread grows over the fit", -1)
    return int(steps)


def check_loss(model: Any, loss: str) -> None:
    """Refuse a loss that makes no sense for the scores of a network.

    Raises:
        ConfigError: the message says which losses fit.
    """
    name = type(model).__name__
    require(isinstance(model, CapsuleClassifier), "model", "be a capsexp.models.base.CapsuleClassifier", name)
    if model.head is not None:
        require(loss == "cross_entropy", "loss", "be cross_entropy: the scores of model.head=linear are logits", loss)
        return
    routing = class_layer(model)[1].routing
    fitting, why = FITTING[routing.activation]
    rule = f"be {' or '.join(fitting)}: the activations of {type(routing).__name__} {why}"
    require(loss in fitting, "loss", rule, loss)
