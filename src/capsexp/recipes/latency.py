"""The time that a trained network takes for one batch, for each way of inference."""

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
"""Number of timed passes for each way of inference, and the time limit in seconds."""


def latencies(module: L.LightningModule, data: ImageDataModule, trainer: L.Trainer | None = None) -> dict[str, float]:
    """Median milliseconds of a forward pass for each inference and batch size, as ``<inference>_batch<n>_ms``.

    Args:
        module: the module of a network that has master coefficients.
        data: source of the test images; a batch of more images than there are repeats them.
        trainer: sets device and precision; None for the network's present ones.
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
    """Restore the inference of each capsule layer and the mode of each module after the block."""
    sources = [(layer, layer.inference) for layer in capsule_layers(model).values()]
    modes = [(each, each.training) for each in model.modules()]
    try:
        yield
    finally:
        for layer, source in sources:
            layer.inference = source
        model.train(model.training)  # layers discard the matrices that they folded here
        for each, training in modes:
            each.training = training


@contextlib.contextmanager
def _place(module: L.LightningModule, trainer: L.Trainer | None) -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside the block, the module is on the trainer's device.  Yields a function that moves a batch there too."""
    if trainer is None:
        yield lambda images_BCHW: images_BCHW.to(module.device)
        return
    before, device, precision = module.device, trainer.strategy.root_device, trainer.precision_plugin
    module.to(device)  # a trainer moves it to the CPU after its work
    try:
        with precision.forward_context():
            yield lambda images_BCHW: cast("Tensor", precision.convert_input(images_BCHW.to(device)))
    finally:
        module.to(before)


def _images(data: ImageDataModule, count: int) -> Tensor:
    images_BCHW = next(iter(data.test_dataloader())).images_BCHW
    return images_BCHW.repeat(-(-count // len(images_BCHW)), 1, 1, 1)[:count]


def _seconds(model: nn.Module, images_BCHW: Tensor) -> Iterator[float]:
    model(images_BCHW)  # a warm-up: what is made only once is made here
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
