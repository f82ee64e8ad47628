"""One training step of many CNNs in a stack, as a ratio to the same networks one after the other.

The networks are the first N of the grid c2 x c3 in 16..2 of Wang's CNN, or N spread over it.  Each trains alone, as
cells do (torch's fused Adam, channels last in memory), or all of them in one stack, for each impl of the convolution
and number of width buckets: networks of similar widths share a part, so that less padding is computed.
A step is forward (with each member's own dropout noise), loss, backward and optimizer, on one batch of random 28x28
images that all share: 32 of 10 classes as for digits, or 128 of 46 as for DHCD.  Sides alternate, and on a CPU the
time of the process counts, so that other processes disturb little; the ratio is that of the medians.  Below 1 the stack
is faster.

    python benchmarks/stacked_forms.py [--members 8 32] [--buckets 1 2 4] [--impls grouped loop] [--spread] [--rounds 5]
"""

import argparse
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from turns import Work

from capsexp.models.cnn import CNN
from capsexp.stacking.adam import StackedAdam
from capsexp.stacking.convolutions import Impl
from capsexp.stacking.folding import Slots, fold, tensors_of

BATCHES = {"digits": (32, 10), "dhcd": (128, 46)}
"""Images in a batch, and classes."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--buckets", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--forms", nargs="+", choices=get_args(Impl), default=get_args(Impl))
    parser.add_argument("--batches", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--rounds", type=int, default=5, help="of all sides taking turns")
    parser.add_argument("--spread", action="store_true", help="networks from all over the grid")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for batch in options.batches:
        for count in options.members:
            compare(batch, count, options)


def compare(batch: str, count: int, options: argparse.Namespace) -> None:
    """Print a line for each impl and number of buckets."""
    images, classes = BATCHES[batch]
    images_BCHW = torch.randn(images, 1, 28, 28, device=options.device)
    labels_B = torch.arange(images, device=options.device) % classes
    models = grid(count, classes, options)
    sides = {"alone": one_by_one(models, images_BCHW, labels_B)}
    for impl in options.impls:
        for buckets in options.buckets:
            size = -(-count // buckets)
            parts = [models[start : start + size] for start in range(0, count, size)]
            sides[f"{impl:8s} {buckets}"] = [stacked(part, impl, images_BCHW, labels_B) for part in parts]
    times = medians(sides, options)
    print(f"{batch}, {count} members: {times['alone'] / count:.3f} ms a step of one alone")
    for name, milliseconds in times.items():
        print(
            f"  {name:10s} {milliseconds / count:8.3f} ms a member, ratio {milliseconds / times['alone']:.2f}",
            flush=True,
        )


def medians(sides: Mapping[str, Sequence[Work]], options: argparse.Namespace) -> dict[str, float]:
    """Median milliseconds of each side, after one round to warm up."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds + 1):
        for name, works in sides.items():
            times[name].append(clocked(works, options.device))
    return {name: statistics.median(each[1:]) for name, each in times.items()}


def clocked(works: Sequence[Work], device: str) -> float:
    """Milliseconds of all of them: time of the process on a CPU, or until a GPU is done."""
    clock = time.process_time if device == "cpu" else time.perf_counter
    started = clock()
    for work in works:
        work()
    if device != "cpu":
        torch.cuda.synchronize()
    return 1000 * (clock() - started)


def grid(count: int, classes: int, options: argparse.Namespace) -> list[nn.Module]:
    """Networks of the grid, the widest first."""
    widths = [(c2, c3) for c2 in range(16, 1, -1) for c3 in range(16, 1, -1)]
    if options.spread:
        widths = sorted(widths, key=math.prod, reverse=True)[:: len(widths) // count]
    given = {"image_shape": (1, 28, 28), "classes": classes}
    models = [CNN(**given, c2=c2, c3=c3).to(options.device) for c2, c3 in widths[:count]]
    for layer in (layer for model in models for layer in model.modules() if isinstance(layer, nn.Conv2d)):
        layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return list(models)


def one_by_one(models: Sequence[nn.Module], images_BCHW: Tensor, labels_B: Tensor) -> list[Work]:
    """A step of each network alone."""
    return [alone(model, images_BCHW, labels_B) for model in models]


def alone(model: nn.Module, images_BCHW: Tensor, labels_B: Tensor) -> Work:
    """A step of one network."""
    optimizer = make_optimizer(model)

    def work() -> None:
        loss = F.cross_entropy(model(images_BCHW), labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return work


def stacked(models: Sequence[nn.Module], impl: Impl, images_BCHW: Tensor, labels_B: Tensor) -> Work:
    """A step of networks that are trained as a stack."""
    folded, shared = fold(models, impl)
    tensors = [tensors_of(model) for model in models]
    shapes = [{name: tensor.shape for name, tensor in own.items()} for own in tensors]
    Slots(tensors_of(folded), shapes).load(tensors)
    parameters: list[Any] = [dict(model.named_parameters()) for model in models]
    optimizer = StackedAdam(dict(folded.named_parameters()), parameters, decoupled=False)
    optimizer.load([make_optimizer(model) for model in models], parameters)
    shared.generators = [torch.Generator(images_BCHW.device).manual_seed(number) for number in range(len(models))]
    labels_BN = labels_B[:, None].expand(-1, len(models))

    def work() -> None:
        scores_BKN = folded(images_BCHW).unflatten(1, (len(models), -1)).transpose(1, 2)
        losses_N = F.cross_entropy(scores_BKN, labels_BN, reduction="none").mean(0)
        optimizer.zero_grad()
        losses_N.sum().backward()
        optimizer.step()

    return work


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """As Wang (2019), section 4."""
    return torch.optim.Adam(model.parameters(), lr=5e-4, weight_decay=1e-6, fused=True)


if __name__ == "__main__":
    main()
