"""The sweeps below a folder, such as ``multirun``: one line for each."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from capsexp.analysis.results import ReportError
from capsexp.status.facts import Facts, facts
from capsexp.status.read import read
from capsexp.text import duration, plain

HEAD = ("sweep", "done", "cells", "other states", "time left")


@dataclass(frozen=True)
class Damaged:
    """A sweep that cannot be read.

    Attributes:
        folder: its folder.
        damage: why, in one line.
    """

    folder: str
    damage: str


def facts_of(folders: Sequence[Path]) -> tuple[list[Facts], list[Damaged]]:
    """The facts about each sweep, and the sweeps that cannot be read: they hide no others."""
    found, damaged = [], []
    for folder in folders:
        try:
            found.append(facts(read(folder)))
        except (ReportError, OSError) as error:
            damaged.append(Damaged(str(folder), " ".join(str(error).split())))
    return found, damaged


def lines(directory: Path, found: Sequence[Facts], damaged: Sequence[Damaged] = ()) -> list[str]:
    """A table with a line for each sweep and one for all of them; a sweep is named by its place in the folder."""
    rows = [HEAD, *(_row(os.path.relpath(each.folder, directory), [each]) for each in found)]
    rows += [(os.path.relpath(each.folder, directory), "-", "-", f"damaged: {each.damage}", "-") for each in damaged]
    rows.append(_row("all", found))
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
