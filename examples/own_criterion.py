"""Write your own pruning criterion, and prune a trained network with it.

From any folder::

    python examples/own_criterion.py

A criterion is a class that scores the channels of a layer; those with the lowest scores are removed.  It declares
whether it uses the weights or the feature maps of a batch.  ``score`` lets it score a network's layers, ``select``
chooses the channels, and ``shrink`` constructs the smaller network (``prune`` does all three).  They are independent of
training and command: the network is a plain ``nn.Module``, trained here in a loop.

In the command (``recipe=prune_and_retrain``), ``pruning._target_=own_criterion.MeanActivation`` names the class, and
``~pruning.norm`` removes an option that only the default class has.  To keep your class, put it into
``src/capsexp/pruning/`` and its options into ``conf/pruning/<name>.yaml``; the tests for all criteria then include it.
"""

import functools
import sys
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor

from capsexp.models import CNN
from capsexp.pruning import Criterion, Layer, score, select, shrink


class MeanActivation(Criterion):
    """Score = mean activation of a channel: a channel that is almost never active can be removed."""

    needs: ClassVar[Literal["weights", "maps"]] = "maps"

    def scores(self, layer: Layer) -> Tensor:
        """The mean of the map of each channel over images and positions: (O,), float64, on the CPU."""
        assert layer.maps_BCHW is not None  # the caller provides them, since the class needs maps
        return layer.maps_BCHW.detach().double().mean((0, 2, 3)).cpu()


def digits() -> tuple[Tensor, Tensor]:
    """The 1797 digits that ship with scikit-learn: images (N, 1, 8, 8) in 0..1, and their classes (N,)."""
    found = load_digits()
    return torch.from_numpy((found.images / 16).astype(np.float32))[:, None], torch.from_numpy(found.target)


def train(model: CNN, images_BCHW: Tensor, labels_B: Tensor, epochs: int) -> CNN:
    """Train a network with Adam, in batches of 50; then switch it to evaluation mode."""
    optimizer = torch.optim.Adam(model.train().parameters(), lr=5e-3)
    for _ in range(epochs):
        for chosen in torch.randperm(len(labels_B)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(images_BCHW[chosen]), labels_B[chosen]).backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def masked(model: CNN, kept: dict[str, Tensor], images_BCHW: Tensor) -> Tensor:
    """The scores (B, K) of the whole network when the maps of all other channels are zero."""
    hooks = []
    for name, layer in model.channel_layers().items():
        mask_C11 = torch.zeros(model.widths()[name], 1, 1).index_fill(0, kept[name], 1)
        module = model.get_submodule(layer.maps)
        hooks.append(module.register_forward_hook(lambda _, __, maps, mask_C11=mask_C11: maps * mask_C11))
    scores_BK: Tensor = model(images_BCHW)
    for hook in hooks:
        hook.remove()
    return scores_BK


@torch.no_grad()
def accuracy(model: CNN, images_BCHW: Tensor, labels_B: Tensor) -> float:
    """The share of correctly classified images."""
    return (model(images_BCHW).argmax(1) == labels_B).double().mean().item()


def main() -> int:
    """Train, score, select, shrink, compare, train again; return the exit status."""
    torch.manual_seed(0)
    images_BCHW, labels_B = digits()
    learnt, test = (images_BCHW[:1400], labels_B[:1400]), (images_BCHW[1400:], labels_B[1400:])
    make = functools.partial(CNN, image_shape=(1, 8, 8), classes=10, kernels=(3, 3, 3), c1=16, c2=24, c3=32)
    model = train(make(), *learnt, epochs=8)

    scores = score(model, MeanActivation(), [learnt[0]])
    kept = select(model, scores, 0.25)
    smaller = shrink(model, kept, make).eval()

    with torch.no_grad():
        difference = (smaller(test[0]) - masked(model, kept, test[0])).abs().max().item()
    print(f"channels             {model.widths()} -> {smaller.widths()}")
    print(f"cut against masked   scores differ by at most {difference:.1e}")
    print(f"accuracy before      {accuracy(model, *test):.4f}")
    print(f"accuracy after       {accuracy(smaller, *test):.4f}")
    print(f"trained again        {accuracy(train(smaller, *learnt, epochs=4), *test):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
