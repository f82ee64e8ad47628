"""Steps of recipes whose outcome other cells can use: computed once, kept in a folder of their own."""

import hashlib
import json
import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from capsexp import records
from capsexp.errors import StageBusy

log = logging.getLogger(__name__)

MakeKey = Callable[[Collection[str]], str]
"""The digest of a cell's work, without the groups of its config that a stage does not depend on."""


@dataclass(frozen=True)
class Stage:
    """One step of a recipe, as it is told from any other.

    Attributes:
        name: what it is called; part of its folder's name.
        without: the groups of the config that do not change what it computes.
        settings: what else decides it, in plain types.
    """

    name: str
    without: tuple[str, ...] = ()
    settings: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Finished:
    """A stage that is done.

    Attributes:
        directory: its folder, laid out as a cell's: checkpoints, metrics, arrays.
        facts: what its work returned.
    """

    directory: Path
    facts: dict[str, Any]


class StageMemo:
    """The stages below ``folder``, shared by all cells and sweeps that lie beside it.

    A stage's folder is named after the digest of all that decides its outcome, so an equal one is never computed twice,
    and a changed one never mistaken.  Its result file is written last; without it the work goes on from the checkpoint
    that an interrupted fit has left there, or starts over.  The folder may be removed whenever nothing runs.

    Args:
        folder: where they lie.
        make_key: the digest of the present cell's work.
    """

    def __init__(self, folder: Path, make_key: MakeKey) -> None:
        self._folder, self._make_key = folder, make_key

    def directory(self, stage: Stage) -> Path:
        """Where a stage lies, done or not."""
        decides = json.dumps([self._make_key(stage.without), stage.settings])
        return self._folder / f"{stage.name}-{hashlib.sha256(decides.encode()).hexdigest()[: records.ID_LENGTH]}"

    def get(self, stage: Stage, work: Callable[[Path], dict[str, Any]]) -> Finished:
        """A finished stage; ``work`` computes it in its folder and returns its facts, where nobody has yet.

        Raises:
            StageBusy: another process is computing it.
        """
        directory = self.directory(stage)
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / records.LOCK, blocking=False)
        facts = records.read_result(directory, records.STAGE)
        if facts is None:
            _take(lock, stage, directory)
            try:
                facts = records.read_result(directory, records.STAGE)
                if facts is None:
                    return self._compute(stage, directory, work)
            finally:
                lock.release()
        log.info("stage %s: taken from %s", stage.name, directory.name)
        return Finished(directory, facts)

    def check(self, stage: Stage) -> None:
        """Raise :class:`StageBusy` if another process is computing a stage; costs nothing else."""
        directory = self.directory(stage)
        if directory.exists() and records.read_result(directory, records.STAGE) is None:
            lock = FileLock(directory / records.LOCK, blocking=False)
            _take(lock, stage, directory)
            lock.release()

    def _compute(self, stage: Stage, directory: Path, work: Callable[[Path], dict[str, Any]]) -> Finished:
        log.info("stage %s: being computed in %s", stage.name, directory.name)
        for leftover in directory.rglob(".*.????????"):  # a temporary file of a process that was killed while writing
            leftover.unlink(missing_ok=True)
        records.write_result(directory, work(directory), records.STAGE)
        (directory / records.RESUME_CHECKPOINT).unlink(missing_ok=True)
        facts = records.read_result(directory, records.STAGE)
        assert facts is not None
        return Finished(directory, facts)


def keep_history(stage: Finished, directory: Path, name: str = records.METRICS) -> None:
    """A copy of a stage's epochs for the cell's own folder, under this name."""
    records.write_text(directory / name, (stage.directory / records.METRICS).read_text(encoding="utf-8"))


def _take(lock: FileLock, stage: Stage, directory: Path) -> None:
    try:
        lock.acquire()
    except Timeout as error:
        raise StageBusy(f"{stage.name} ({directory.name}) is being computed by another cell") from error
