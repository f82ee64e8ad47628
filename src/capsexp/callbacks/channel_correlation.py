"""The redundancy of the channels of a model's layers, measured on the test images."""

from typing import Any, cast

import lightning as L

from capsexp.callbacks.base import ResultCallback
from capsexp.losses.ccm import channel_correlation
from capsexp.metrics.running import RunningMean
from capsexp.nn.channels import FeatureMaps, Prunable
from capsexp.types import Batch


class ChannelCorrelation(ResultCallback):
    """Measures ``channel_correlation/<layer>`` and its mean over the layers in the last test.

    The value is the mean over the test's batches of :func:`~capsexp.losses.ccm.channel_correlation`.  It depends
    slightly on ``data.eval_batch_size``, since maps are averaged over a batch first, as in Sahu and Altahhan (2024).
    """

    def __init__(self) -> None:
        self._means: dict[str, RunningMean] = {}
        self._maps: FeatureMaps | None = None

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Register the hooks."""
        model = cast("Prunable", pl_module.model)
        self._means = {name: RunningMean().to(pl_module.device) for name in model.channel_layers()}
        self._maps = FeatureMaps(model)
        self._maps.listen()

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Add the correlations of a batch."""
        assert self._maps is not None
        for name, maps_BCHW in self._maps.last.items():
            self._means[name].update(channel_correlation(maps_BCHW) * len(batch.labels_B), len(batch.labels_B))

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the hooks from the model."""
        if self._maps is not None:
            self._maps.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the hooks from the model."""
        self.on_test_end(trainer, pl_module)

    def result_metrics(self, module: L.LightningModule) -> dict[str, float]:
        """The correlation of each layer and their mean, in 0..1."""
        found = {f"channel_correlation/{name}": float(mean.compute()) for name, mean in self._means.items()}
        if not found:
            return {}
        return {**found, "channel_correlation": sum(found.values()) / len(found)}
