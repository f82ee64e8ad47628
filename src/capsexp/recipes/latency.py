"""How long one batch takes a trained network, by each way of inference."""

import statistics
import time
from collections.abc import Iterator
from typing import cast

import lightning as L
import torch
from torch import Tensor, nn

from capsexp.data.base import ImageDataModule
from capsexp.nn.capsules import Inference, capsule_layers, set_inference

WAYS: dict[str, Inference] = {"dynamic": "routing", "fast": "votes", "folded": "folded"}
"""``fast`` is the paper's form: votes, then one weighted sum."""

BATCHES = (1, 128)
ROUNDS, SECONDS = 10, 0.5
"""A way is timed so often, but not longer than that."""


def latencies(module: L.LightningModule, data: ImageDataModule) -> dict[str, float]:
    """Median milliseconds of a forward pass for each way and size of batch, ``<way>_batch<n>_ms``.

    The network must have its masters.  Test images; a batch of more than there are repeats them.
    """
    model = cast("nn.Module", module.model)
    before = {name: layer.inference for name, layer in capsule_layers(model).items()}
    images_BCHW = _images(data, max(BATCHES)).to(module.device)
    found = {}
    with torch.inference_mode():
        model.eval()
        for way, inference in WAYS.items():
            set_inference(model, inference)
            for size in BATCHES:
                found[f"{way}_batch{size}_ms"] = 1e3 * statistics.median(_seconds(model, images_BCHW[:size]))
    for name, layer in capsule_layers(model).items():
        layer.inference = before[name]
    return found


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
