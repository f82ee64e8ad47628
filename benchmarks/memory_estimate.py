"""The memory of a training step: the estimate and the measurement.

Each case runs in a separate process, on a CPU: the growth of its resident memory (VmHWM, Linux only) over three
steps, parameters and batch included, against the number of capsexp.memory_estimate.  The cases are Wang's CNN, our
capsule network with its decoder, and a plain one that keeps all votes (two convolutions, 1152 capsules, ten classes,
three rounds of routing), in both precisions that are useful on a CPU.  Steps of less than 300 MB are printed, but
not counted: the memory of the libraries themselves has too large a share.

With --device cuda all cases run in one process, and the measurement is the growth of torch's peak of allocated memory;
``reserved`` is what its allocator took from the device for it.  --json keeps the numbers in a file that is written anew
after each case.

    python benchmarks/memory_estimate.py [--threads 1] [--only capsules] [--device cuda]
"""

import argparse
import contextlib
import ctypes
import functools
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.lightning_modules.base import BaseModule
from capsexp.lightning_modules.capsnet import CapsNetModule
from capsexp.lightning_modules.classifier import ClassifierModule
from capsexp.memory_estimate import training_step_bytes
from capsexp.models.capsnet import CapsNet
from capsexp.models.cnn import CNN
from capsexp.routing.dynamic import Dynamic
from capsexp.types import Batch

CASES = [
    *(("cnn", 6, size, "32-true") for size in (256, 2048, 4096, 8192)),
    ("cnn", 64, 2048, "32-true"),
    *(("capsnet", 256, size, "32-true") for size in (64, 128, 256)),
    *(("capsules", 256, size, "32-true") for size in (32, 64, 128, 256)),
    *(("capsules", width, 128, "32-true") for width in (32, 64)),
    ("cnn", 6, 8192, "bf16-mixed"),
    ("capsnet", 256, 256, "bf16-mixed"),
    ("capsules", 256, 128, "bf16-mixed"),
    ("capsules", 64, 256, "bf16-mixed"),
]
"""Net, filters of its first convolution, images in a batch, precision."""

COUNTED = 300e6
"""Smallest number of bytes of a step that counts."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="a net's name")
    parser.add_argument("--largest", type=int, help="only batches of no more images")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--case", type=int, help="measure this one here and print JSON")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to FILE, after each case")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.case is not None:
        print(json.dumps(measured(*CASES[given.case])))
        return
    print(f"{'net':9} {'width':>5} {'batch':>5} {'precision':10} {'estimate':>9} {'measured':>9} {'ratio':>6}")
    found = []
    for number, (net, _, size, _) in enumerate(CASES):
        if given.only in net and size <= (given.largest or size):
            found.append(show(number, given))
            if given.json:
                given.json.write_text(json.dumps({"device": given.device, "counted": COUNTED, "cases": found}))
    counted = [case["estimate"] / case["measured"] for case in found if case["measured"] >= COUNTED]
    if counted:
        print(f"ratios from {min(counted):.3f} to {max(counted):.3f} where a step takes {COUNTED / 1e6:.0f} MB or more")


def show(number: int, given: argparse.Namespace) -> dict[str, Any]:
    """Run a case, print its line and return its numbers."""
    net, width, batch, precision = CASES[number]
    if given.device == "cpu":
        line = [sys.executable, __file__, "--case", str(number), "--threads", str(given.threads)]
        estimate, took = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
        more = {}
    else:
        estimate, took, reserved = measured_on_gpu(net, width, batch, precision)
        more = {"reserved": reserved}
    sizes = f"{estimate / 1e6:6.0f} MB {took / 1e6:6.0f} MB {estimate / took:6.3f}"
    print(f"{net:9} {width:5} {batch:5} {precision:10} {sizes}", flush=True)
    case = {"net": net, "width": width, "batch": batch, "precision": precision}
    return {**case, "estimate": estimate, "measured": took, **more}


def measured(net: str, width: int, size: int, precision: str) -> tuple[int, int]:
    """Bytes by the estimate, and by the resident memory of the process."""
    train(made(net, 8), images(2), precision)  # a warm-up: memory of the libraries does not count
    estimate = training_step_bytes(made(net, width), images(size), autocast(precision))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present resident memory
    before = resident("VmRSS")
    train(made(net, width), images(size), precision)
    return estimate, resident("VmHWM") - before


def measured_on_gpu(net: str, width: int, size: int, precision: str) -> tuple[int, int, int]:
    """Bytes by the estimate, by the peak of what torch allocated, and by that of what it took from the GPU."""
    train(made(net, 8, "cuda"), images(2, "cuda"), precision)  # cuBLAS keeps the workspaces of its first use
    estimate = training_step_bytes(made(net, width, "cuda"), images(size, "cuda"), autocast(precision, "cuda"))
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    torch.cuda.reset_peak_memory_stats()
    train(made(net, width, "cuda"), images(size, "cuda"), precision)
    torch.cuda.synchronize()
    return estimate, torch.cuda.max_memory_allocated() - allocated, torch.cuda.max_memory_reserved() - reserved


def train(module: BaseModule, batch: Batch, precision: str) -> None:
    """Three steps in Lightning's order."""
    optimizer = module.configure_optimizers()
    for _ in range(3):
        with autocast(precision, batch.images_BCHW.device.type):
            loss = module.shared_step(batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def made(net: str, width: int, device: str = "cpu") -> BaseModule:
    """A module around a net with this number of filters in its first convolution."""
    adam = functools.partial(torch.optim.Adam, lr=1e-3, fused=True)
    if net == "capsnet":
        model = CapsNet(image_shape=(1, 28, 28), classes=10, routing=Dynamic, c1=width)
        return CapsNetModule(model=model, make_optimizer=adam, sizes={}).to(device)
    plain = CNN(image_shape=(1, 28, 28), classes=46, c1=width) if net == "cnn" else Capsules(width)
    return ClassifierModule(plain, adam, {}).to(device)


def images(size: int, device: str = "cpu") -> Batch:
    """A batch of 28x28 gray images."""
    pixels = torch.randint(256, (size, 1, 28, 28), dtype=torch.uint8, device=device)
    return Batch(pixels / 255, torch.randint(10, (size,), device=device), pixels)


def autocast(precision: str, device: str = "cpu") -> Any:
    """The context in which Lightning runs the forward pass."""
    mixed = precision == "bf16-mixed"
    return torch.autocast(device, dtype=torch.bfloat16) if mixed else contextlib.nullcontext()


def resident(field: str) -> int:
    """Memory of this process in bytes, as reported by Linux."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return next(int(words[1]) * 1024 for words in lines if words[0] == f"{field}:")


class Capsules(nn.Module):
    """32 x 6 x 6 capsules of 8 values, ten of 16, in plain code without any functions that save memory."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, width, 9), nn.Conv2d(width, 256, 9, stride=2)
        self.weight = nn.Parameter(torch.randn(1152, 10, 8, 16) * 0.05)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Lengths (B, 10) of the classes' capsules."""
        maps = self.conv2(F.relu(self.conv1(images_BCHW)))
        votes = torch.einsum("bid,ijde->bije", squash(maps.reshape(len(maps), -1, 8)), self.weight)
        logits = torch.zeros(votes.shape[:3], device=votes.device)
        for _ in range(3):
            poses = squash(torch.einsum("bij,bije->bje", logits.softmax(2), votes))
            logits = logits + torch.einsum("bije,bje->bij", votes, poses)
        return poses.norm(dim=-1)


def squash(poses: Tensor) -> Tensor:
    """Vectors with lengths below 1."""
    square = poses.square().sum(-1, keepdim=True)
    return poses * square / (1 + square) / (square + 1e-7).sqrt()


if __name__ == "__main__":
    main()
