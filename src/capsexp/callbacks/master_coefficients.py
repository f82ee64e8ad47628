"""Master routing coefficients: the couplings of all training images, accumulated into one matrix per layer."""

from typing import Any, cast

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from capsexp.callbacks.base import ResultCallback
from capsexp.callbacks.routing_hooks import RoutingReader, class_layer
from capsexp.errors import require, require_choice
from capsexp.filters.base import Filter
from capsexp.filters.everything import Everything
from capsexp.metrics.coupling import ClassMean, MeanCoupling, ground_truth_columns
from capsexp.metrics.running import RunningMean
from capsexp.nn.capsules import CapsuleLayer, capsule_layers
from capsexp.routing.base import Routing
from capsexp.types import Batch

COLUMNS = ("whole", "ground_truth")


class MasterCoefficients(ResultCallback):
    """Computes the master of every capsule layer while a Trainer predicts the training images.

    Zhao et al. (2019), section 5 and appendix A.  Couplings are those of the last iteration, which weighted the poses.
    The couplings of the class layer are summed in one container per class, divided by the class' frequency, and
    normalised as in training.  Row k of the container of class k becomes row k of the master.  The master of another
    layer is the mean over all images and positions.  Only sums are kept, so memory does not grow with the images.

    The callback needs :attr:`passes` predictions of the training images, in one order.

    Args:
        filter: selects the images whose couplings count in the class layer.
        columns: ``whole`` sums whole matrices and normalises each container before a row is taken; ``ground_truth``
            sums the ground-truth columns alone and normalises the resulting master, which the paper's appendix reports
            as poor.
    """

    def __init__(self, filter: Filter | None = None, columns: str = "whole") -> None:
        self.filter = Everything() if filter is None else filter
        self.columns = require_choice("columns", columns, COLUMNS)
        self._pass = 0
        self._kept = RunningMean()
        self._reader = RoutingReader()

    @property
    def _filter_name(self) -> str:
        return type(self.filter).__name__

    @property
    def passes(self) -> int:
        """Number of passes over the training images: those of the filter, and one to accumulate."""
        return self.filter.looks + 1

    # -- Lightning's hooks --------------------------------------------------------------------------------------------

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Create the accumulators before the first pass, and register the hooks."""
        model = cast("nn.Module", pl_module.model)
        if self._pass == 0:
            self._prepare(model, pl_module.device)
        self._reader.listen(model)

    def on_predict_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """Pass a batch to the filter, or accumulate the couplings that it keeps."""
        coupling_BJI = self._reader[self._class_name].output.coupling_BJI
        columns_BI = ground_truth_columns(coupling_BJI, batch.labels_B)
        if self._pass < self.filter.looks:
            self.filter.observe(columns_BI, batch.labels_B)
            return
        kept_B = self.filter.keep(columns_BI, batch.labels_B)
        self._kept.update(kept_B.sum(), len(kept_B))
        self._containers.update(coupling_BJI, batch.labels_B, kept_B)
        for name, mean in self._means.items():
            mean.update(self._reader[name].output.coupling_BJI, self._reader[name].mask_BI)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remove the hooks."""
        self._reader.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the hooks, and discard the passes so far."""
        self._pass = 0
        self._reader.stop()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Set each layer's master after the last pass; predictions themselves run in inference mode."""
        if stage != "predict":
            return
        if self._pass < self.filter.looks:
            self.filter.end_look()
            self._pass += 1
            return
        for name, layer in capsule_layers(cast("nn.Module", pl_module.model)).items():
            layer.set_master(self.master(name, layer))
        self._pass = 0

    # -- the arithmetic -----------------------------------------------------------------------------------------------

    def _prepare(self, model: nn.Module, device: torch.device) -> None:
        self._class_name, layer = class_layer(model)
        parents, _, _, children = layer.weight.shape
        self.filter.reset(parents, children)
        self._kept = RunningMean().to(device)
        self._containers = ClassMean(parents, parents, children).to(device)
        others = {name: each for name, each in capsule_layers(model).items() if each is not layer}
        sizes = {name: (each.weight.shape[0], each.weight.shape[3]) for name, each in others.items()}
        self._means = {name: MeanCoupling(*size).to(device) for name, size in sizes.items()}

    def master(self, name: str, layer: CapsuleLayer) -> Tensor:
        """The master (J, I) of a layer from the accumulated couplings."""
        routing = cast("Routing", layer.routing)
        if name != self._class_name:
            return self._means[name].compute().nan_to_num(0.0)  # a child that was always absent casts no vote
        containers_KJI = self._containers.compute()
        empty = (self._containers.counts_K == 0).nonzero().flatten().tolist()
        require(not empty, "filter", f"keep an image of every class (none of class {empty[:1]})", self._filter_name)
        if self.columns == "ground_truth":
            return routing.normalise(_diagonal(containers_KJI)[None])[0]
        return _diagonal(routing.normalise(containers_KJI))

    # -- results ------------------------------------------------------------------------------------------------------

    def result_metrics(self, module: L.LightningModule) -> dict[str, float]:
        """``filter/kept``: the share of the training images whose couplings were accumulated."""
        return {"filter/kept": float(self._kept.compute())}

    def result_arrays(self, module: L.LightningModule) -> dict[str, NDArray[np.generic]]:
        """``master/<layer>`` (J, I)."""
        layers = capsule_layers(cast("nn.Module", module.model))
        known = {name: layer.master_JI for name, layer in layers.items() if layer.master_JI is not None}
        return {f"master/{name}": master_JI.float().cpu().numpy() for name, master_JI in known.items()}


def _diagonal(containers_KJI: Tensor) -> Tensor:
    """Row k of container k, for every class: (K, I)."""
    return containers_KJI.diagonal(dim1=0, dim2=1).T.contiguous()
