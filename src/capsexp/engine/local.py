"""The engine of one machine: worker processes, each bound to a device, fed from one queue."""

from collections.abc import Sequence
from typing import Any

from capsexp import cell as cell_life
from capsexp import records
from capsexp.cell import Cell
from capsexp.engine import base, crew, worker
from capsexp.engine.base import Lot, Tally, Watcher
from capsexp.engine.crew import SPAWN, Crew
from capsexp.engine.loop import Loop
from capsexp.engine.options import Layout, Options
from capsexp.engine.places import Place, Places
from capsexp.stacking.settings import Settings


class LocalStaff:
    """Worker processes of this machine; see :class:`~capsexp.engine.base.Staff`.

    If this process is killed, the system kills the workers.

    Args:
        options: the launcher's settings.
        threads: CPU threads of a worker.
        work: what is done with a cell on its own.
        together: what is done with a lot of several.
        settings: how those are trained.
    """

    def __init__(
        self, options: Options, threads: int, work: worker.Work, together: worker.Together, settings: Settings
    ) -> None:
        self._limit, self._threads = options.max_cells_per_worker, threads
        self._work, self._together, self._settings = work, together, settings
        self._stop_flag: Any = SPAWN.RawValue("b", 0)
        self._crews: list[Crew] = []

    def crew(self, place: Place, size: int) -> base.Crew:
        """New workers, bound to the place's device."""
        told = (self._threads, self._stop_flag, self._work, self._limit, self._together, self._settings)
        self._crews.append(Crew(place.device, size, *told))
        return self._crews[-1]

    def ask_to_stop(self) -> None:
        """Raise the flag that running cells look at."""
        self._stop_flag.value = 1

    def end(self) -> None:
        """Kill all workers."""
        crew.kill_all()

    def close(self) -> None:
        """No process stays: what it has to say is on the disk, and pebble's own way takes seconds for each."""
        for each in self._crews:
            each.close()
        crew.kill_all()
        for each in self._crews:
            each.stop()

    def cause_of(self, error: BaseException, timeout: float | None) -> tuple[records.Kind, str]:
        """What ended a lot that could not say so itself."""
        return crew.cause_of(error, timeout)

    def is_lost(self, cell: Cell, since: float) -> bool:
        """Whether the process that last wrote of this cell, since it was given out, is gone."""
        status = records.read_status(cell.directory)
        return status is not None and status.updated >= since and records.is_gone(status)


class LocalEngine:
    """Runs cells in worker processes of this machine; one object runs one sweep.

    Args:
        options: the launcher's settings.
        layout: what follows from them here.
        work: what is done with a cell on its own.
        together: what is done with a lot of several.
        settings: how those are trained.
    """

    def __init__(
        self,
        options: Options,
        layout: Layout,
        work: worker.Work = cell_life.run,
        together: worker.Together = worker.stack,
        settings: Settings = Settings(),  # noqa: B008 - frozen
    ) -> None:
        staff = LocalStaff(options, layout.threads, work, together, settings)
        self._loop = Loop(options, Places(layout.devices, layout.per_device, layout.most), staff)
        self.at_once = layout.most

    def run(self, lots: Sequence[Lot], watcher: Watcher) -> Tally:
        """Run the lots; see :class:`~capsexp.engine.base.Engine`."""
        return self._loop.run(lots, watcher)
