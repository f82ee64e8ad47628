"""Where in a cluster a cell may start: each node is a place, and nodes come and go."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from capsexp.engine import ray_cluster
from capsexp.engine.options import WORKER_BYTES, Layout
from capsexp.engine.places import Place, Places
from capsexp.engine.ray_cluster import Node
from capsexp.engine.ray_shared import Shared
from capsexp.errors import require

FOLLOW_S = 1.0
"""Seconds between two looks at which nodes are there."""

SUSPECT_S = 30.0
"""How long a node gets nothing after it could not be reached: by then Ray has found out whether it is dead."""

GRAIN = 10_000
"""Ray counts parts of a GPU in this many."""


@dataclass
class NodePlace(Place):
    """A node and what it holds.

    Attributes:
        name: its address.
        suspect: it gets nothing until then (monotonic seconds).
    """

    name: str = ""
    suspect: float = 0.0

    @property
    def where(self) -> str:
        """The place, for people."""
        return f"node {self.name}"


@dataclass(frozen=True)
class Need:
    """What a worker takes of a node.

    Attributes:
        cpus: as many as a cell has threads.
        per_gpu: workers on a GPU; None = no GPU.
        max_cells: the user has said how many cells run at once, so nobody guesses what memory lets fit.
    """

    cpus: int
    per_gpu: int | None
    max_cells: bool = False

    def capacity(self, node: Node) -> int:
        """How many workers a node has room for."""
        fit = node.cpus // self.cpus
        if self.per_gpu is not None:
            return min(fit, node.gpus * self.per_gpu)
        return fit if self.max_cells or not fit else min(fit, max(1, node.memory // WORKER_BYTES))

    def resources(self) -> dict[str, float]:
        """The same for Ray: parts of a GPU are rounded down, so that as many fit as should."""
        gpus = {} if self.per_gpu is None else {"num_gpus": GRAIN // self.per_gpu / GRAIN if self.per_gpu > 1 else 1}
        return {"num_cpus": self.cpus, **gpus}


def need_of(layout: Layout, nodes: list[Node], max_cells: int | None) -> Need:
    """What a worker of this sweep takes, once it is known what the cluster has.

    Raises:
        ConfigError: no node has room for one.
    """
    on_gpus = layout.devices != ("",) and any(node.gpus for node in nodes)
    need = Need(layout.threads, (layout.per_device or 1) if on_gpus else None, max_cells is not None)
    most = max((node.cpus for node in nodes if node.gpus or not on_gpus), default=0)
    fits = any(need.capacity(node) for node in nodes)
    kind = "a node with GPUs" if on_gpus else "a node"
    require(fits, "hydra.launcher.cpus_per_cell", f"be at most {most}, the CPUs of {kind}", layout.threads)
    return need


class NodePlaces(Places):
    """The nodes of a cluster, as they are now.

    Args:
        need: what a worker takes.
        most: cells at once altogether.
        nodes: those that have been checked.
        shared: what a node that joins later must see.
        say: tells the user something.
    """

    def __init__(self, need: Need, most: int, nodes: list[Node], shared: Shared, say: Callable[[str], None]) -> None:
        super().__init__([], 1, most)
        self._need, self._shared, self._say = need, shared, say
        self._known = {node.id: self._place(node) for node in nodes}
        self._asked: dict[str, Any] = {}
        self._looked = 0.0
        self.follow(now=True)

    def take(self, *, alone: bool = False) -> Place | None:
        """The emptiest node that can take one more worker, now counted there; None where there is none."""
        self.follow()
        return super().take(alone=alone)

    def measured(self, peak_bytes: int, total_bytes: int) -> int | None:
        """Change nothing: what a worker takes of a GPU is fixed when it is made."""

    def suspect(self, node_id: str) -> None:
        """A node cannot be reached: it gets nothing for a while."""
        self._known[node_id].suspect = time.monotonic() + SUSPECT_S
        self.follow(now=True)

    def has(self, node_id: str) -> bool:
        """Whether a node is there and can be reached, as far as is known."""
        self.follow(now=True)
        return node_id in {place.device for place in self.places}

    def follow(self, *, now: bool = False) -> None:
        """Look which nodes are there, unless that was a moment ago."""
        moment = time.monotonic()
        if not now and moment - self._looked < FOLLOW_S:
            return
        self._looked = moment
        alive = {node.id: node for node in ray_cluster.nodes()}
        for node in alive.values():
            if node.id not in self._known:
                self._meet(node)
        there = [place for key, place in self._known.items() if key in alive and place.suspect < moment]
        self.places = [place for place in there if place.capacity]
        if not self.places:
            self._say("no node of the cluster is there for further cells: they wait for one (Ctrl-C stops)")

    def _meet(self, node: Node) -> None:
        """A node has joined: it works as soon as it has looked around, if all is as it should be."""
        import ray

        fault, place = None, self._place(node)
        if place.capacity:
            if node.id not in self._asked:
                self._asked[node.id] = self._shared.ask(node)
            if not ray.wait([self._asked[node.id]], timeout=0)[0]:
                return
            fault = self._shared.fault(node, self._asked[node.id])
        if fault:
            place.capacity = 0
            self._say(f"a node that has joined gets no cells: hydra.launcher.address must {fault}")
        self._known[node.id] = place

    def _place(self, node: Node) -> NodePlace:
        return NodePlace(node.id, self._need.capacity(node), name=node.name)
