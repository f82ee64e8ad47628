"""Building blocks of capsule networks, as plain ``torch.nn`` modules and functions.

Capsule layers (:class:`PrimaryCapsules`, :class:`ConvCapsules`, :class:`ClassCapsules`, and :func:`as_children` between
grid and list), the choice between routing and master coefficients (:func:`set_inference`), the decoder, squashing
functions, votes, max pooling with unpooling, and what a network offers whose channels can be pruned
(:class:`ChannelNetwork`, :class:`Prunable`).
"""

from capsexp.nn.capsules import (
    CapsuleLayer,
    ClassCapsules,
    ConvCapsules,
    as_children,
    capsule_layers,
    set_inference,
)
from capsexp.nn.channels import ChannelLayer, ChannelNetwork, FeatureMaps, Follower, Prunable, Reader
from capsexp.nn.decoder import Decoder
from capsexp.nn.field import Field
from capsexp.nn.finish import LayerNorm, Squash
from capsexp.nn.functional import SQUASHES, lengths, squash, squash_exponential, squash_linear
from capsexp.nn.head import SharedScore
from capsexp.nn.matrix_votes import MatrixVotes
from capsexp.nn.primary import PrimaryCapsules
from capsexp.nn.shifted_votes import ShiftedVotes
from capsexp.nn.unpooling import max_pool, max_unpool
from capsexp.nn.votes import GivenVotes, LinearVotes, Votes
from capsexp.types import Capsules

__all__ = [
    "SQUASHES",
    "CapsuleLayer",
    "Capsules",
    "ChannelLayer",
    "ChannelNetwork",
    "ClassCapsules",
    "ConvCapsules",
    "Decoder",
    "FeatureMaps",
    "Field",
    "Follower",
    "GivenVotes",
    "LayerNorm",
    "LinearVotes",
    "MatrixVotes",
    "PrimaryCapsules",
    "Prunable",
    "Reader",
    "SharedScore",
    "ShiftedVotes",
    "Squash",
    "Votes",
    "as_children",
    "capsule_layers",
    "lengths",
    "max_pool",
    "max_unpool",
    "set_inference",
    "squash",
    "squash_exponential",
    "squash_linear",
]
