"""Master routing coefficients: the couplings of all training images, accumulated into one matrix per layer.

:func:`accumulate` does it in a plain loop; the callback of the same name does it while a Trainer predicts.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from capsexp.errors import require, require_choice
from capsexp.filters.base import Filter
from capsexp.filters.everything import Everything
from capsexp.metrics.coupling import ClassMean, MeanCoupling, ground_truth_columns
from capsexp.metrics.running import RunningMean
from capsexp.nn.capsules import CapsuleLayer, capsule_layers, set_inference
from capsexp.nn.passes import device_of, evaluation, images_of, labels_of
from capsexp.nn.routing_hooks import RoutingReader, class_layer
from capsexp.routing.base import Routing

COLUMNS = ("whole", "ground_truth")


class Masters(NamedTuple):
    """The result of :func:`accumulate`.

    Attributes:
        by_layer: the master (J, I) of each capsule layer, by its dotted name, float64 on the model's device.
        kept: share of the images whose couplings the filter kept, from 0 to 1.
    """

    by_layer: Mapping[str, Tensor]
    kept: float

    def __repr__(self) -> str:
        """The size of each master, in place of its numbers."""
        layers = ", ".join(f"{name}: {' x '.join(map(str, master.shape))}" for name, master in self.by_layer.items())
        return f"Masters({layers}; kept={self.kept:g})"


def accumulate(
    model: nn.Module, batches: Iterable[Any], *, filter: Filter | None = None, columns: str = "whole"
) -> Masters:
    """Compute the master of every capsule layer from the couplings of the training images, and set it there.

    Zhao et al. (2019), section 5 and appendix A.  Couplings are those of the last iteration, which weighted the poses.
    The couplings of the class layer (the last capsule layer of the model) are summed in one container per class,
    divided by the class' frequency, and normalised as in training.  Row k of the container of class k becomes row k of
    the master.  The master of another layer is the mean over all images and positions.  Only sums are kept, so memory
    does not grow with the images.

    The model runs in evaluation mode, without gradients and with routing; afterwards modes and inference are as before.
    :func:`capsexp.nn.set_inference` then lets it classify by the masters, which are part of its ``state_dict``.

    Args:
        model: a network with capsule layers, called with images (B, C, H, W).
        batches: (images, labels) per batch, whole numbers from 0 to K - 1; more entries of a batch are ignored.  A
            filter that looks at the images first takes ``filter.looks`` more passes, over the same images in one order,
            so ``batches`` is then no iterator: a list, or a ``DataLoader`` that does not shuffle.
        filter: selects the images whose couplings count in the class layer; None for all.
        columns: ``whole`` sums whole matrices and normalises each container before a row is taken; ``ground_truth``
            sums the ground-truth columns alone and normalises the resulting master, which the paper's appendix reports
            as poor.

    Returns:
        The masters, and the share of images that the filter kept.

    Raises:
        ConfigError: the model has no capsule layers or its images have another size; a batch has no labels, or labels
            that are no class; there are no batches, or other ones in another pass; a class has no image that is kept.

    Example:
        >>> import capsexp
        >>> from capsexp.models import CapsNet
        >>> from capsexp.nn import set_inference
        >>> from capsexp.routing import Dynamic
        >>> sizes = {"image_shape": (1, 8, 8), "classes": 2, "c1": 4, "c2": 4, "kernel": 3, "dim": 4, "decoder": None}
        >>> model = CapsNet(**sizes, routing=Dynamic)
        >>> masters = capsexp.accumulate(model, [(torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 0, 1, 0, 1]))])
        >>> masters.by_layer["class_capsules"].shape, masters.kept
        (torch.Size([2, 4]), 1.0)
        >>> set_inference(model, "folded")  # from now on without a routing loop
    """
    layers = capsule_layers(model)
    _, last = class_layer(model)
    for name, layer in layers.items():
        kind = type(layer.routing).__name__
        require(layer.routing.has_master, f"{name}.routing", "be one that has master coefficients", kind)
    sums = MasterSums(filter, columns)
    again = sums.passes == 1 or not isinstance(batches, Iterator)
    require(again, "batches", f"be no iterator, since the filter takes {sums.passes} passes", type(batches).__name__)
    seen = []
    with evaluation(model), _routed(model):
        for _ in range(sums.passes):
            seen.append(_pass(model, batches, sums, len(last.weight)))
            rule = "hold the same images in each pass, at least one"
            require(seen[-1] > 0 and seen[-1] == seen[0], "batches", rule, f"{seen} images")
            sums.end_pass()
    masters = sums.masters(model)
    for name, master_JI in masters.items():
        layers[name].set_master(master_JI)
    return Masters(masters, sums.kept)


def _pass(model: nn.Module, batches: Iterable[Any], sums: "MasterSums", classes: int) -> int:
    """One pass over the images; returns their number."""
    images, device = 0, device_of(model)
    sums.listen(model, device)
    try:
        for batch in batches:
            labels_B = labels_of(batch, device, classes)
            model(images_of(batch, device))
            sums.add(labels_B)
            images += len(labels_B)
    finally:
        sums.stop()
    return images


@contextmanager
def _routed(model: nn.Module) -> Iterator[None]:
    """A context in which every capsule layer routes; afterwards the source of its coupling is as before."""
    before = {layer: layer.inference for layer in capsule_layers(model).values()}
    set_inference(model, "dynamic")
    try:
        yield
    finally:
        for layer, inference in before.items():
            layer.inference = inference


class MasterSums:
    """The sums of :func:`accumulate`, pass by pass, for any loop that runs a model over its training images.

    A pass begins with :meth:`listen`; :meth:`add` follows each forward pass of the model; :meth:`stop` and
    :meth:`end_pass` end it.  There are :attr:`passes` of them, over the same images in one order.

    Args:
        filter: see :func:`accumulate`.
        columns: see :func:`accumulate`.
    """

    def __init__(self, filter: Filter | None = None, columns: str = "whole") -> None:
        self.filter = Everything() if filter is None else filter
        self.columns = require_choice("columns", columns, COLUMNS)
        self._pass = 0
        self._kept = RunningMean()
        self._reader = RoutingReader()

    @property
    def passes(self) -> int:
        """Number of passes over the training images: those of the filter, and one to accumulate."""
        return self.filter.looks + 1

    @property
    def kept(self) -> float:
        """Share of the images whose couplings were accumulated; NaN before the last pass."""
        return float(self._kept.compute())

    def listen(self, model: nn.Module, device: torch.device) -> None:
        """Create the accumulators before the first pass, and register the hooks."""
        if self._pass == 0:
            self._prepare(model, device)
        self._reader.listen(model)

    def add(self, labels_B: Tensor) -> None:
        """Pass the couplings of the last batch to the filter, or accumulate those that it keeps."""
        coupling_BJI = self._reader[self._class_name].output.coupling_BJI
        columns_BI = ground_truth_columns(coupling_BJI, labels_B)
        if self._pass < self.filter.looks:
            self.filter.observe(columns_BI, labels_B)
            return
        kept_B = self.filter.keep(columns_BI, labels_B)
        self._kept.update(kept_B.sum(), len(kept_B))
        self._containers.update(coupling_BJI, labels_B, kept_B)
        for name, mean in self._means.items():
            mean.update(self._reader[name].output.coupling_BJI, self._reader[name].mask_BI)

    def stop(self) -> None:
        """Remove the hooks from the model."""
        self._reader.stop()

    def discard(self) -> None:
        """Remove the hooks, and discard the passes so far."""
        self._pass = 0
        self._reader.stop()

    def end_pass(self) -> bool:
        """End a pass; True after the last one, when :meth:`masters` are known."""
        last = self._pass == self.filter.looks
        if not last:
            self.filter.end_look()
        self._pass = 0 if last else self._pass + 1
        return last

    def masters(self, model: nn.Module) -> dict[str, Tensor]:
        """The master (J, I) of each capsule layer from the accumulated couplings, float64.

        Raises:
            ConfigError: a class has no image whose couplings were accumulated.
        """
        return {name: self._master(name, layer) for name, layer in capsule_layers(model).items()}

    def _prepare(self, model: nn.Module, device: torch.device) -> None:
        self._class_name, layer = class_layer(model)
        parents, children = layer.weight.shape[0], layer.child_count
        self.filter.reset(parents, children)
        self._kept = RunningMean().to(device)
        self._containers = ClassMean(parents, parents, children).to(device)
        others = {name: each for name, each in capsule_layers(model).items() if each is not layer}
        sizes = {name: (each.weight.shape[0], each.child_count) for name, each in others.items()}
        self._means = {name: MeanCoupling(*size).to(device) for name, size in sizes.items()}

    def _master(self, name: str, layer: CapsuleLayer) -> Tensor:
        routing = cast("Routing", layer.routing)
        if name != self._class_name:
            return self._means[name].compute().nan_to_num(0.0)  # a child that was always absent casts no vote
        containers_KJI = self._containers.compute()
        empty = (self._containers.counts_K == 0).nonzero().flatten().tolist()
        rule = f"keep an image of every class (none of class {empty[:1]})"
        require(not empty, "filter", rule, type(self.filter).__name__)
        if self.columns == "ground_truth":
            return routing.normalise(_diagonal(containers_KJI)[None])[0]
        return _diagonal(routing.normalise(containers_KJI))


def _diagonal(containers_KJI: Tensor) -> Tensor:
    """Row k of container k, for every class: (K, I)."""
    return containers_KJI.diagonal(dim1=0, dim2=1).T.contiguous()
