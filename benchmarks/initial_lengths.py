"""Lengths of the capsules of untrained networks, layer by layer, for comparison with table 5 of Sahu, Altahhan (2024).

For each network of that table: the mean length of the capsules after each intermediate layer, for noise images and
untrained weights with a given standard deviation.  Nothing is timed.

    python benchmarks/initial_lengths.py [--std 0.5] [--layers 9] [--images 8]
"""

import argparse
from functools import partial

import torch

from capsexp.models.deep_capsnet import DeepCapsNet
from capsexp.routing.dynamic import Dynamic

LARGEST = {(20, 6): "4", (16, 6): "5", (20, 8): "6", (10, 6): "7", (20, 10): "8", (10, 8): "> 30"}
"""C and D of the networks of table 5, and their largest depth there."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--std", default="0.5", help="of the intermediate layers' matrices, or preserving")
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    std = options.std if options.std == "preserving" else float(options.std)
    print(f"mean length after each of {options.layers} intermediate layers, standard deviation {std}")
    print(f"{'network':8} {'table 5':>7}  " + " ".join(f"{number:7d}" for number in range(1, options.layers + 1)))
    for (capsules, dim), largest in LARGEST.items():
        torch.manual_seed(options.seed)
        network = DeepCapsNet(
            image_shape=(3, 32, 32),
            classes=10,
            routing=partial(Dynamic, iterations=3),
            capsules=capsules,
            dim=dim,
            depth=options.layers,
            intermediate_std=std,
        )
        found = mean_lengths(network, torch.rand(options.images, 3, 32, 32) * 2 - 1)
        print(f"C{capsules}D{dim:<5} {largest:>7}  " + " ".join(f"{length:7.0e}" for length in found))


@torch.no_grad()
def mean_lengths(network: DeepCapsNet, images_BCHW: torch.Tensor) -> list[float]:
    """The mean length of the capsules after each intermediate layer, with batch normalisation as in training."""
    poses_BTDHW, found = network.primary(network.backbone(images_BCHW)), []
    for layer in network.intermediate.values():
        poses_BTDHW = layer(poses_BTDHW).poses_BJE
        found.append(float(poses_BTDHW.square().sum(2).sqrt().mean()))
    return found


if __name__ == "__main__":
    main()
