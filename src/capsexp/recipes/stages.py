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
"""The digest of a cell's work, without some (dotted) keys of its config."""

Settings = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    Two stages are the same where they have the same name, the same parent, and configs that differ in nothing but the
    keys that are irrelevant for both.  A key that nobody has thought of counts.

    Attributes:
        name: what it is called; part of its folder's name.
        parent: the stage that it starts from; None for one that starts from nothing.
        irrelevant: dotted keys of the config that do not change what it computes.
        settings: the values that it computes with where these are not the config's: by the dotted key whose place they
            take, or by a name of their own.  In plain types.
    """

    name: str
    parent: "Stage | None" = None
    irrelevant: tuple[str, ...] = ()
    settings: Settings = ()


@dataclass(frozen=True)
class StageResult:
    """A stage that is done.

    Attributes:
        directory: its folder, laid out as a cell's: checkpoints, metrics, arrays.
        facts: what its work returned.
    """

    directory: Path
    facts: dict[str, Any]


class StageMemo:
    """The stages below ``folder``, shared by all cells and sweeps that lie beside it.

    A stage's folder is named after the digest of all that may decide its outcome, so an equal one is never computed
    twice, and a changed one never mistaken.  Its result file is written last; without it the work goes on from the
    checkpoint that an interrupted fit has left there, or starts over.  The folder may be removed whenever nothing runs.

    Args:
        folder: where they lie.
        make_key: the digest of the present cell's work.
    """

    def __init__(self, folder: Path, make_key: MakeKey) -> None:
        self._folder, self._make_key = folder, make_key

    def directory(self, stage: Stage) -> Path:
        """Where a stage lies, done or not."""
        parent = None if stage.parent is None else self.directory(stage.parent).name
        replaced = [key for key, _ in stage.settings]
        decides = json.dumps([parent, self._make_key((*stage.irrelevant, *replaced)), stage.settings])
        return self._folder / f"{stage.name}-{hashlib.sha256(decides.encode()).hexdigest()[: records.ID_LENGTH]}"

    def get(self, stage: Stage, work: Callable[[Path], dict[str, Any]]) -> StageResult:
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
        return StageResult(directory, facts)

    def check(self, stage: Stage) -> None:
        """Raise :class:`StageBusy` if another process is computing a stage; costs nothing else."""
        directory = self.directory(stage)
        if directory.exists() and records.read_result(directory, records.STAGE) is None:
            lock = FileLock(directory / records.LOCK, blocking=False)
            _take(lock, stage, directory)
            lock.release()

    def _compute(self, stage: Stage, directory: Path, work: Callable[[Path], dict[str, Any]]) -> StageResult:
        log.info("stage %s: being computed in %s", stage.name, directory.name)
        for leftover in directory.rglob(".*.????????"):  # a temporary file of a process that was killed while writing
            leftover.unlink(missing_ok=True)
        records.write_result(directory, work(directory), records.STAGE)
        (directory / records.RESUME_CHECKPOINT).unlink(missing_ok=True)
        facts = records.read_result(directory, records.STAGE)
        assert facts is not None
        return StageResult(directory, facts)


def keep_history(stage: StageResult, directory: Path, name: str = records.METRICS) -> None:
    """A copy of a stage's epochs for the cell's own folder, under this name."""
    records.write_text(directory / name, (stage.directory / records.METRICS).read_text(encoding="utf-8"))


def _take(lock: FileLock, stage: Stage, directory: Path) -> None:
    try:
        lock.acquire()
    except Timeout as error:
        raise StageBusy(f"{stage.name} ({directory.name}) is being computed by another cell") from error
