"""Routing algorithms, from the votes for the capsules of a layer to their poses.

:class:`Dynamic`, :class:`MaxMin`, :class:`Uniform`, :class:`Fixed`, :class:`SelfRouting`, :class:`SelfAttention`,
:class:`InvertedAttention`, :class:`Optimised`, :class:`EM` and :class:`VariationalBayes` are handed to a capsule layer
as constructors (``functools.partial(MaxMin, iterations=2)``).  An algorithm of one's own inherits from
:class:`AgreementRouting` (the loop is there already), from :class:`OnePass` (the keys of a loop, without effect) or
from :class:`Routing`, and returns a :class:`RoutingOutput`.
"""

from capsexp.routing.base import AgreementRouting, Routing
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.em import EM
from capsexp.routing.fixed import Fixed
from capsexp.routing.inverted_attention import InvertedAttention
from capsexp.routing.max_min import MaxMin
from capsexp.routing.one_pass import OnePass
from capsexp.routing.optimised import Optimised
from capsexp.routing.self_attention import SelfAttention
from capsexp.routing.self_routing import SelfRouting
from capsexp.routing.uniform import Uniform
from capsexp.routing.variational_bayes import VariationalBayes
from capsexp.types import RoutingOutput

__all__ = [
    "EM",
    "AgreementRouting",
    "Dynamic",
    "Fixed",
    "InvertedAttention",
    "MaxMin",
    "OnePass",
    "Optimised",
    "Routing",
    "RoutingOutput",
    "SelfAttention",
    "SelfRouting",
    "Uniform",
    "VariationalBayes",
]
