"""Master routing coefficients, accumulated while a Trainer predicts the training images."""

from typing import Any, cast

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import nn

from capsexp.callbacks.base import ResultCallback
from capsexp.filters.base import Filter
from capsexp.master_coefficients import MasterSums
from capsexp.nn.capsules import capsule_layers
from capsexp.types import Batch


class MasterCoefficients(ResultCallback):
    """Computes the master of every capsule layer while a Trainer predicts the training images.

    The arithmetic is that of :func:`capsexp.accumulate`, after Zhao et al. (2019), section 5 and appendix A.

    The callback needs :attr:`passes` predictions of the training images, in one order.

    Args:
        filter: selects the images whose couplings count in the class layer; None for all.
        columns: ``whole`` or ``ground_truth``, see :func:`capsexp.accumulate`.
    """

    def __init__(self, filter: Filter | None = None, columns: str = "whole") -> None:
        self._sums = MasterSums(filter, columns)

    @property
    def passes(self) -> int:
        """Number of passes over the training images: those of the filter, and one to accumulate."""
        return self._sums.passes

    # -- Lightning's hooks --------------------------------------------------------------------------------------------

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Create the accumulators before the first pass, and register the hooks."""
        self._sums.listen(cast("nn.Module", pl_module.model), pl_module.device)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Pass a batch to the filter, or accumulate the couplings that it keeps."""
        self._sums.add(batch.labels_B)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the hooks."""
        self._sums.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the hooks, and discard the passes so far."""
        self._sums.discard()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set each layer's master after the last pass; predictions themselves run in inference mode."""
        if stage != "predict" or not self._sums.end_pass():
            return
        model = cast("nn.Module", pl_module.model)
        layers = capsule_layers(model)
        for name, master_JI in self._sums.masters(model).items():
            layers[name].set_master(master_JI)

    # -- results ------------------------------------------------------------------------------------------------------

    def result_metrics(self, module: L.LightningModule) -> dict[str, float]:
        """``filter/kept``: the share of the training images whose couplings were accumulated."""
        return {"filter/kept": self._sums.kept}

    def result_arrays(self, module: L.LightningModule) -> dict[str, NDArray[np.generic]]:
        """``master/<layer>`` (J, I)."""
        layers = capsule_layers(cast("nn.Module", module.model))
        known = {name: layer.master_JI for name, layer in layers.items() if layer.master_JI is not None}
        return {f"master/{name}": master_JI.float().cpu().numpy() for name, master_JI in known.items()}
