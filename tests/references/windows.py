"""Windows over a grid of capsules, and what a child shares out among their parents, one window at a time."""

import torch

from tests.references.votes import Scalars


def places(height: int, width: int, kernel: int, stride: int, padding: int = 0) -> list[list[int]]:
    """The place (row * width + column) at each position of each window, [l][p]; -1 in the padding."""
    found = []
    for top in range(-padding, height + padding - kernel + 1, stride):
        for left in range(-padding, width + padding - kernel + 1, stride):
            inside = [
                row * width + column if 0 <= row < height and 0 <= column < width else -1
                for row in range(top, top + kernel)
                for column in range(left, left + kernel)
            ]
            found.append(inside)
    return found


def children_of(place_LP: list[list[int]], types: int) -> list[list[int]]:
    """The number of the child at each position of each window, [l][i], a type's positions adjacent; -1 = padding.

    Two positions have the same number where they hold the same type at the same place.
    """
    return [[-1 if place < 0 else place * types + kind for kind in range(types) for place in row] for row in place_LP]


def one_window(children: int) -> list[list[int]]:
    """The children of a layer that has a single window, [0][i]."""
    return [list(range(children))]


def windows_of(child_LI: list[list[int]], child: int) -> int:
    """The number of windows that hold a child."""
    return sum(child in row for row in child_LI)


def share(logits_LJI: Scalars, child_LI: list[list[int]], *, over: str = "field") -> Scalars:
    """The softmax of the logits of each child, [l][j][i]; 0 in the padding.

    ``field`` is over the parents of all windows that hold it, ``window`` over the parents of each of them by itself.
    """
    parents = range(len(logits_LJI[0]))
    zero = torch.zeros((), dtype=torch.float64)
    found: Scalars = [[[zero for _ in row] for _ in parents] for row in child_LI]
    for child in {each for row in child_LI for each in row} - {-1}:
        holders = [(window, row.index(child)) for window, row in enumerate(child_LI) if child in row]
        for group in [holders] if over == "field" else [[each] for each in holders]:
            competing = [(window, j, i) for window, i in group for j in parents]
            logits = torch.stack([logits_LJI[window][j][i] for window, j, i in competing])
            e = (logits - logits.detach().max()).exp()
            for (window, j, i), part in zip(competing, (e / e.sum()).unbind(), strict=True):
                found[window][j][i] = part
    return found
