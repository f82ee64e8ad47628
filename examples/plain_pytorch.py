"""Build, train, speed up and prune a capsule network in plain PyTorch: no Hydra, no Lightning, no folders.

From any folder::

    python examples/plain_pytorch.py

The network is made of capsexp's parts, on the digits that ship with scikit-learn.  Its training is a loop of ten lines.
Then the couplings of the training images are accumulated into master coefficients (Zhao et al. 2019), with which the
network classifies without a routing loop.  At last CHIP (Sui et al. 2021) chooses the channels to remove, and the
smaller network is trained a few steps more.

``channel_layers`` and ``sized`` are all that pruning needs to know of a network, see ``capsexp.nn.ChannelNetwork``.
"""

import sys
import time
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import capsexp
from capsexp.losses import margin_loss
from capsexp.nn import ChannelLayer, ClassCapsules, PrimaryCapsules, Reader, as_children, set_inference
from capsexp.pruning import Chip, Selection, prune
from capsexp.routing import MaxMin

DIM, PLACES = 4, 4
"""Components of a primary capsule, and the positions of each type: a grid of 2 x 2."""


class SmallCapsNet(nn.Module):
    """A convolution, primary capsules and class capsules for the digits of 8x8 pixels.

    Args:
        conv: channels of the convolution.
        primary: channels of the primary capsules, a multiple of ``DIM``.
    """

    def __init__(self, conv: int = 16, primary: int = 32) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, conv, 3), nn.ReLU()
        self.primary = PrimaryCapsules(conv, primary, DIM, kernel=3, stride=2)
        routing = partial(MaxMin, iterations=3)
        self.digits = ClassCapsules(primary // DIM * PLACES, 10, DIM, 8, routing)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class scores (B, 10): the lengths of the class capsules."""
        capsules = self.primary(self.relu(self.conv(images_BCHW)))
        lengths_BK: Tensor = self.digits(as_children(capsules)).activations_BJ
        return lengths_BK

    def channel_layers(self) -> dict[str, ChannelLayer]:
        """The layers whose channels can be pruned, and the layers that read them."""
        return {
            "conv": ChannelLayer("conv", "relu", (Reader("primary.conv"),)),
            "primary": ChannelLayer("primary.conv", "primary.conv", (Reader("digits", PLACES),), step=DIM, dim=DIM),
        }

    def sized(self, widths: Mapping[str, int]) -> dict[str, int]:
        """The constructor's arguments of a network of other widths."""
        return {"conv": self.conv.out_channels, "primary": self.primary.conv.out_channels, **widths}


def digits() -> tuple[TensorDataset, TensorDataset]:
    """1400 training and 397 test images (1, 8, 8) in 0..1, with their classes."""
    found = load_digits()
    images_NCHW, labels_N = torch.from_numpy((found.images / 16).astype(np.float32))[:, None], found.target
    labels_N = torch.from_numpy(labels_N)
    return TensorDataset(images_NCHW[:1400], labels_N[:1400]), TensorDataset(images_NCHW[1400:], labels_N[1400:])


def train(model: SmallCapsNet, data: TensorDataset, epochs: int) -> None:
    """Train a network by the margin loss."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)
    for _ in range(epochs):
        for images_BCHW, labels_B in DataLoader(data, batch_size=50, shuffle=True):
            optimizer.zero_grad()
            margin_loss(model(images_BCHW), labels_B).backward()
            optimizer.step()
    model.eval()


@torch.no_grad()
def tell(what: str, model: SmallCapsNet, data: TensorDataset) -> None:
    """Print the accuracy of a network, its parameters, and the time of one pass over the data."""
    images_NCHW, labels_N = data.tensors
    begin = time.perf_counter()
    accuracy = (model(images_NCHW).argmax(1) == labels_N).double().mean().item()
    milliseconds = 1000 * (time.perf_counter() - begin)
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{what:22} accuracy {accuracy:.4f}  {count:5} parameters  {milliseconds:5.1f} ms")


def main() -> int:
    """Train, accumulate, prune, and train again; return the exit status."""
    torch.manual_seed(0)
    learnt, test = digits()
    model = SmallCapsNet()
    train(model, learnt, epochs=4)
    tell("with routing", model, test)

    masters = capsexp.accumulate(model, DataLoader(learnt, batch_size=100))
    set_inference(model, "folded")
    tell("with the master", model, test)
    print(f"the master of the class capsules has the shape {tuple(masters.by_layer['digits'].shape)}")

    set_inference(model, "dynamic")
    chosen = Selection(0.5, granularity="capsule")  # whole capsules go, so that the others keep their matrices
    smaller, kept, _ = prune(model, Chip(), chosen, DataLoader(learnt, batch_size=100))
    print(f"kept channels {', '.join(f'{name} {len(index)}' for name, index in kept.items())}")
    tell("pruned", smaller, test)
    train(smaller, learnt, epochs=2)
    tell("pruned, trained again", smaller, test)
    return 0


if __name__ == "__main__":
    sys.exit(main())
