"""The similarity of the filters of every convolution, per epoch."""

import lightning as L
import numpy as np
from numpy.typing import NDArray

from capsexp.callbacks.base import ResultCallback
from capsexp.callbacks.layers import convolutions
from capsexp.metrics.kernel_similarity import KernelSimilarity


class KernelSimilarityLogger(ResultCallback):
    """Logs ``similarity/<layer>/max`` and ``distance/<layer>/min`` of every convolution after each epoch.

    The result holds both for the best weights, and the kernels as ``kernels/<layer>`` (O, C, kH, kW).  A layer with one
    filter has no pair, so its values are NaN.

    Source: Wang (2019), section 2.1; the names are settled in docs/decisions.md.
    """

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log this epoch's values: those of the weights in training, whichever ones were validated."""
        for name, value in self.result_metrics(pl_module).items():
            pl_module.log(name, value)

    def result_metrics(self, module: L.LightningModule) -> dict[str, float]:
        """Both values of every convolution for the present weights."""
        found: dict[str, float] = {}
        for name, layer in convolutions(module.model).items():  # type: ignore[arg-type]
            metric = KernelSimilarity().to(layer.weight.device)
            metric.update(layer.weight)
            extremes = metric.compute()
            found[f"similarity/{name}/max"] = float(extremes.max)
            found[f"distance/{name}/min"] = float(extremes.min_distance)
        return found

    def result_arrays(self, module: L.LightningModule) -> dict[str, NDArray[np.generic]]:
        """The kernels of every convolution."""
        layers = convolutions(module.model)  # type: ignore[arg-type]
        return {f"kernels/{name}": layer.weight.detach().float().cpu().numpy() for name, layer in layers.items()}
