"""Pruning of channels in plain PyTorch: criteria, selection, merging, and the construction of a smaller network.

:func:`prune` does all of it at once.  Its steps are :func:`score` (by a :class:`Criterion`: :class:`Chip`,
:class:`Cosine`, :class:`Magnitude`, :class:`Random`), :func:`select` (a :class:`Selection` or :class:`Fewer`),
:func:`find_partners` (merging, layer by layer :func:`partners`) and :func:`shrink`.  A network must offer what
:class:`~capsexp.nn.ChannelNetwork` describes; :func:`check_network` says in one line what it lacks.
"""

from capsexp.pruning.base import Criterion, Layer
from capsexp.pruning.chip import Chip
from capsexp.pruning.contract import check_network
from capsexp.pruning.cosine import Cosine
from capsexp.pruning.magnitude import Magnitude
from capsexp.pruning.merging import partners
from capsexp.pruning.random import Random
from capsexp.pruning.selection import Fewer, Selection
from capsexp.pruning.steps import Pruned, find_partners, prune, score, select
from capsexp.pruning.surgery import shrink, transplant

__all__ = [
    "Chip",
    "Cosine",
    "Criterion",
    "Fewer",
    "Layer",
    "Magnitude",
    "Pruned",
    "Random",
    "Selection",
    "check_network",
    "find_partners",
    "partners",
    "prune",
    "score",
    "select",
    "shrink",
    "transplant",
]
