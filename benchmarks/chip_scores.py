"""CHIP's channel independence: one eigendecomposition against C + 1 nuclear norms, milliseconds per image.

The reference is a loop of ``torch.linalg.matrix_norm(F, "nuc")``, once for the maps F (C, H x W) and once for each
channel set to zero.  Both get float32 maps, as after a ReLU, with every eighth channel dead; the loop computes in
float32, ours in float64.  They alternate, so that a busy machine slows both; times are medians, and ours scores a batch
at once.  The last two columns are the largest differences from the same loop in float64, relative to the largest score,
of ours and of the loop in float32; ours must be at most 1e-5.

With --network the four layers of the CIFAR10 capsule network with 20 capsules of 8 (Sahu & Altahhan 2024) are scored
on the given number of images, and the time for the 50,000 training images is extrapolated.  It does not include the
forward passes of the layers.

--json keeps the numbers in a file that is written anew after each line.

    python benchmarks/chip_scores.py [--threads 2] [--seconds 5] [--images 8] [--device cuda] [--network 64]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capsexp.pruning.base import Layer
from capsexp.pruning.chip import Chip

Shape = tuple[int, int, int]
GOALS: dict[Shape, int] = {(160, 7, 7): 50, (64, 16, 16): 50, (256, 15, 15): 100}
NETWORK: dict[str, Shape] = {
    "conv1": (40, 32, 32),
    "conv2": (80, 16, 16),
    "conv3": (160, 16, 16),
    "primary": (160, 7, 7),
}
TRAINING_IMAGES, BATCH = 50_000, 128
CLOSE = 1e-5


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="for a shape")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--images", type=int, default=8, help="in a batch of ours")
    parser.add_argument("--device", default="cpu", help="of ours and of the loop")
    parser.add_argument("--network", type=int, default=0, metavar="N", help="score a whole network on N images")
    parser.add_argument("--shapes", type=int, metavar="N", help="only the first N shapes")
    parser.add_argument("--turns", type=int, default=4, help="runs of both at least; the first is a warm-up")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE, after each line")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    settle_allocator()
    kept: dict[str, Any] = {"device": options.device, "shapes": []}
    if options.network:
        kept["network"] = network(options.network, options.device)
        keep(options.json, kept)
    print(f"{'shape':16}{'loop ms':>10}{'ours ms':>10}{'ratio':>8}{'goal':>8}{'off by':>10}{'loop':>10}")
    for shape in list(GOALS | dict.fromkeys(NETWORK.values(), 0))[: options.shapes]:
        kept["shapes"].append(row(shape, GOALS.get(shape), options))
        keep(options.json, kept)
        if not kept["shapes"][-1]["off_by"] <= CLOSE:
            raise SystemExit(f"error: scores must be the loop's to {CLOSE:g} of the largest")


def keep(path: Path | None, kept: dict[str, Any]) -> None:
    """Write what there is so far, if it is wanted."""
    if path:
        path.write_text(json.dumps(kept))


def maps(images: int, shape: Shape) -> Tensor:
    """(B, C, H, W), float32."""
    maps_BCHW = torch.randn(images, *shape).relu()
    maps_BCHW[:, ::8] = 0
    return maps_BCHW


# -- against the loop -------------------------------------------------------------------------------------------------


def row(shape: Shape, goal: int | None, options: argparse.Namespace) -> dict[str, Any]:
    """Print one line, and return its numbers."""
    maps_BCHW = maps(options.images, shape).to(options.device)
    image_CL = maps_BCHW[0].flatten(1)
    slow, ours = take_turns(lambda: loop(image_CL), lambda: scores(maps_BCHW), options)
    ours /= len(maps_BCHW)
    exact_C = loop(image_CL.double()).cpu()
    errors = [off(found_C, exact_C) for found_C in (scores(maps_BCHW[:1]), loop(image_CL).cpu())]
    name, target = "{}, {}x{}".format(*shape), f">= {goal}" if goal else ""
    print(
        f"{name:16}{slow:10.2f}{ours:10.3f}{slow / ours:8.0f}{target:>8}{errors[0]:10.1e}{errors[1]:10.1e}", flush=True
    )
    return {
        "shape": shape,
        "loop_ms": slow,
        "ours_ms": ours,
        "goal": goal,
        "off_by": errors[0],
        "loop_off_by": errors[1],
    }


def loop(maps_CL: Tensor) -> Tensor:
    """Channel independence by its definition."""
    maps_CL = maps_CL.clone()
    whole, scores = nuclear_norm(maps_CL), []
    for row_L in maps_CL:
        kept_L = row_L.clone()
        row_L.zero_()
        scores.append(whole - nuclear_norm(maps_CL))
        row_L.copy_(kept_L)
    return torch.stack(scores)


def nuclear_norm(maps_CL: Tensor) -> Tensor:
    """The sum of the singular values."""
    norm: Tensor = torch.linalg.matrix_norm(maps_CL, "nuc")
    return norm


def scores(maps_BCHW: Tensor) -> Tensor:
    """The scores of the criterion."""
    return Chip().scores(Layer("conv", torch.ones(maps_BCHW.shape[1], 1, 1, 1), maps_BCHW))


def off(found_C: Tensor, exact_C: Tensor) -> float:
    """The largest difference, relative to the largest score."""
    return ((found_C - exact_C).abs().max() / exact_C.max()).item()


# -- a whole network --------------------------------------------------------------------------------------------------


def network(images: int, device: str) -> dict[str, float]:
    """Print a line per layer, and the sum; return the seconds of each for the training images."""
    print(f"{'layer':16}{'ms / image':>12}{f'{TRAINING_IMAGES:,} images':>18}")
    times = {name: layer_seconds(images, shape, device) / images for name, shape in NETWORK.items()}
    times["together"] = sum(times.values())
    for name, each in times.items():
        print(f"{name:16}{1000 * each:12.3f}{each * TRAINING_IMAGES:16.0f} s")
    print()
    return {name: each * TRAINING_IMAGES for name, each in times.items()}


def layer_seconds(images: int, shape: Shape, device: str) -> float:
    """The time of the scores of a layer, batch by batch."""
    maps_BCHW = maps(images, shape).to(device)
    batches = [maps_BCHW[first : first + BATCH] for first in range(0, images, BATCH)]
    scores(batches[0][:1])  # a warm-up for one-time work
    return clock(lambda: [scores(batch_BCHW) for batch_BCHW in batches])


# -- measuring --------------------------------------------------------------------------------------------------------


def settle_allocator() -> None:
    """Free a block of 24 MB, as any producer of maps does: before, glibc returns each freed block to the system."""
    torch.zeros(24 * 2**20, dtype=torch.uint8)


def take_turns(
    first: Callable[[], object], second: Callable[[], object], options: argparse.Namespace
) -> tuple[float, float]:
    """Median milliseconds of each, without the first run, which is a warm-up."""
    times, until = [(clock(first), clock(second))], time.perf_counter() + options.seconds
    while len(times) < max(2, options.turns) or time.perf_counter() < until:
        times.append((clock(first), clock(second)))
    medians = [1000 * statistics.median(found) for found in zip(*times[1:], strict=True)]
    return medians[0], medians[1]


def clock(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
