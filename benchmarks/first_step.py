"""How far one step of Adam moves the primary capsules: why the learning rate of capsule networks rises at first.

For each routing, width and learning rate: the mean length of the primary capsules of one batch before and after the
first step on it, and the standard deviation of an image's mean length after it.  Nothing is timed.

    python benchmarks/first_step.py [--images mnist.npz] [--batch 32] [--csv FILE]

Without a file the images are scikit-learn's digits, cropped to 28x28.  The start is ``ours``, or ``released``: the
convolutions' initial values in the code that Sabour released, which also divides the output of the primary capsules'
convolution by their number of types before the bias.
"""

import argparse
import csv
import itertools
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from capsexp.data.sources import Digits
from capsexp.losses import margin_loss
from capsexp.models import CapsNet
from capsexp.routing import Dynamic, MaxMin

ROUTINGS = {"max_min": MaxMin, "dynamic": Dynamic}
WIDTHS = (64, 256)
RATES = (1e-3, 1e-5)
"""The full rate, and that of the first of 100 steps of a warm-up."""
HEAD = ("data", "start", "routing", "width", "rate", "before", "after", "deviation")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a .npz file with x_train and y_train, images of 28x28")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, help="append the rows to this file too")
    options = parser.parse_args()
    data, images_BCHW, labels_B = batch(options.images, options.batch)
    rows = []
    for start, name, width, rate in itertools.product(("ours", "released"), ROUTINGS, WIDTHS, RATES):
        torch.manual_seed(options.seed)
        found = lengths(network(name, width, released=start == "released"), rate, images_BCHW, labels_B)
        rows.append((data, start, name, width, rate, *(f"{each:.3f}" for each in found)))
    csv.writer(sys.stdout, lineterminator="\n").writerows([HEAD, *rows])
    if options.csv:
        new = not options.csv.exists()
        with options.csv.open("a", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerows([HEAD, *rows] if new else rows)


def batch(file: Path | None, size: int) -> tuple[str, Tensor, Tensor]:
    """The name of the data, and the first images, in 0..1, with their classes."""
    if file is None:
        digits = Digits().load()
        pixels, labels = digits.x_train[:size, :, 2:30, 2:30], digits.y_train[:size]
    else:
        with np.load(file) as arrays:
            pixels, labels = arrays["x_train"][:size, None], arrays["y_train"][:size]
    images_BCHW = torch.from_numpy(pixels / 255).float()
    return file.stem if file else "digits", images_BCHW, torch.from_numpy(labels.astype(np.int64))


class Divided(nn.Module):
    """A convolution whose output is divided by a number before its bias is added."""

    def __init__(self, conv: nn.Conv2d, number: int) -> None:
        super().__init__()
        self.conv, self.number = conv, number

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """The output (B, C, H, W)."""
        bias_C11 = self.conv.bias[:, None, None]
        return (self.conv(maps_BCHW) - bias_C11) / self.number + bias_C11


def network(name: str, width: int, *, released: bool) -> CapsNet:
    """A capsule network with c1 = c2 = width."""
    routing = partial(ROUTINGS[name], iterations=3)
    model = CapsNet(image_shape=(1, 28, 28), classes=10, routing=routing, c1=width, c2=width, decoder=None)
    if released:
        for conv, std in ((model.conv1, 0.05), (model.primary.conv, 0.1)):
            nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
            nn.init.constant_(conv.bias, 0.1)
        model.primary.conv = Divided(model.primary.conv, width // 8)
    return model


def lengths(model: CapsNet, rate: float, images_BCHW: Tensor, labels_B: Tensor) -> tuple[float, float, float]:
    """Mean length before and after a step, and the standard deviation over images of an image's mean length after."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    before = primary_lengths(model, images_BCHW).mean()
    margin_loss(model(images_BCHW), labels_B).backward()
    optimizer.step()
    after_B = primary_lengths(model, images_BCHW)
    return float(before), float(after_B.mean()), float(after_B.std())


@torch.no_grad()
def primary_lengths(model: CapsNet, images_BCHW: Tensor) -> Tensor:
    """(B,), the mean length of the primary capsules of each image."""
    poses_BTDHW = model.primary(model.relu1(model.conv1(images_BCHW))).poses
    return poses_BTDHW.square().sum(2).sqrt().flatten(1).mean(1)


if __name__ == "__main__":
    main()
