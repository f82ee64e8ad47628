"""Time and memory of deep capsule networks: one intermediate layer against plain PyTorch, and whole networks by depth.

The layer: 20 types of 8 for 20 types of 8 on 7x7 positions, kernel 3, padding 1, 3 iterations of dynamic routing, batch
32.  Its reference cuts the windows with F.unfold, keeps their votes as one tensor by ``einsum`` and leaves the rest to
autograd.  Both alternate, so that a busy machine slows both; times are medians of forward, sum of squares, backward.
Saved is the memory that autograd holds between the two passes, each piece counted once, without parameters on both
sides; peak is the largest memory during such a pass, as capsexp.memory_estimate counts it, with parameters and
gradients.

The networks: C20D8 by Sahu and Altahhan (2024) with I intermediate layers, 32x32x3 images, ten classes, batch 32,
margin loss, Adam, initial weights that preserve lengths; without and with ``recompute``.  Each runs in a separate
process.  Measured is the growth of its resident memory (VmHWM, Linux only) over the steps, parameters and batch
included, next to the number of capsexp.memory_estimate; the time of a step is the median.

    python benchmarks/deep_capsnet.py [--threads 1] [--depths 0 5 10 20 30] [--seconds 10]
"""

import argparse
import ctypes
import functools
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from turns import clock, take_turns

from capsexp.lightning_modules.base import BaseModule
from capsexp.lightning_modules.capsnet import CapsNetModule
from capsexp.memory_estimate import trace, training_step_bytes
from capsexp.models.deep_capsnet import DeepCapsNet
from capsexp.nn.capsules import ConvCapsules
from capsexp.nn.functional import squash
from capsexp.routing.dynamic import Dynamic
from capsexp.types import Batch, StepOutput

BATCH, TYPES, DIM, SIDE = 32, 20, 8, 7
DEPTHS = (0, 5, 10, 20, 30)
LIMIT = 8e9
"""Limit of the memory of the deepest network, in bytes."""

Forward = Callable[[], Tensor]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS, help="numbers of intermediate layers")
    parser.add_argument("--seconds", type=float, default=10, help="for the layer, and for each network")
    parser.add_argument("--case", type=int, nargs=2, help="depth and recompute (0 or 1): measure here and print JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.case is not None:
        print(json.dumps(measured(options.case[0], bool(options.case[1]), options.seconds)))
        return
    layer_rows(options.seconds)
    network_rows(options.depths, options.threads, options.seconds)


# -- one layer --------------------------------------------------------------------------------------------------------


class PlainCapsules(nn.Module):
    """The same layer with its votes built, under autograd."""

    def __init__(self, layer: ConvCapsules) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().permute(3, 0, 2, 1).contiguous())

    def forward(self, poses_BTDHW: Tensor) -> Tensor:
        """Poses of all windows (B*L, J, E)."""
        batch, types, dim = poses_BTDHW.shape[:3]
        columns = F.unfold(poses_BTDHW.flatten(1, 2), 3, padding=1).view(batch, types, dim, 9, -1)
        windows_BID = columns.permute(0, 4, 1, 3, 2).reshape(-1, types * 9, dim)
        return routed(torch.einsum("bid,ijde->bije", windows_BID, self.weight))


def routed(votes_BIJE: Tensor) -> Tensor:
    """Dynamic routing, three iterations."""
    logits_BIJ = votes_BIJE.new_zeros(votes_BIJE.shape[:3])
    for left in (2, 1, 0):
        parents_BJE = squash(torch.einsum("bij,bije->bje", logits_BIJ.softmax(2), votes_BIJE))
        if left:
            logits_BIJ = logits_BIJ + torch.einsum("bije,bje->bij", votes_BIJE, parents_BJE)
    return parents_BJE


class OneLayer(BaseModule):
    """A training step through one layer alone, in the form for capsexp.memory_estimate."""

    def shared_step(self, batch: Batch) -> StepOutput:
        """The sum of squares; the images are the input poses, and need a gradient."""
        poses = self.model(batch.images_BCHW.requires_grad_())
        poses = poses if isinstance(poses, Tensor) else poses.poses_BJE
        return StepOutput(poses.square().sum(), poses)


def layer_rows(seconds: float) -> None:
    """Times and memory of both, and the ratio of ours to the reference."""
    ours = ConvCapsules(TYPES, TYPES, DIM, DIM, Dynamic)
    plain = PlainCapsules(ours)
    poses = squash(torch.randn(BATCH, TYPES, DIM, SIDE, SIDE), 2).requires_grad_()
    ways: tuple[Forward, Forward] = partial(plain, poses), lambda: ours(poses).poses_BJE
    times = take_turns(*(partial(train, way) for way in ways), seconds)
    print(f"{'one layer C20D8, batch 32':32}{'reference':>11}{'ours':>9}{'ratio':>8}{'goal':>8}")
    row("forward and backward, ms", *map(statistics.median, times), "1.10")
    row("saved for backward, MB", *(saved(way) / 1e6 for way in ways), "0.50")
    row("peak of the pass, MB", *(peak(layer, poses) / 1e6 for layer in (plain, ours)), "0.50")


def row(what: str, reference: float, ours: float, goal: str) -> None:
    """One line of the first table."""
    print(f"{what:32}{reference:11.1f}{ours:9.1f}{ours / reference:8.2f}{'<= ' + goal:>8}", flush=True)


def train(forward: Forward) -> None:
    """Forward and backward; both sides accumulate gradients."""
    forward().square().sum().backward()


def saved(forward: Forward) -> int:
    """Bytes that autograd holds after the forward pass, without parameters."""
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = forward()  # kept alive, so that no memory is reused
    del alive
    return sum(held.values())


def peak(layer: nn.Module, poses: Tensor) -> int:
    """Peak of the allocated bytes."""
    module = OneLayer(model=layer, make_optimizer=partial(torch.optim.SGD, lr=0.0), sizes={})  # SGD keeps nothing
    return trace(module, Batch(poses.detach(), torch.zeros(BATCH), torch.zeros(1))).live


# -- whole networks ---------------------------------------------------------------------------------------------------


def network_rows(depths: list[int], threads: int, seconds: float) -> None:
    """Print a line per depth, without and with recomputation."""
    print(f"\n{'C20D8, batch 32':16}{'recompute':>10}{'step ms':>9}{'estimate MB':>13}{'measured MB':>13}{'goal':>9}")
    for depth in depths:
        for recompute in (0, 1) if depth else (0,):
            line = [sys.executable, __file__, "--case", str(depth), str(recompute)]
            line += ["--threads", str(threads), "--seconds", str(seconds)]
            step, estimate, took = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
            sizes = f"{estimate / 1e6:13.0f}{took / 1e6:13.0f}"
            goal = f"{'< ' + format(LIMIT / 1e6, '.0f'):>9}" if depth == max(DEPTHS) else ""
            name, again = f"I = {depth}", "yes" if recompute else "no"
            print(f"{name:16}{again:>10}{step:9.0f}{sizes}{goal}", flush=True)


def measured(depth: int, recompute: bool, seconds: float) -> tuple[float, int, int]:
    """Milliseconds of a step, the estimate of its bytes, and the measured growth of the resident memory."""
    Steps(0, False, 2)()  # a warm-up: memory that the libraries load at their first use does not count
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present resident memory
    before = resident("VmRSS")
    step = Steps(depth, recompute, BATCH)
    step()
    times, until = [], time.perf_counter() + seconds
    while len(times) < 2 or time.perf_counter() < until:
        times.append(clock(step))
    took = resident("VmHWM") - before
    return statistics.median(times), training_step_bytes(step.module, step.batch), took


class Steps:
    """A network in training: a call is one step, in Lightning's order."""

    def __init__(self, depth: int, recompute: bool, size: int) -> None:
        model = DeepCapsNet(
            image_shape=(3, 32, 32),
            classes=10,
            routing=Dynamic,
            capsules=TYPES,
            dim=DIM,
            depth=depth,
            intermediate_std="preserving",  # else poses fade, and processors are slow with numbers close to zero
            recompute=recompute,
        )
        adam = functools.partial(torch.optim.Adam, lr=1e-3, fused=True)
        self.module = CapsNetModule(model=model, make_optimizer=adam, sizes={})
        pixels = torch.randint(256, (size, 3, 32, 32), dtype=torch.uint8)
        self.batch = Batch(pixels / 255, torch.randint(10, (size,)), pixels)
        self.optimizer = self.module.configure_optimizers()

    def __call__(self) -> None:
        """Forward, backward, Adam."""
        loss = self.module.shared_step(self.batch).loss
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def resident(field: str) -> int:
    """Memory of this process in bytes, as reported by Linux."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == f"{field}:")


if __name__ == "__main__":
    main()
