"""Steps of recipes whose results cells share: computed once, each kept in its own folder."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from capsexp import records
from capsexp.errors import StageBusy

log = logging.getLogger(__name__)

MakeKey = Callable[[Collection[str]], str]
"""Function that computes the digest of a cell's work without some (dotted) keys of its config."""

Settings = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Stage:
    """One step of a recipe.

    Two stages are the same if they have the same name, the same parent, and configs that differ only in keys that are
    irrelevant for both.  A key that is not listed as irrelevant counts.

    Attributes:
        name: name of the stage; part of its folder's name.
        parent: the stage that it starts from; None for a stage without one.
        irrelevant: dotted keys of the config that do not change its result.
        settings: values that differ from the config, in plain types: by the dotted key that they replace, or by a name
            of their own.
    """

    name: str
    parent: "Stage | None" = None
    irrelevant: tuple[str, ...] = ()
    settings: Settings = ()


@dataclass(frozen=True)
class StageResult:
    """A finished stage.

    Attributes:
        directory: its folder, with the layout of a cell's folder: checkpoints, metrics, arrays.
        facts: the dictionary that its work returned.
    """

    directory: Path
    facts: dict[str, Any]


class StageMemo:
    """The stages below ``folder``, shared by all cells and sweeps beside it.

    A stage's folder is named after the digest of everything that may change its result.  So an equal stage is never
    computed twice, and a changed stage is never confused with it.  The result file is written last.  Without it the
    work continues from the checkpoint of an interrupted fit, or starts over.  A stage with a damaged or missing file is
    computed again.  The folder may be removed whenever
    nothing runs.

    Args:
        folder: folder of all stages.
        make_key: computes the digest of the present cell's work.
    """

    def __init__(self, folder: Path, make_key: MakeKey) -> None:
        self._folder, self._make_key = folder, make_key

    def directory(self, stage: Stage) -> Path:
        """The folder of a stage, finished or not."""
        parent = None if stage.parent is None else self.directory(stage.parent).name
        replaced = [key for key, _ in stage.settings]
        decides = json.dumps([parent, self._make_key((*stage.irrelevant, *replaced)), stage.settings])
        return self._folder / f"{stage.name}-{hashlib.sha256(decides.encode()).hexdigest()[: records.ID_LENGTH]}"

    def get(self, stage: Stage, work: Callable[[Path], dict[str, Any]]) -> StageResult:
        """A finished stage; if it is not finished yet, ``work`` computes it in its folder and returns its facts.

        Raises:
            StageBusy: another process is computing it.
        """
        directory = self.directory(stage)
        directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(directory / records.LOCK, blocking=False)
        facts = _finished(directory)
        if facts is None:
            _take(lock, stage, directory)
            try:
                facts = _finished(directory)
                if facts is None:
                    return self._compute(stage, directory, work)
            finally:
                lock.release()
        if (directory / records.RESUME_CHECKPOINT).exists():  # killed between the result and its removal
            (directory / records.RESUME_CHECKPOINT).unlink(missing_ok=True)
        log.info("stage %s: taken from %s", stage.name, directory.name)
        return StageResult(directory, facts)

    def check(self, stage: Stage) -> None:
        """Raise :class:`StageBusy` if another process is computing a stage; nothing is computed."""
        directory = self.directory(stage)
        if directory.exists() and _finished(directory) is None:
            lock = FileLock(directory / records.LOCK, blocking=False)
            _take(lock, stage, directory)
            lock.release()

    def _compute(self, stage: Stage, directory: Path, work: Callable[[Path], dict[str, Any]]) -> StageResult:
        log.info("stage %s: being computed in %s", stage.name, directory.name)
        for leftover in directory.rglob(".*.????????"):  # a temporary file of a process that was killed while writing
            leftover.unlink(missing_ok=True)
        if os.path.lexists(directory / records.STAGE):  # it was finished, and its files are damaged
            log.warning("stage %s: its files in %s are damaged; it is computed again", stage.name, directory)
            records.remove(directory / records.STAGE)
            records.remove(directory / records.RESUME_CHECKPOINT)
        for name in (records.METRICS, records.BEST_CHECKPOINT):
            records.remove(directory / name)
        records.write_result(directory, work(directory), records.STAGE)
        (directory / records.RESUME_CHECKPOINT).unlink(missing_ok=True)
        facts = records.read_result(directory, records.STAGE)
        assert facts is not None
        return StageResult(directory, facts)


def _finished(directory: Path) -> dict[str, Any] | None:
    """The facts of a finished stage; None if one of its files is missing or damaged."""
    facts = records.read_result(directory, records.STAGE)
    if facts is None:
        return None
    files, _ = records.result_digests(directory, records.STAGE)
    if files is not None:
        return facts if records.first_damaged(directory, files) is None else None
    if "training" not in facts:  # it trained nothing, so that it has no further file
        return facts
    try:  # written by an older version, without digests
        records.read_checked(directory / records.BEST_CHECKPOINT)
    except records.DamagedError:
        return None
    return facts if (directory / records.METRICS).is_file() else None


def keep_history(stage: StageResult, directory: Path, name: str = records.METRICS) -> None:
    """Copy a stage's epochs to the file ``name`` in the cell's folder."""
    records.write_text(directory / name, (stage.directory / records.METRICS).read_text(encoding="utf-8"))


def _take(lock: FileLock, stage: Stage, directory: Path) -> None:
    try:
        lock.acquire()
    except Timeout as error:
        raise StageBusy(f"{stage.name} ({directory.name}) is being computed by another cell") from error
