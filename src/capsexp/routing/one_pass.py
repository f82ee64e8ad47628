"""Routing without a loop, which takes the keys of a loop so that one grid can go over all algorithms."""

from typing import Any

from capsexp.errors import require_choice, require_int
from capsexp.routing.base import GRADIENTS, Routing


class OnePass(Routing):
    """The base class of routing algorithms without a loop.

    Args:
        iterations: has no effect; it exists so that one grid can sweep over algorithms.
        gradient: as ``iterations``.
        **sizes: children, parents, dim_in, dim_out, and what :class:`~capsexp.routing.base.Routing` takes.

    Example:
        Each child's couplings, drawn once and learnt from then on:

        >>> class Learnt(OnePass):
        ...     shares = "parents"
        ...     children_at = {"logits_JI": 1}
        ...
        ...     def __init__(self, **options):
        ...         super().__init__(**options)
        ...         self.logits_JI = torch.nn.Parameter(torch.randn(self.parent_count, self.child_count))
        ...
        ...     def forward(self, votes, activations_BI=None):
        ...         return self.weigh(votes, self.logits_JI.softmax(0))
        >>> from capsexp.nn import ClassCapsules
        >>> ClassCapsules(36, 10, 8, 16, Learnt)(torch.rand(5, 36, 8)).poses_BJE.shape
        torch.Size([5, 10, 16])
    """

    def __init__(self, *, iterations: int = 1, gradient: str = "full", **sizes: Any) -> None:
        super().__init__(**sizes)
        require_int("iterations", iterations, 1)
        require_choice("gradient", gradient, GRADIENTS)
