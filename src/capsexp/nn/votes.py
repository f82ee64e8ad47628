r"""Votes: the predictions of every child capsule for every parent, as a linear operator for routing.

A vote is :math:`\hat u_{j|i} = W_{ij} u_i`.  Routing needs only two quantities of votes, both derivatives of one form

.. math:: T = \sum_{bjedi} y_{bji}\, x_{bje}\, W_{jedi}\, u_{bdi},

the weighted sum :math:`s = \partial T / \partial x` and the agreement :math:`b = \partial T / \partial y`.  So neither
has to build the votes, and the gradients of both are the other derivatives of T.  :class:`LinearVotes` computes them in
pieces that stay in the cache of the processor.  For the backward pass it keeps only poses, weight, and the coupling or
the parents' poses.
"""

import copy
import math
from abc import ABC, abstractmethod
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from capsexp.nn import moments
from capsexp.nn.autocast import autocast_type, without_autocast
from capsexp.nn.field import Field
from capsexp.nn.functional import at_least_single
from capsexp.nn.vote_makers import Recipe, VectorVoteMaker
from capsexp.nn.vote_operators import Agreement, WeightedSum, agree_built, materialised, sum_built

Form = Literal["factored", "materialised", "pieces"]


class Votes(ABC):
    """Votes of I children for J parents of E components each, for every image (or window) of a batch.

    Attributes:
        mask_BI: True where a child exists, None if all exist.  Elsewhere (in the padding of a window) votes are zero.
        poses_BID: the children's poses, None if only their votes are known.
        field: where B counts windows that share children: which they share; None if no child lies in two of them.

    Example:
        >>> votes = GivenVotes(torch.ones(1, 2, 3, 4))  # 1 image, 2 parents of 3 components, 4 children
        >>> isinstance(votes, Votes), votes.shape
        (True, (1, 2, 3, 4))
    """

    mask_BI: Tensor | None = None
    poses_BID: Tensor | None = None
    field: Field | None = None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int, int, int]:
        """(B, J, E, I)."""

    @abstractmethod
    def weighted_sum(self, coupling: Tensor | float) -> Tensor:
        """The weighted sum of the votes for each parent, s_j = sum_i c_ij u_ji.

        Args:
            coupling: (B, J, I), or (J, I) if all images share it, or one number for all.

        Returns:
            (B, J, E), in float32 or better.
        """

    @abstractmethod
    def agreement(self, parents_BJE: Tensor) -> Tensor:
        """Scalar product of every vote with its parent's pose: (B, J, I), in float32 or better."""

    @abstractmethod
    def materialise(self) -> Tensor:
        """The votes themselves: (B, J, E, I)."""

    @abstractmethod
    def detach(self) -> "Votes":
        """The same votes, without gradients through them."""

    def share(self, logits_BJI: Tensor) -> Tensor:
        """The softmax over all parents that a child may go to: those of its window, and of all that hold it too.

        Args:
            logits_BJI: (B, J, I).
        """
        return logits_BJI.softmax(1) if self.field is None else self.field.share(logits_BJI)

    def scatter(self, weights_BJI: Tensor, mean_BJE: Tensor) -> Tensor:
        r"""The weighted sum of squared differences from a mean, :math:`\sum_i w_{ji} (v_{jei} - \mu_{je})^2`.

        Args:
            weights_BJI: (B, J, I).
            mean_BJE: the weighted sum of the votes with these weights.

        Returns:
            (B, J, E), in float32 or better.
        """
        return moments.scatter(weights_BJI, mean_BJE, self.materialise())

    def distances(self, mean_BJE: Tensor, precision_BJE: Tensor) -> Tensor:
        """The squared distance of every vote from its parent, each component times a precision: (B, J, I)."""
        return moments.distances(mean_BJE, precision_BJE, self.materialise())

    def recipe(self) -> Recipe | None:
        """The parts from which the votes are built, for building them piece by piece; None for votes of a tensor."""
        return None


class GivenVotes(Votes):
    """Votes from a tensor.

    Args:
        votes_BJEI: (B, J, E, I).
        mask_BI: True where a child exists, or None if all exist.  Votes elsewhere must be zero.
        poses_BID: the children's poses, for algorithms that look at them.
        field: which children the windows share, see :class:`Votes`.
        squares: memory for squared differences.

    Example:
        >>> votes = GivenVotes(torch.ones(1, 2, 3, 4))
        >>> votes.weighted_sum(0.5)  # of 4 children
        tensor([[[2., 2., 2.],
                 [2., 2., 2.]]])
        >>> votes.agreement(torch.ones(1, 2, 3))
        tensor([[[3., 3., 3., 3.],
                 [3., 3., 3., 3.]]])
    """

    def __init__(
        self,
        votes_BJEI: Tensor,
        mask_BI: Tensor | None = None,
        poses_BID: Tensor | None = None,
        field: Field | None = None,
        squares: moments.Squares | None = None,
    ) -> None:
        self._votes_BJEI, self.mask_BI, self.poses_BID = at_least_single(votes_BJEI), mask_BI, poses_BID
        self.field, self._squares = field, squares or moments.Squares()

    @property
    def shape(self) -> tuple[int, int, int, int]:  # noqa: D102
        return cast("tuple[int, int, int, int]", tuple(self._votes_BJEI.shape))

    def weighted_sum(self, coupling: Tensor | float) -> Tensor:  # noqa: D102
        if not isinstance(coupling, Tensor):
            return self._votes_BJEI.sum(3) * coupling
        return sum_built(at_least_single(coupling), self._votes_BJEI)

    def agreement(self, parents_BJE: Tensor) -> Tensor:  # noqa: D102
        return agree_built(at_least_single(parents_BJE), self._votes_BJEI)

    def materialise(self) -> Tensor:  # noqa: D102
        return self._votes_BJEI

    def detach(self) -> "GivenVotes":  # noqa: D102
        poses_BID = None if self.poses_BID is None else self.poses_BID.detach()
        return GivenVotes(self._votes_BJEI.detach(), self.mask_BI, poses_BID, self.field)

    def scatter(self, weights_BJI: Tensor, mean_BJE: Tensor) -> Tensor:  # noqa: D102
        return moments.scatter(weights_BJI, mean_BJE, self._votes_BJEI, self._squares)

    def distances(self, mean_BJE: Tensor, precision_BJE: Tensor) -> Tensor:  # noqa: D102
        return moments.distances(mean_BJE, precision_BJE, self._votes_BJEI, self._squares)


class LinearVotes(Votes):
    """Votes by a transformation matrix for every pair of child and parent: Sabour et al. (2017), equation (2).

    Args:
        poses_BID: the children's poses (B, I, D).  Fastest where components vary slowest in memory, as in the
            transposed view of a (B, D, I) tensor.
        weight_JEDI: the transformation matrices (J, E, D, I).
        mask_BI: True where a child exists, or None if all exist.  Poses elsewhere must be zero.
        form: ``factored`` never builds the votes; ``materialised`` builds them once and keeps them for the forward pass
            only; ``pieces`` is as factored, but routing works on some images at a time (``vote_pieces``); None chooses
            by size.  All are the same operator.
        folds: cache of the weight with a shared coupling multiplied into it; None keeps nothing between calls.

    Under autocast the matrix products run in the type of autocast; couplings, agreements and sums are float32.

    Example:
        >>> votes = LinearVotes(torch.rand(5, 36, 8), torch.rand(10, 16, 8, 36))
        >>> votes.weighted_sum(torch.rand(5, 10, 36)).shape
        torch.Size([5, 10, 16])
        >>> votes.materialise().shape
        torch.Size([5, 10, 16, 36])
    """

    def __init__(
        self,
        poses_BID: Tensor,
        weight_JEDI: Tensor,
        mask_BI: Tensor | None = None,
        form: Form | None = None,
        folds: "FoldCache | None" = None,
    ) -> None:
        device = poses_BID.device.type
        self.poses_BID: Tensor = poses_BID
        self.mask_BI = mask_BI
        self._product_type = autocast_type(device)
        self._weight_JEDI, self._folds = at_least_single(weight_JEDI), folds
        self._poses_BDI = at_least_single(poses_BID).transpose(1, 2).contiguous()
        self.form: Form = form or choose_form(self.shape, poses_BID.shape[2], device)
        self._votes_BJEI: Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:  # noqa: D102
        parents, components, _, children = self._weight_JEDI.shape
        return self.poses_BID.shape[0], parents, components, children  # in a trace len() is a number, not a symbol

    def weighted_sum(self, coupling: Tensor | float) -> Tensor:  # noqa: D102
        if not isinstance(coupling, Tensor):
            return self._linear(self._weight_JEDI.flatten(0, 1).flatten(1)) * coupling
        if coupling.dim() == 2:
            return self._linear(self.fold(coupling))
        coupling = at_least_single(coupling)
        return cast("Tensor", WeightedSum.apply(coupling, *self.operands()))  # type: ignore[no-untyped-call]

    def agreement(self, parents_BJE: Tensor) -> Tensor:  # noqa: D102
        parents_BJE = at_least_single(parents_BJE)
        return cast("Tensor", Agreement.apply(parents_BJE, *self.operands()))  # type: ignore[no-untyped-call]

    def materialise(self) -> Tensor:  # noqa: D102
        with without_autocast(self.poses_BID.device.type):
            return materialised(self._poses_BDI, self._weight_JEDI, self._product_type)

    def fold(self, coupling_JI: Tensor) -> Tensor:
        """The linear map (J*E, D*I) from flattened poses (B, D*I) to the weighted sums (B, J*E)."""
        if self._folds is not None:
            return self._folds.get(self._weight_JEDI, coupling_JI)
        return fold(self._weight_JEDI, coupling_JI)

    def detach(self) -> "LinearVotes":  # noqa: D102
        other = copy.copy(self)
        other.poses_BID, other._poses_BDI = self.poses_BID.detach(), self._poses_BDI.detach()
        other._weight_JEDI = self._weight_JEDI.detach()
        return other

    def recipe(self) -> Recipe:  # noqa: D102
        return Recipe(VectorVoteMaker, self._poses_BDI, self._weight_JEDI, self._product_type)

    def _linear(self, weight: Tensor) -> Tensor:
        """Weighted sums by one matrix product, under autocast in its type."""
        sums = F.linear(self._poses_BDI.flatten(1), weight)
        return at_least_single(sums).view(self.shape[:3])

    def operands(self) -> tuple[Tensor, Tensor, Tensor | None, torch.dtype | None]:
        """Poses (B, D, I), weight, the votes if they are built, and the type of products if it differs."""
        return self._poses_BDI, self._weight_JEDI, self._built(), self._product_type

    def _built(self) -> Tensor | None:
        """The votes for forward passes in the materialised form, without gradients through them."""
        if self.form == "materialised" and self._votes_BJEI is None:
            with torch.no_grad():
                self._votes_BJEI = materialised(self._poses_BDI, self._weight_JEDI, self._product_type)
        return self._votes_BJEI


def fold(weight_JEDI: Tensor, coupling_JI: Tensor) -> Tensor:
    """Couplings that all images share, multiplied into the transformation matrices: (J*E, D*I)."""
    return (weight_JEDI * coupling_JI[:, None, None].to(weight_JEDI.dtype)).flatten(0, 1).flatten(1)


class FoldCache:
    """The last folded weight of a layer, valid as long as neither weight nor coupling change.

    torch's version counter detects changes, except a change through ``.data``: call ``clear`` after such a change (a
    layer does so in ``train()`` and ``eval()``).
    """

    def __init__(self) -> None:
        self._parts: tuple[Tensor, ...] = ()  # held, so that no new tensor gets their memory
        self._versions: tuple[int, ...] = ()
        self._folded: Tensor | None = None

    def get(self, weight_JEDI: Tensor, coupling_JI: Tensor) -> Tensor:
        """The folded weight; computed again where gradients are needed, or where changes cannot be detected."""
        parts = (weight_JEDI, coupling_JI)
        if torch.is_grad_enabled() or any(part.is_inference() for part in parts):
            return fold(weight_JEDI, coupling_JI)
        versions = tuple(part._version for part in parts)
        same = versions == self._versions and all(map(_same_memory, self._parts, parts))
        if self._folded is None or not same:
            self._parts, self._versions = tuple(part.detach() for part in parts), versions
            self._folded = fold(weight_JEDI, coupling_JI)
        return self._folded

    def clear(self) -> None:
        """Drop the folded weight, and free its memory."""
        self._parts, self._versions, self._folded = (), (), None


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and one.is_set_to(other)


MOST_BUILT_BYTES = 32 << 20
"""Votes larger than this are not built: the system allocates their memory each time, which takes most of the time."""


def choose_form(shape: tuple[int, int, int, int], components: int, device: str = "cpu") -> Form:
    r"""The faster form for votes of this shape by children of this many components.

    In the factored form an operator passes over B x J x D x I numbers, on built votes over B x J x E x I.  The
    construction of the votes costs as much as several operators, mostly for memory.  So it pays where parents have far
    fewer components than children and the votes are small.  The table gives the time of the factored form over that of
    the materialised one, for forward passes with three iterations on one core of an AMD EPYC, as ranges over I, J, B =
    144, 10, 128; 144, 32, 128; 1152, 10, 32; 1152, 10, 128; 1152, 32, 32:

    ====== ========= ========= ========= =========
    D \ E  4         8         16        32
    ====== ========= ========= ========= =========
    4      0.3-0.8   0.2-0.5   0.1-0.2   0.1
    8      0.5-1.4   0.5-0.9   0.2-0.5   0.1-0.2
    16     1.6-1.9   0.7-1.8   0.4-1.0   0.3-0.7
    32     1.5-3.6   1.0-2.5   0.5-1.3   0.4-0.9
    ====== ========= ========= ========= =========

    Where D = 4 E, the ratios below 1.2 are of votes of more than 32 MiB.  With two iterations the construction pays
    less, and with more than three it pays more; backward passes are the same in both forms.

    For large votes, a training step in pieces takes 0.8 to 1.0 times the time of the factored form where E <= D, and a
    sixth of its memory; with E = 2 D it takes 1.5 times the time.
    """
    large = 4 * math.prod(shape) > MOST_BUILT_BYTES
    if large and shape[2] <= components and device == "cpu":
        return "pieces"
    return "materialised" if not large and 4 * shape[2] <= components else "factored"
