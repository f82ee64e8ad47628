"""What other people's implementations of routing compute, in ``tests/golden/routing``, and how ours is compared."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from capsexp.nn.capsules import CapsuleLayer

FOLDER = Path(__file__).parent / "routing"


class File:
    """The arrays of a file; those that were differentiated want a gradient."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
            self._arrays = {key: torch.from_numpy(arrays[key].astype(np.float64)) for key in arrays}
        for key in list(self._arrays):
            if key.startswith("grad_"):
                self._arrays[key.removeprefix("grad_")].requires_grad_()

    def __getitem__(self, key: str) -> Tensor:
        return self._arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    @property
    def iterations(self) -> int:
        return int(self["iters"])

    def check(self, *outputs: Tensor, but: tuple[str, ...] = (), atol: float = 1e-8) -> None:
        """Compare the gradients of the sum of cos(n + k) times the n-th number of output k with those of the file."""
        loss = torch.zeros((), dtype=torch.float64)
        for k, output in enumerate(outputs):
            numbers = torch.arange(output.numel(), dtype=torch.float64)
            loss = loss + (torch.cos(numbers + k) * output.flatten()).sum()
        names = [key for key in self._arrays if key.startswith("grad_") and key not in but]
        found = torch.autograd.grad(loss, [self[name.removeprefix("grad_")] for name in names])
        for name, grad in zip(names, found, strict=True):
            scale = float(self[name].abs().max())
            told = partial("{}: {}".format, name)
            torch.testing.assert_close(grad, self[name], rtol=1e-8, atol=atol * scale, msg=told)


def same(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected.view_as(found), rtol=0, atol=tolerance)


def layer_of(make: Callable[[], CapsuleLayer], weight_JEDI: Tensor, **own: Tensor) -> CapsuleLayer:
    """A layer with these values in place of its parameters, so that gradients reach the values themselves."""
    layer = make().double()
    replace(layer, {"weight": weight_JEDI, **own})
    return layer


def replace(module: torch.nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put tensors in the place of parameters of the same shapes."""
    for name, value in values.items():
        *path, last = name.split(".")
        owner = module.get_submodule(".".join(path))
        assert owner._parameters[last].shape == value.shape, name  # type: ignore[union-attr]
        del owner._parameters[last]
        setattr(owner, last, value)
