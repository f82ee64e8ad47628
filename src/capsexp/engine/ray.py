"""The engine beyond one machine: workers are actors on the nodes of a Ray cluster that is there already.

Where they may run is in ``ray_places``, the workers of a node in ``ray_crew``, what runs inside them in ``ray_worker``,
the folder that all must see in ``ray_shared``, and how the cluster is reached in ``ray_cluster``.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from capsexp import cell as cell_life
from capsexp import records
from capsexp.cell import Cell
from capsexp.engine import base, crew, ray_cluster, worker
from capsexp.engine.base import Lot, Tally, Watcher
from capsexp.engine.loop import Loop
from capsexp.engine.options import Layout, Options, environment
from capsexp.engine.places import Place
from capsexp.engine.ray_crew import Gone, RayCrew, wait_until_free
from capsexp.engine.ray_places import NodePlace, NodePlaces, need_of
from capsexp.engine.ray_shared import Shared
from capsexp.engine.ray_worker import RayWorker, StopFile
from capsexp.errors import ConfigError, require
from capsexp.stacking.settings import Settings


class RayStaff:
    """Actors on the nodes of a cluster; see :class:`~capsexp.engine.base.Staff`.

    They belong to this process: if it is killed, Ray ends them.  Each also ends with its node's own Ray process.

    Args:
        places: where they may be.
        stop: the flag that running cells look at.
        hire: makes an actor on a node, by the node's id.
        told: makes an actor's arguments from a lot.
        lots: lots after which a worker is replaced, or None.
        say: tells the user something.
    """

    def __init__(
        self,
        places: NodePlaces,
        stop: StopFile,
        hire: Callable[[str], Any],
        told: Callable[[Lot], tuple[Any, ...]],
        lots: int | None,
        say: Callable[[str], None],
    ) -> None:
        self._places, self._stop, self._hire, self._told = places, stop, hire, told
        self._lots, self._say = lots, say
        self._crews: list[RayCrew] = []

    def crew(self, place: Place, size: int) -> base.Crew:
        """New workers on a node."""
        assert isinstance(place, NodePlace), "the places are this engine's own"
        node = str(place.device)
        hire = functools.partial(self._hire, node)
        there = functools.partial(self._is_there, node)
        self._crews.append(RayCrew(size, place.name, hire, self._told, self._lots, there, self._say))
        return self._crews[-1]

    def _is_there(self, node: str, reached: bool) -> bool:
        if not reached:
            self._places.suspect(node)
        return self._places.has(node)

    def ask_to_stop(self) -> None:
        """Raise the flag that running cells look at; what has not begun never will."""
        self._stop.write("stop")
        for each in self._crews:
            each.drop_waiting()

    def end(self) -> None:
        """Kill all workers, and wait until they are gone."""
        lots = [lot for each in self._crews for lot in each.kill()]
        wait_until_free(lots)

    def close(self) -> None:
        """No process stays."""
        self.end()

    def cause_of(self, error: BaseException, timeout: float | None) -> tuple[records.Kind, str]:
        """What ended a lot that could not say so itself."""
        return (error.kind, error.cause) if isinstance(error, Gone) else crew.cause_of(error, timeout)

    def is_lost(self, cell: Cell, since: float) -> bool:
        """Never: Ray tells of every process that ends."""
        return False


class RayEngine:
    """Runs cells on the nodes of a Ray cluster; one object runs one sweep.

    Args:
        options: the launcher's settings.
        layout: what a cell needs and wants.
        work: what is done with a cell on its own.
        together: what is done with a lot of several.
        settings: how those are trained.

    Raises:
        ConfigError: there is no such cluster, or no node of it has room for a cell.
    """

    def __init__(
        self,
        options: Options,
        layout: Layout,
        work: worker.Work = cell_life.run,
        together: worker.Together = worker.stack,
        settings: Settings = Settings(),  # noqa: B008 - frozen
    ) -> None:
        rule = "be auto or [] in a cluster, where Ray says which cell gets which GPU"
        require(not options.gpus, "hydra.launcher.gpus", rule, list(options.gpus or ()))
        self._options, self._layout = options, layout
        self._work, self._together, self._settings = work, together, settings
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
        """How many lots run together, by what the cluster has now."""
        return min(self._layout.most, sum(self._need.capacity(node) for node in self._nodes))

    def run(self, lots: Sequence[Lot], watcher: Watcher) -> Tally:
        """Run the lots; see :class:`~capsexp.engine.base.Engine`."""
        if not lots:
            return Tally()
        try:
            with contextlib.closing(Shared(lots[0][0].directory.parent)) as shared:
                shared.check(self._nodes, self._options.address)
                places = NodePlaces(self._need, self._layout.most, self._nodes, shared, watcher.said)
                hire, limit = functools.partial(self._hire, shared), self._options.max_cells_per_worker
                staff = RayStaff(places, shared.stop, hire, self._told, limit, watcher.said)
                return Loop(self._options, places, staff).run(lots, watcher)
        finally:
            self._disconnect()

    def _hire(self, shared: Shared, node: str) -> Any:
        """A new actor on a node; it comes to be when the node has room."""
        import ray

        hidden = "" if self._layout.devices == ("",) else None
        variables = environment(hidden, self._layout.threads) | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        warm = self._work.__module__ == "capsexp.cell"
        where = {"scheduling_strategy": ray_cluster.on(node), **self._need.resources()}
        actor = ray.remote(RayWorker).options(max_restarts=0, max_task_retries=0, **where)
        return actor.remote(Path.cwd(), variables, shared.stop, warm)

    def _told(self, lot: Lot) -> tuple[Any, ...]:
        """What an actor gets to do."""
        cells = tuple(replace(cell, directory=cell.directory.absolute()) for cell in lot)
        return self._work, self._together, cells, self._settings

    def _disconnect(self) -> None:
        if self._connected:
            ray_cluster.disconnect()
