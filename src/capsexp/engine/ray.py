"""The engine for a Ray cluster: workers are actors on the nodes of an existing cluster.

Each node is a device; nodes may join and leave.  ``ray_cluster`` connects to the cluster and checks its nodes,
``ray_workers`` has the actors.
"""

import contextlib
import functools
import pickle
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.cell import Cell
from capsexp.engine import local, ray_cluster
from capsexp.engine.base import Group, Listener, Summary, Work
from capsexp.engine.devices import Devices, Slot
from capsexp.engine.options import WORKER_BYTES, Layout, Options, environment
from capsexp.engine.ray_cluster import Node, SharedFolder
from capsexp.engine.ray_workers import RayPool, RayWorker, StopFile, wait_until_free
from capsexp.engine.scheduler import Scheduler
from capsexp.errors import ConfigError, require

FOLLOW_S = 1.0
"""Seconds between two updates of the list of nodes."""

SUSPECT_S = 30.0
"""Seconds without new work for a node that could not be reached: by then Ray knows whether it is dead."""

GRAIN = 10_000
"""Number of parts of a GPU in Ray's accounting."""


@dataclass
class NodeSlot(Slot):
    """A node and its current load.

    Attributes:
        name: its address.
        suspect: the node gets no work until this time (monotonic seconds).
    """

    name: str = ""
    suspect: float = 0.0

    @property
    def where(self) -> str:
        """The node, for display."""
        return f"node {self.name}"


@dataclass(frozen=True)
class Need:
    """The resources of a worker on a node.

    Attributes:
        cpus: the number of threads of a cell.
        per_gpu: workers per GPU; None = no GPU.
        max_cells: whether the user has set the number of concurrent cells, so that memory does not limit it.
    """

    cpus: int
    per_gpu: int | None
    max_cells: bool = False

    def capacity(self, node: Node) -> int:
        """The number of workers that fit on a node."""
        fit = node.cpus // self.cpus
        if self.per_gpu is not None:
            return min(fit, node.gpus * self.per_gpu)
        return fit if self.max_cells or not fit else min(fit, max(1, node.memory // WORKER_BYTES))

    def resources(self) -> dict[str, float]:
        """The resources in Ray's format; parts of a GPU are rounded down, so that ``per_gpu`` workers fit."""
        gpus = {} if self.per_gpu is None else {"num_gpus": GRAIN // self.per_gpu / GRAIN if self.per_gpu > 1 else 1}
        return {"num_cpus": self.cpus, **gpus}


def need_of(layout: Layout, nodes: list[Node], max_cells: int | None) -> Need:
    """The resources of a worker of this sweep, given the nodes of the cluster.

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


class ClusterDevices(Devices):
    """The present nodes of a cluster.

    Args:
        need: the resources of a worker.
        most: concurrent cells on all nodes.
        nodes: the nodes that have been checked.
        shared: the folder that a node which joins later must see.
        notify: prints a message for the user.
    """

    def __init__(
        self, need: Need, most: int, nodes: list[Node], shared: SharedFolder, notify: Callable[[str], None]
    ) -> None:
        super().__init__([], 1, most)
        self._need, self._shared, self._notify = need, shared, notify
        self._known = {node.id: self._slot_of(node) for node in nodes}
        self._asked: dict[str, Any] = {}
        self._looked = 0.0
        self.follow(now=True)

    def take(self, *, alone: bool = False) -> Slot | None:
        """Reserve a place for a worker on the least loaded node; None if no node has room."""
        self.follow()
        return super().take(alone=alone)

    def measured(self, peak_bytes: int, total_bytes: int) -> int | None:
        """Change nothing: a worker's share of a GPU is fixed when it is created."""

    def suspect(self, node_id: str) -> None:
        """Give no work to a node that cannot be reached, for :data:`SUSPECT_S`."""
        self._known[node_id].suspect = time.monotonic() + SUSPECT_S
        self.follow(now=True)

    def has(self, node_id: str) -> bool:
        """True if a node is known to be alive and reachable."""
        self.follow(now=True)
        return node_id in {slot.device for slot in self.slots}

    def follow(self, *, now: bool = False) -> None:
        """Update the list of nodes, at most once per :data:`FOLLOW_S` unless ``now``."""
        moment = time.monotonic()
        if not now and moment - self._looked < FOLLOW_S:
            return
        self._looked = moment
        alive = {node.id: node for node in ray_cluster.nodes()}
        for node in alive.values():
            if node.id not in self._known:
                self._meet(node)
        there = [slot for key, slot in self._known.items() if key in alive and slot.suspect < moment]
        self.slots = [slot for slot in there if slot.capacity]
        if not self.slots:
            self._notify("no node of the cluster is there for further cells: they wait for one (Ctrl-C stops)")

    def _meet(self, node: Node) -> None:
        """Add a node that has joined, once it has inspected the shared folder without a fault."""
        import ray

        fault, slot = None, self._slot_of(node)
        if slot.capacity:
            if node.id not in self._asked:
                self._asked[node.id] = self._shared.ask(node)
            if not ray.wait([self._asked[node.id]], timeout=0)[0]:
                return
            fault = self._shared.fault(node, self._asked[node.id])
        if fault:
            slot.capacity = 0
            self._notify(f"a node that has joined gets no cells: hydra.launcher.address must {fault}")
        self._known[node.id] = slot

    def _slot_of(self, node: Node) -> NodeSlot:
        return NodeSlot(node.id, self._need.capacity(node), name=node.name)


class RayBackend:
    """Actors on the nodes of a cluster; see :class:`~capsexp.engine.base.Backend`.

    They belong to this process: if it is killed, Ray ends them.  Each also ends with its node's own Ray process.

    Args:
        devices: the nodes.
        stop: the flag that running cells check.
        start_worker: creates an actor on a node, by the node's id.
        groups: groups after which a worker is replaced, or None.
        notify: prints a message for the user.
    """

    def __init__(
        self,
        devices: ClusterDevices,
        stop: StopFile,
        start_worker: Callable[[str], Any],
        groups: int | None,
        notify: Callable[[str], None],
    ) -> None:
        self._devices, self._stop, self._start_worker = devices, stop, start_worker
        self._groups, self._notify = groups, notify
        self._pools: list[RayPool] = []

    def pool(self, slot: Slot, size: int) -> RayPool:
        """New workers on a node."""
        assert isinstance(slot, NodeSlot), "the devices are this engine's own"
        node = str(slot.device)
        start_worker = functools.partial(self._start_worker, node)
        there = functools.partial(self._is_there, node)
        self._pools.append(RayPool(size, slot.name, start_worker, self._groups, there, self._notify))
        return self._pools[-1]

    def _is_there(self, node: str, reached: bool) -> bool:
        if not reached:
            self._devices.suspect(node)
        return self._devices.has(node)

    def ask_to_stop(self) -> None:
        """Raise the flag that running cells check; groups that have not started are dropped."""
        self._stop.write("stop")
        for each in self._pools:
            each.drop_waiting()

    def end(self) -> None:
        """Kill all workers, and wait until their cells' locks are free."""
        groups = [group for each in self._pools for group in each.kill()]
        wait_until_free(groups)

    def close(self) -> None:
        """Kill all workers; on other nodes, their temporary folders stay until the next worker starts there."""
        self.end()
        records.clear_folders()

    def cause_of(self, error: BaseException, timeout: float | None) -> tuple[records.Kind, str]:
        """The kind and cause of a group's failure; see :func:`capsexp.engine.local.cause_of`."""
        return local.cause_of(error, timeout)

    def is_lost(self, cell: Cell, since: float) -> bool:
        """False: Ray reports every process that ends."""
        return False


class RayEngine:
    """Runs cells on the nodes of a Ray cluster; one object runs one sweep.

    Args:
        options: the launcher's settings.
        layout: the requirements of a cell.
        work: the task for each group.

    Raises:
        ConfigError: there is no such cluster, or no node of it has room for a cell.
    """

    def __init__(self, options: Options, layout: Layout, work: Work) -> None:
        rule = "be auto or [] in a cluster, where Ray says which cell gets which GPU"
        require(not options.gpus, "hydra.launcher.gpus", rule, list(options.gpus or ()))
        self._options, self._layout, self._work = options, layout, work
        self._connected = ray_cluster.connect(options.address)
        try:
            self._nodes = ray_cluster.nodes()
            self._need = need_of(layout, self._nodes, options.max_cells)
        except ConfigError:
            self._disconnect()
            raise
        self._nodes = [node for node in self._nodes if self._need.capacity(node)]

    @property
    def at_once(self) -> int:
        """Number of concurrent groups, by the present nodes of the cluster."""
        return min(self._layout.most, sum(self._need.capacity(node) for node in self._nodes))

    def run(self, groups: Sequence[Group], listener: Listener) -> Summary:
        """Run the groups; see :class:`~capsexp.engine.base.Engine`."""
        if not groups:
            return Summary()
        try:
            with contextlib.closing(SharedFolder(groups[0][0].directory.parent)) as shared:
                shared.check(self._nodes, self._options.address)
                devices = ClusterDevices(self._need, self._layout.most, self._nodes, shared, listener.message)
                start_worker, limit = functools.partial(self._start_worker, shared), self._options.max_cells_per_worker
                backend = RayBackend(devices, shared.stop, start_worker, limit, listener.message)
                return Scheduler(self._options, devices, backend).run(groups, listener)
        finally:
            self._disconnect()

    def _start_worker(self, shared: SharedFolder, node: str) -> Any:
        """A new actor on a node; Ray creates it when the node has room."""
        import ray

        hidden = "" if self._layout.devices == ("",) else None
        variables = environment(hidden, self._layout.threads) | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        where = {"scheduling_strategy": ray_cluster.on(node), **self._need.resources()}
        actor = ray.remote(RayWorker).options(max_restarts=0, max_task_retries=0, **where)
        return actor.remote(Path.cwd(), variables, shared.stop, pickle.dumps(self._work))

    def _disconnect(self) -> None:
        if self._connected:
            ray_cluster.disconnect()
