"""Capsule layers of all members of a stack, and the decoder after them.

Shape letters are those of :mod:`capsexp.stacking.layers`.  Capsules are ordered as maps are, (B, N*I, D), the first
member's first.  The types that a narrower member lacks follow its own and are zero.  Such children cast no vote, so
they do not change the member's result.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from capsexp.nn.capsules import ClassCapsules, Given, capsules_of
from capsexp.nn.decoder import Decoder
from capsexp.nn.functional import at_least_single
from capsexp.nn.votes import LinearVotes, Votes
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.max_min import MaxMin
from capsexp.routing.uniform import Uniform
from capsexp.stacking.convolutions import apart
from capsexp.stacking.layers import Fold, FoldedLayer
from capsexp.types import RoutingOutput

ROUTINGS = (Dynamic, MaxMin, Uniform)
"""Routing algorithms that have no tensors of their own and treat each image independently."""


def routes_alone(layer: ClassCapsules) -> bool:
    """True if a layer's coupling depends only on an image's votes, so that members can share the routing."""
    plain = type(layer.routing) in ROUTINGS and not layer.routing.state_dict()
    plain = plain and not layer.matrix and layer.weight.shape[3] == layer.child_count and layer.offset_EI is None
    return plain and layer.inference == "dynamic" and layer.master_JI is None


class JointVotes(Votes):
    """The members' votes as one batch: the votes of image b and member n are at index b * N + n.

    Routing treats all images alike, so it can treat members as images.  Each member's own operator computes its part.

    Args:
        members: the votes (B, J, E, I) of each member, without masks.
    """

    def __init__(self, members: Sequence[Votes]) -> None:
        self._members = members

    @property
    def shape(self) -> tuple[int, int, int, int]:  # noqa: D102
        batch, *rest = self._members[0].shape
        return cast("tuple[int, int, int, int]", (batch * len(self._members), *rest))

    def weighted_sum(self, coupling: Tensor | float) -> Tensor:  # noqa: D102
        if not isinstance(coupling, Tensor) or coupling.dim() == 2:
            return _beside(votes.weighted_sum(coupling) for votes in self._members)
        each = zip(self._members, self._apart(coupling), strict=True)
        return _beside(votes.weighted_sum(own_BJI) for votes, own_BJI in each)

    def agreement(self, parents_BJE: Tensor) -> Tensor:  # noqa: D102
        each = zip(self._members, self._apart(parents_BJE), strict=True)
        return _beside(votes.agreement(own_BJE) for votes, own_BJE in each)

    def materialise(self) -> Tensor:  # noqa: D102
        return _beside(votes.materialise() for votes in self._members)

    def detach(self) -> JointVotes:  # noqa: D102
        return JointVotes([votes.detach() for votes in self._members])

    def _apart(self, values: Tensor) -> Sequence[Tensor]:
        """Each member's part of a tensor with one entry per image and member."""
        return values.view(-1, len(self._members), *values.shape[1:]).unbind(1)


def _beside(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts), 1).flatten(0, 1)


class FoldedClassCapsules(FoldedLayer):
    """``ClassCapsules`` of all members, which share one routing call."""

    weight: Tensor

    def __init__(self, members: Sequence[ClassCapsules], fold: Fold) -> None:
        super().__init__(members, fold)
        self.routing = copy.deepcopy(members[0].routing)

    def forward(self, children: Given) -> RoutingOutput:
        """Compute poses (B, N*J, E), activations (B, N*J) and coupling (B, N*J, I)."""
        members, parents = self.weight.shape[:2]
        poses_BID = capsules_of(children).poses
        each = zip(poses_BID.chunk(members, 1), self.weight.unbind(), strict=True)
        made = self.routing(JointVotes([LinearVotes(own_BID, own_JEDI) for own_BID, own_JEDI in each]))
        self.fold.widths_N = [parents] * members
        return RoutingOutput(*(part.reshape(len(poses_BID), members * parents, *part.shape[2:]) for part in made))


class FoldedDecoder(FoldedLayer):
    """``Decoder`` of all members, each with its own class to draw; its layers are folded like others."""

    def __init__(self, members: Sequence[Decoder], fold: Fold) -> None:
        super().__init__(members, fold)
        self.layers = copy.deepcopy(members[0].layers)
        self.classes, self.image_shape = members[0].classes, members[0].image_shape

    def longest(self, lengths_BK: Tensor) -> Tensor:
        """The index of the longest capsule of each member (B, N), from lengths (B, N*K)."""
        return apart(lengths_BK, self.fold.members).argmax(2)

    def forward(self, poses_BKE: Tensor, shown_BS: Tensor) -> Tensor:
        """Draw images (B, N*C, H, W) from class ``shown_BS`` alone, for every member of each stream."""
        poses_BNKE = apart(poses_BKE, self.fold.members)
        shown_BN = shown_BS.repeat_interleave(self.fold.members // shown_BS.shape[1], 1)
        shown_BNK = F.one_hot(shown_BN, self.classes).bool()
        precision = next(self.layers.parameters()).dtype  # half precision if the networks use it
        drawn: Tensor = self.layers(poses_BNKE.where(shown_BNK[..., None], 0).flatten(1).to(precision))
        channels, height, width = self.image_shape
        return at_least_single(drawn).view(-1, self.fold.members * channels, height, width)
