"""The base class of all routing algorithms, and the loop of routing by agreement."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from capsexp.errors import require, require_choice, require_int
from capsexp.nn.finish import MakeFinish, Squash
from capsexp.nn.functional import lengths
from capsexp.nn.vote_pieces import in_pieces
from capsexp.nn.votes import Votes
from capsexp.types import RoutingOutput

Activation = Literal["length", "share", "probability", "none"]
"""The kind of an algorithm's activations.

``length``: the length of a parent's pose.  ``share``: a distribution over the parents, which adds up to 1.
``probability``: each parent's own, in 0..1, which no other's bounds.  ``none``: the algorithm has no activations, and
the lengths of poses stand in their place; a network that classifies with it needs scores of its own (``head``).
"""

GRADIENTS = ("full", "last")
"""The reach of gradients through a loop: every iteration, or the last weighted sum only."""


class Routing(nn.Module, ABC):
    """A routing algorithm: a function from the votes for the capsules of a layer to their poses.

    Its config has ``_partial_``: the layer calls it with its four sizes and holds the instance, which may have
    parameters or buffers.  Class attributes declare what others need to know of it.

    Args:
        children: I.
        parents: J.
        dim_in: D, components of a child's pose.
        dim_out: E, components of a parent's pose.
        squash: squashing function of the sums, one of :data:`~capsexp.nn.functional.SQUASHES`; None for classic.
        bias: True adds a trainable bias to the sums before they are squashed.
        epsilon: see :func:`~capsexp.nn.finish.squashed`.
        finish: what makes poses of the sums in place of a squash; the three arguments before are then refused.

    Example:
        An algorithm of one's own, in which every child chooses the parent at random:

        >>> class Lottery(Routing):
        ...     shares = "parents"
        ...
        ...     def forward(self, votes, activations_BI=None):
        ...         batch, parents, _, children = votes.shape
        ...         chosen = torch.randint(parents, (batch, children))
        ...         return self.weigh(votes, torch.nn.functional.one_hot(chosen, parents).float().transpose(1, 2))
        >>> from capsexp.nn import ClassCapsules
        >>> output = ClassCapsules(36, 10, 8, 16, Lottery)(torch.rand(5, 36, 8))
        >>> output.coupling_BJI.sum(1).unique()
        tensor([1.])
    """

    coupling_range: tuple[float, float] = (0.0, 1.0)
    """Lower and upper bound of every coupling."""
    shares: ClassVar[Literal["parents", "field"] | None] = None
    """Over what the couplings of a child add up to 1: its window's parents, all windows' that hold it, or nothing."""
    activation: ClassVar[Activation] = "length"
    """The kind of the activations, see :data:`Activation`."""
    activation_range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """Lower and upper bound of every activation."""
    needs_activations: ClassVar[bool] = False
    """True if the layer is to hand in the children's activations."""
    poses_optional: ClassVar[bool] = False
    """True if the algorithm gives activations without poses where E = 0."""
    has_master: ClassVar[bool] = True
    """True if ``weigh`` with a mean coupling gives poses in the sense of Zhao et al. (2019): master coefficients."""
    children_at: ClassVar[Mapping[str, int]] = {}
    """The dimension that counts the children in each parameter and buffer of its own that has one."""

    def __init__(
        self,
        *,
        children: int,
        parents: int,
        dim_in: int,
        dim_out: int,
        squash: str | None = None,
        bias: bool = False,
        epsilon: float = 0.0,
        finish: MakeFinish | None = None,
    ) -> None:
        super().__init__()
        for key, value in (("squash", squash), ("bias", bias), ("epsilon", epsilon)):
            unused = finish is not None and bool(value)
            require(not unused, key, f"be absent: {type(self).__name__} has no squash", value)
        self.child_count, self.parent_count = children, parents
        kind = "classic" if squash is None else squash
        plain = partial(Squash, kind=kind, bias=bias, epsilon=epsilon)
        self.finish: nn.Module = (finish or plain)(parents, dim_out)

    @abstractmethod
    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """Poses, activations and the coupling of each child with each parent.

        Args:
            votes: votes of I children for J parents.
            activations_BI: activation of each child if :attr:`needs_activations`, else None.
        """

    @property
    def weight_std(self) -> float:
        """Standard deviation of the initial transformation matrices for this algorithm."""
        return 0.1

    @torch.no_grad()
    def start(self, weight_JEDI: Tensor) -> None:
        """Fill the transformation matrices with their initial values: normal numbers of :attr:`weight_std`."""
        weight_JEDI.copy_(torch.randn_like(weight_JEDI) * self.weight_std)

    def normalise(self, coupling_BJI: Tensor) -> Tensor:
        """The mean of couplings over images, normalised as the couplings of this algorithm are.

        Zhao et al. (2019), section 5: a mean of couplings is normalised as in the training of the network, child by
        child over the parents.  This default returns it unchanged, which suits algorithms without a normalisation.
        """
        return coupling_BJI

    def weights(self, coupling_BJI: Tensor, activations_BI: Tensor | None = None) -> Tensor:
        """The numbers (B, J, I) that multiplied the votes, from the coupling of :meth:`forward`; by default the same.

        Args:
            coupling_BJI: a coupling that the algorithm has returned.
            activations_BI: the children's activations that it was given.
        """
        return coupling_BJI

    def weigh(self, votes: Votes, coupling: Tensor | float) -> RoutingOutput:
        """Poses for a given coupling: the finished weighted sum, and its lengths.

        Args:
            votes: votes of I children for J parents.
            coupling: (B, J, I), or (J, I) if all images share it, or one number for all.
        """
        batch, parents, _, children = votes.shape
        poses_BJE: Tensor = self.finish(votes.weighted_sum(coupling))
        if not isinstance(coupling, Tensor):
            coupling = poses_BJE.new_full((1, 1, 1), coupling)
        return RoutingOutput(poses_BJE, lengths(poses_BJE), coupling.expand(batch, parents, children))


class AgreementRouting(Routing):
    """Routing by agreement: ``iterations`` times weighted sum, squashing, agreement and update of the coupling.

    The update after the last poses is not computed, so the returned coupling is the one that weighted them.

    Args:
        iterations: number of weighted sums, at least 1; the first uses the same coupling everywhere.
        gradient: ``full`` differentiates every iteration; ``last`` treats the coupling as a constant, so gradients flow
            through the last weighted sum only.
        **sizes: children, parents, dim_in, dim_out, and what :class:`Routing` takes.

    Example:
        Dynamic routing with a temperature:

        >>> class Sharp(AgreementRouting):
        ...     shares = "parents"
        ...
        ...     @property
        ...     def first_coupling(self):
        ...         return 1 / self.parent_count
        ...
        ...     def couple(self, logits_BJI):
        ...         return (logits_BJI / 0.5).softmax(1)
        >>> from capsexp.nn import ClassCapsules
        >>> ClassCapsules(36, 10, 8, 16, Sharp)(torch.rand(5, 36, 8)).poses_BJE.shape
        torch.Size([5, 10, 16])
    """

    def __init__(self, *, iterations: int = 3, gradient: str = "full", **sizes: Any) -> None:
        super().__init__(**sizes)
        self.iterations = require_int("iterations", iterations, 1)
        self.gradient = require_choice("gradient", gradient, GRADIENTS)

    @property
    @abstractmethod
    def first_coupling(self) -> float:
        """The coupling of the first iteration."""

    @abstractmethod
    def couple(self, logits_BJI: Tensor) -> Tensor:
        """The coupling (B, J, I) for these logits, child by child, over the parents."""

    def forward(self, votes: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
        """Sabour et al. (2017), procedure 1, with ``couple`` in place of its softmax."""
        if self.gradient == "full" and self.iterations > 1:
            return RoutingOutput(*in_pieces(self._route, votes, self.parameters()))
        with torch.no_grad():  # without a loop the coupling is a number
            coupling = self._agree(votes)
        return self.weigh(votes, coupling)

    def normalise(self, coupling_BJI: Tensor) -> Tensor:
        """The mean couplings, treated as logits: ``couple`` applies max-min or softmax to them once more."""
        return self.couple(coupling_BJI)

    def _route(self, votes: Votes) -> RoutingOutput:
        return self.weigh(votes, self._agree(votes))

    def _agree(self, votes: Votes) -> Tensor | float:
        coupling: Tensor | float = self.first_coupling
        logits_BJI: Tensor | float = 0.0
        for _ in range(self.iterations - 1):
            parents_BJE = self.finish(votes.weighted_sum(coupling))  # s_j = sum_i c_ij u_ji; v_j = squash(s_j)
            logits_BJI = votes.agreement(parents_BJE) + logits_BJI  # b_ij <- b_ij + u_ji . v_j
            coupling = self._coupled(logits_BJI)
        return coupling

    def _coupled(self, logits_BJI: Tensor) -> Tensor:
        """The result of :meth:`couple`, checked: other shapes would mix images, or fail far from their cause."""
        coupling_BJI = self.couple(logits_BJI)
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return coupling_BJI
        found = tuple(coupling_BJI.shape) if isinstance(coupling_BJI, Tensor) else type(coupling_BJI).__name__
        rule = f"return the couplings (B, J, I) = {tuple(logits_BJI.shape)}"
        require(found == tuple(logits_BJI.shape), f"{type(self).__name__}.couple", rule, found)
        return coupling_BJI
