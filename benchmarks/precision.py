"""CPU time of a training step in bfloat16 against float32, on the processor at hand.

A step is forward pass, sum of squares, backward pass and Adam's update; under ``bf16`` the forward pass runs under
autocast, as with ``trainer.precision=bf16-mixed``.  The networks are the CNN of Wang (2019) for DHCD with batch 256 and
capsule networks for 28x28 images, with three iterations of routing and batch 64.  Both precisions alternate; times are
CPU milliseconds of this process, with one thread, so that other work on the machine matters less.  The first line says
which instructions for bfloat16 the processor has.

    python benchmarks/precision.py [--steps 5] [--rounds 5]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from capsexp.models.capsnet import CapsNet
from capsexp.models.cnn import CNN
from capsexp.routing.dynamic import Dynamic

FLAGS = ("avx512f", "avx512_bf16", "amx_bf16")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5, help="per measurement")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each precision")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"instructions of the processor: {', '.join(instructions()) or 'none of these'}")
    print(f"{'network':28}{'float32 ms':>24}{'bf16 ms':>24}{'ratio':>8}")
    for name, net, images in networks():
        step = training(net, images)
        times: dict[bool, list[float]] = {False: [], True: []}
        for number in range(options.rounds + 1):
            for is_half in (False, True):
                spent = measured(step, is_half, options.steps)
                if number:  # the first is a warm-up
                    times[is_half].append(spent)
        ratio = statistics.median(times[False]) / statistics.median(times[True])
        print(f"{name:28}{words(times[False]):>24}{words(times[True]):>24}{ratio:8.2f}", flush=True)


def instructions() -> list[str]:
    """Those of :data:`FLAGS` that the processor has; empty where the system does not tell."""
    info = Path("/proc/cpuinfo")
    found = info.read_text().split() if info.exists() else []
    return [flag for flag in FLAGS if flag in found]


def networks() -> list[tuple[str, nn.Module, Tensor]]:
    """Name, network and images."""
    made: list[tuple[str, nn.Module, Tensor]] = []
    for width in (16, 6):
        cnn = CNN(image_shape=(1, 28, 28), classes=46, c2=width, c3=width)
        made.append((f"CNN 6/{width}/{width}", cnn, torch.randn(256, 1, 28, 28)))
    for width in (64, 128, 256):
        capsnet = CapsNet(image_shape=(1, 28, 28), classes=10, routing=Dynamic, decoder=None, c1=width, c2=width)
        made.append((f"CapsNet {width}/{width}", capsnet, torch.rand(64, 1, 28, 28)))
    return made


def training(net: nn.Module, images: Tensor) -> Callable[[bool], None]:
    """A training step; its argument says whether it is in bfloat16."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-5)

    def step(is_half: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
            found = net(images)
        found.float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measured(step: Callable[[bool], None], is_half: bool, steps: int) -> float:
    """CPU milliseconds per step."""
    before = time.process_time()
    for _ in range(steps):
        step(is_half)
    return 1000 * (time.process_time() - before) / steps


def words(times: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f})"


if __name__ == "__main__":
    main()
