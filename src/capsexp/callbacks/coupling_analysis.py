"""Correlations of the couplings within and between classes, and the lengths of the class capsules."""

from typing import Any, cast

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capsexp.callbacks.base import ResultCallback
from capsexp.errors import require_int
from capsexp.metrics.coupling import ClassMean, ColumnCorrelation, FirstColumns, ground_truth_columns, intra_inter
from capsexp.nn.routing_hooks import ClassReader, class_layer
from capsexp.types import Batch


class CouplingAnalysis(ResultCallback):
    """Collects the data of figures 2, 3, 5, 6 and 7 of Zhao et al. (2019) while a Trainer predicts and tests.

    Correlations come from a prediction of the training images, class lengths from the tests.  Set :attr:`source` before
    each test to ``dynamic`` if the network routes, or to ``fast`` if it uses its master.

    Args:
        correlated: training images of figure 2.
        shown: test images of figure 6.
    """

    def __init__(self, correlated: int = 100, shown: int = 5) -> None:
        self.correlated = require_int("correlated", correlated, 2)
        self.shown = require_int("shown", shown, 1)
        self.source = "dynamic"
        self._classes: ColumnCorrelation | None = None
        self._responses: dict[str, ClassMean] = {}
        self._lengths: dict[str, Tensor] = {}
        self._labels = self._pixels = torch.empty(0)
        self._reader = ClassReader()

    # -- training images ----------------------------------------------------------------------------------------------

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Register the hooks in the first prediction."""
        model = cast("nn.Module", pl_module.model)
        self._first_pass = self._classes is None
        if self._first_pass:
            _, layer = class_layer(model)
            parents, children = layer.weight.shape[0], layer.child_count
            self._classes = ColumnCorrelation(parents, children).to(pl_module.device)
            self._first = FirstColumns(self.correlated, children).to(pl_module.device)
            self._reader.listen(model)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Add a batch of training images."""
        if self._first_pass:
            assert self._classes is not None
            columns_BI = ground_truth_columns(self._reader.last.coupling_BJI, batch.labels_B)
            self._classes.update(columns_BI, batch.labels_B)
            self._first.update(columns_BI, batch.labels_B)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the hooks."""
        self._reader.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the hooks."""
        self._reader.stop()

    # -- test images --------------------------------------------------------------------------------------------------

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the responses of the present source, and register the hooks."""
        model = cast("nn.Module", pl_module.model)
        classes = len(class_layer(model)[1].weight)
        self._responses[self.source] = ClassMean(classes, classes).to(pl_module.device)
        self._lengths.pop(self.source, None)
        self._labels = self._pixels = torch.empty(0)
        self._reader.listen(model)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Add a batch of test images; the first ones are the examples."""
        lengths_BK = self._reader.last.activations_BJ
        self._responses[self.source].update(lengths_BK, batch.labels_B)
        wanted = self.shown - len(self._labels)
        if wanted > 0:
            self._labels = _joined(self._labels, batch.labels_B[:wanted])
            self._pixels = _joined(self._pixels, batch.pixels_BCHW[:wanted])
            self._lengths[self.source] = _joined(self._lengths.get(self.source), lengths_BK[:wanted])

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the hooks."""
        self._reader.stop()

    # -- results ------------------------------------------------------------------------------------------------------

    def result_metrics(self, module: L.LightningModule) -> dict[str, float]:
        """``correlation/classes/intra`` and ``inter``, and the same for the master: means over classes and pairs."""
        return {
            f"correlation/{name}/{kind}": value
            for name, matrix in self._correlations(module).items()
            for kind, value in intra_inter(matrix)._asdict().items()
        }

    def result_arrays(self, module: L.LightningModule) -> dict[str, NDArray[np.generic]]:
        """The matrices and curves of the five figures."""
        arrays = {f"correlation/{name}": matrix for name, matrix in self._correlations(module).items()}
        if self._classes is not None:
            arrays["correlation/images"], arrays["correlation/images/labels"] = self._first.compute()
        for source, responses in self._responses.items():
            arrays[f"tuning/{source}"] = responses.compute()
            arrays[f"probabilities/{source}"] = self._lengths[source]
        if len(self._labels):
            arrays["probabilities/labels"] = self._labels
            arrays["probabilities/images"] = self._pixels.round().to(torch.uint8)
        return {name: _plain(tensor) for name, tensor in arrays.items()}

    def _correlations(self, module: L.LightningModule) -> dict[str, Tensor]:
        if self._classes is None:
            return {}
        found = {"classes": self._classes.compute()}
        _, layer = class_layer(cast("nn.Module", module.model))
        if layer.master_JI is not None:
            found["master"] = self._classes.with_master(layer.master_JI)
        return found


def _joined(known: Tensor | None, more: Tensor) -> Tensor:
    return more.clone() if known is None or not len(known) else torch.cat([known, more])


def _plain(tensor: Tensor) -> NDArray[np.generic]:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
