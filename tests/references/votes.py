"""Votes, their weighted sums and agreements, one multiplication at a time.

Numbers are torch scalars in nested lists, so that autograd follows the loops and gives the reference's gradients too.
"""

from typing import Any

import torch
from torch import Tensor

Scalars = list[Any]
"""Lists in lists, down to tensors of one float64."""


def scalars(tensor: Tensor, together: int = 0) -> Scalars:
    """A tensor as nested lists of its numbers, or of its last dimensions left together; all stays differentiable."""
    return [scalars(row, together) if row.dim() > together else row for row in tensor.unbind()]


def stacked(nested: Scalars) -> Tensor:
    """Nested lists of numbers as a tensor again."""
    return torch.stack([stacked(each) if isinstance(each, list) else each for each in nested])


def vote(pose_D: Scalars, weight_ED: Scalars) -> Scalars:
    """One child's vote for one parent: the transformation matrix times its pose."""
    return [sum(weight_ED[e][d] * pose_D[d] for d in range(len(pose_D))) for e in range(len(weight_ED))]


def votes(poses_BID: Scalars, weight_JIED: Scalars) -> Scalars:
    """Sabour et al. (2017), equation (2): every child's vote for every parent, [b][j][i][e]."""
    parents, children = range(len(weight_JIED)), range(len(weight_JIED[0]))
    return [[[vote(poses_ID[i], weight_JIED[j][i]) for i in children] for j in parents] for poses_ID in poses_BID]


def weighted_sum(votes_IE: Scalars, coupling_I: Scalars) -> Scalars:
    """One parent's s_j: the sum over the children of c_ij times their vote."""
    return [sum(coupling_I[i] * votes_IE[i][e] for i in range(len(votes_IE))) for e in range(len(votes_IE[0]))]


def agreement(vote_E: Scalars, parent_E: Scalars) -> Tensor:
    """The scalar product of one vote and its parent's pose."""
    return sum(vote_E[e] * parent_E[e] for e in range(len(vote_E)))
