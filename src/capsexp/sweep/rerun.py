"""The selection of ended cells that are run again: ``sweep.rerun``."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from capsexp import records
from capsexp.errors import require
from capsexp.sweep.cells import override_texts

RERUN = ("failed", "stale", "all")


def set_back(directory: Path, cells: Collection[records.PlannedCell], rerun: Any) -> None:
    """Set the finished cells that ``sweep.rerun`` names back to pending; running cells are skipped.

    Raises:
        ConfigError: a value names neither a group of cells nor a planned cell.
    """
    wanted = checked_rerun(rerun, cells)
    for cell in cells:
        if _is_finished(directory / cell.name) and runs_again(directory / cell.name, cell.id, wanted):
            _set_back(directory / cell.name)


def checked_rerun(rerun: Any, cells: Collection[records.PlannedCell]) -> tuple[str, ...]:
    """The values of ``sweep.rerun``.

    Raises:
        ConfigError: a value names neither a group of cells nor a planned cell.
    """
    wanted = _words(rerun)
    known = {*RERUN, *(cell.id for cell in cells)}
    rule = f"be {', '.join(RERUN)}, ids of planned cells, or a list of those"
    for word in wanted:
        require(word in known, "sweep.rerun", rule, word)
    return tuple(wanted)


def _set_back(directory: Path) -> None:
    lock = FileLock(directory / records.LOCK, blocking=False)
    try:
        with lock:
            records.set_aside(directory)
    except Timeout:
        return  # the cell is running


def tries_failed(rerun: Any, identifier: str) -> bool:
    """True if a failed cell must be retried."""
    return any(word in ("failed", "all", identifier) for word in _words(rerun))


def given_rerun(rerun: Any, hydra: Any) -> list[str]:
    """The values of ``sweep.rerun`` as they were typed: an id such as 6e95606307 is read as a number.

    Args:
        rerun: the value in the config.
        hydra: Hydra's part of the composed config, which has the command line.
    """
    typed = [text for text in override_texts(hydra) if text.partition("=")[0].lstrip("+") == "sweep.rerun"]
    if typed and any(not isinstance(word, str) for word in _values(rerun)):
        return re.findall(r"[\w.+-]+", typed[-1].partition("=")[2])
    return _words(rerun)


def _words(rerun: Any) -> list[str]:
    return [str(word) for word in _values(rerun)]


def _values(rerun: Any) -> list[Any]:
    several = isinstance(rerun, list | tuple) or OmegaConf.is_list(rerun)
    return [word for word in (rerun if several else [rerun]) if word is not None]


def _is_finished(directory: Path) -> bool:
    return records.read_result(directory) is not None


def runs_again(directory: Path, identifier: str, rerun: Collection[str]) -> bool:
    """True if a command with these values of ``sweep.rerun`` would run the cell."""
    result, status = records.read_result(directory), records.read_status(directory)
    if "all" in rerun or identifier in rerun:
        return True
    if result is not None:
        return "stale" in rerun and records.is_stale(result)
    return status is None or status.state != "failed" or "failed" in rerun
