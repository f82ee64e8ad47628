"""Routing without a loop, which takes the keys of a loop so that one grid can go over all algorithms."""

from typing import Any

from capsexp.errors import require_choice, require_int
from capsexp.routing.base import GRADIENTS, Routing


class OnePass(Routing):
    """A routing algorithm without a loop.

    Args:
        iterations: has no effect; it exists so that one grid can sweep over algorithms.
        gradient: as ``iterations``.
        **sizes: children, parents, dim_in, dim_out, and what :class:`~capsexp.routing.base.Routing` takes.
    """

    def __init__(self, *, iterations: int = 1, gradient: str = "full", **sizes: Any) -> None:
        super().__init__(**sizes)
        require_int("iterations", iterations, 1)
        require_choice("gradient", gradient, GRADIENTS)
