"""How long one batch takes a trained network, by each way of inference."""

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import cast, get_args

import lightning as L
import torch
from torch import Tensor, nn

from capsexp.data.base import ImageDataModule
from capsexp.nn.capsules import Inference, capsule_layers, set_inference

BATCHES = (1, 128)
ROUNDS, SECONDS = 10, 0.5
"""A way is timed so often, but not longer than that."""


def latencies(module: L.LightningModule, data: ImageDataModule, trainer: L.Trainer | None = None) -> dict[str, float]:
    """Median milliseconds of a forward pass for each inference and size of batch, ``<inference>_batch<n>_ms``.

    Args:
        module: around a network that has its masters.
        data: its test images are used; a batch of more than there are repeats them.
        trainer: on its device, and in its precision; None for where and how the network is.
    """
    model = cast("nn.Module", module.model)
    found = {}
    with _as_it_was(model), _place(module, trainer) as prepare, torch.inference_mode():
        images_BCHW = prepare(_images(data, max(BATCHES)))
        model.eval()
        for inference in get_args(Inference):
            set_inference(model, inference)
            for size in BATCHES:
                found[f"{inference}_batch{size}_ms"] = 1e3 * statistics.median(_seconds(model, images_BCHW[:size]))
    return found


@contextlib.contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Put back behind the block where couplings come from, and which modules were training."""
    sources = [(layer, layer.inference) for layer in capsule_layers(model).values()]
    modes = [(each, each.training) for each in model.modules()]
    try:
        yield
    finally:
        for layer, source in sources:
            layer.inference = source
        model.train(model.training)  # layers forget what they folded here
        for each, training in modes:
            each.training = training


@contextlib.contextmanager
def _place(module: L.LightningModule, trainer: L.Trainer | None) -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside, the module is where a trainer has it while it works; gives what puts a batch there too."""
    if trainer is None:
        yield lambda images_BCHW: images_BCHW.to(module.device)
        return
    before, device, precision = module.device, trainer.strategy.root_device, trainer.precision_plugin
    module.to(device)  # behind its work a trainer leaves it on the CPU
    try:
        with precision.forward_context():
            yield lambda images_BCHW: cast("Tensor", precision.convert_input(images_BCHW.to(device)))
    finally:
        module.to(before)


def _images(data: ImageDataModule, count: int) -> Tensor:
    images_BCHW = next(iter(data.test_dataloader())).images_BCHW
    return images_BCHW.repeat(-(-count // len(images_BCHW)), 1, 1, 1)[:count]


def _seconds(model: nn.Module, images_BCHW: Tensor) -> Iterator[float]:
    model(images_BCHW)  # whatever is made once is made now
    ends = time.perf_counter() + SECONDS
    for _ in range(ROUNDS):
        _wait(images_BCHW)
        started = time.perf_counter()
        model(images_BCHW)
        _wait(images_BCHW)
        yield time.perf_counter() - started
        if time.perf_counter() > ends:
            return


def _wait(tensor: Tensor) -> None:
    if tensor.device.type == "cuda":
        torch.cuda.synchronize(tensor.device)
