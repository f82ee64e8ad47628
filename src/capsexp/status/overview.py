"""The sweeps below a folder, such as ``multirun``: one line for each."""

from collections.abc import Sequence
from pathlib import Path

from capsexp.status.facts import Facts, facts
from capsexp.status.read import read
from capsexp.text import duration, plain

HEAD = ("sweep", "done", "cells", "other states", "time left")


def facts_of(folders: Sequence[Path]) -> list[Facts]:
    """The facts about each sweep."""
    return [facts(read(folder)) for folder in folders]


def lines(found: Sequence[Facts]) -> list[str]:
    """A table with a line for each sweep and one for all of them."""
    rows = [HEAD, *(_row(each.folder.rpartition("/")[2], [each]) for each in found), _row("all", found)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(HEAD))]
    return [plain(_line(row, widths)) for row in rows]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    numeric = (1, 2)
    parts = [
        text.rjust(width) if place in numeric else text.ljust(width)
        for place, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(parts).rstrip()


def _row(name: str, sweeps: Sequence[Facts]) -> tuple[str, ...]:
    counts: dict[str, int] = {}
    for each in sweeps:
        for state, number in each.counts.items():
            counts[state] = counts.get(state, 0) + number
    others = ", ".join(f"{number} {state}" for state, number in counts.items() if state != "done")
    return name, str(counts.get("done", 0)), str(sum(each.planned for each in sweeps)), others or "-", _left(sweeps)


def _left(sweeps: Sequence[Facts]) -> str:
    """The expected time of the remaining cells, one at a time."""
    left = [each.left_s for each in sweeps]
    if None in left:
        return "unknown"
    seconds = sum(each for each in left if each is not None)
    return duration(seconds) if seconds else "-"
