"""The page that compares several sweeps, and its tables: ``python -m capsexp.report multirun/one multirun/two``."""

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.analysis import defaults
from capsexp.analysis.beside import protocol_differences
from capsexp.analysis.comparison.differences import config_table, environment_table
from capsexp.analysis.comparison.figures import draw_differences, draw_figures
from capsexp.analysis.comparison.joined import Joined, Member, read_joined
from capsexp.analysis.comparison.leaderboard import common_metrics, leaderboard, ranking
from capsexp.analysis.comparison.paired_tables import compared, paired_table, points_table, sweep_pairs
from capsexp.analysis.page_parts import REPORT, figure_parts, render_template, table_parts
from capsexp.analysis.results import ReportError, command, plan
from capsexp.analysis.spec import parse
from capsexp.analysis.tables import Table
from capsexp.analysis.warnings import warnings
from capsexp.analysis.write import write_files

SECTIONS = {
    "sweeps": "Sweeps",
    "leaderboard": "Leaderboard",
    "differences": "Differences between the configs",
    "paired": "Paired differences",
    "figures": "Figures",
    "reproduce": "How to reproduce",
}
"""The sections in their order, by their anchors."""

MOST_ROWS = 1000
"""Rows of the table of points that the page shows; more stand in its files alone."""

NAMED = 3
"""Sweeps that are named in the title; of more their number stands there."""


@dataclass(frozen=True)
class Asked:
    """The request for a comparison.

    Attributes:
        directories: the folders as they were given: several of sweeps, or one with sweeps below it.
        metric: the metric that ranks; None for the usual one.
        best: ``max`` or ``min``; None to go by the metric's name.
        trust: see :func:`~capsexp.analysis.spec.parse`.
    """

    directories: Sequence[Path]
    metric: str | None = None
    best: str | None = None
    trust: bool = False

    def folders(self) -> tuple[list[Path], list[str]]:
        """The folders of the sweeps; below a folder those that can be read, and a line for each of the others.

        Raises:
            ReportError: a folder has a single sweep below it.
        """
        if len(self.directories) > 1:
            return list(self.directories), []
        found, left_out = [], []
        for folder in records.sweeps_below(self.directories[0]):
            try:
                plan(folder)
            except ReportError as error:
                left_out.append(f"{folder.name} is left out: {error}.")
            else:
                found.append(folder)
        if len(found) < 2:
            alone = [str(folder) for folder in found] or ["no sweep that can be read"]
            raise ReportError(f"DIR must have several sweeps below it, or be one, got a folder with {alone[0]} alone")
        return found, left_out

    @property
    def words(self) -> list[str]:
        """The command line."""
        options = [("--metric", self.metric), ("--best", self.best)]
        given = [word for option, value in options if value is not None for word in (option, value)]
        return [*REPORT, *map(str, self.directories), *given, *(["--trust"] if self.trust else [])]


def write_comparison(asked: Asked, out: Path) -> tuple[Path, str]:
    """Write every file of the comparison of several sweeps into ``out``.

    Returns:
        The page's path, and one line on what was found and written.

    Raises:
        ReportError: a folder is no sweep's, or is given twice.
        ConfigError: the metric or its order, or the first sweep's ``report:`` block, breaks a rule.
    """
    folders, left_out = asked.folders()
    joined = read_joined(folders)
    spec = defaults.fill(parse(joined.results.sweep.report, trust=asked.trust), joined.results)
    measure, best = ranking(joined, spec, asked.metric, asked.best)
    metrics = common_metrics(joined, spec)
    metrics = metrics if measure.key in {each.key for each in metrics} else [measure, *metrics]
    found = compared(joined, metrics, joined.table())
    made = [
        leaderboard(joined, spec, measure, best),
        config_table(joined),
        environment_table(joined),
        paired_table(found),
        points_table(found, joined, spec),
    ]
    drawn, problems = draw_figures(joined, spec)
    maps, said, below = draw_differences(joined, spec, found)
    filled = [table for table in made if table.rows]
    flags = [*left_out, *_flags(joined), *warnings(spec, joined.results)]
    values: dict[str, Any] = {
        "warnings": flags,
        "sweeps": [_sweep(member, out) for member in joined.members],
        **dict.fromkeys((table.name for table in made), None),
        **{table.name: _shown(table) for table in filled},
        "figures": [figure_parts(picture) for picture in (*drawn, *maps)],
        "remarks": [*problems, *(line for line in said if line not in flags)],
        "most_rows": MOST_ROWS,
        "below_maps": below,
        "commands": [line for member in joined.members if (line := command(member.read.sweep))],
        "report": shlex.join(asked.words),
    }
    index = write_files(out, filled, [*drawn, *maps], _page(joined, values))
    counts = f"tables: {len(filled)}, figures: {len(drawn) + len(maps)}"
    return index, f"{_title(joined)}: {joined.results.partial or _complete(joined)}; {counts}"


def _title(joined: Joined) -> str:
    names = joined.names
    return f"Comparison of {f'{len(names)} sweeps' if len(names) > NAMED else ', '.join(names)}"


def _complete(joined: Joined) -> str:
    return f"complete: {len(joined.results.cells)} of {len(joined.results.cells)} cells done"


def _page(joined: Joined, values: dict[str, Any]) -> str:
    partial = joined.results.partial
    has_figures = bool(values["figures"] or values["remarks"])
    sections = [(name, anchor) for anchor, name in SECTIONS.items() if anchor != "figures" or has_figures]
    head = {"title": _title(joined), "partial": partial, "state": partial or _complete(joined).capitalize()}
    return render_template("comparison/page.html.j2", **head, **values, sections=sections)


def _shown(table: Table) -> dict[str, Any]:
    return table_parts(table, sortable=table.name in ("leaderboard", "paired", "paired_points"))


def _sweep(member: Member, out: Path) -> dict[str, str]:
    """A row of the table of sweeps; its folder as seen from the page, for the link to its own report."""
    read, title = member.read, str((member.read.sweep.report or {}).get("title") or "")
    page = member.directory / "report" / "index.html"
    return {
        "name": member.name,
        "title": "" if title == member.name else title,
        "partial": read.partial,
        "state": read.partial or f"complete: {len(read.cells)} of {len(read.cells)} cells done",
        "axes": ", ".join(f"{axis} ({len(values)})" for axis, values in read.sweep.axes.items()),
        "command": command(read.sweep) or "cells launched one by one",
        "folder": str(member.directory),
        "link": Path(os.path.relpath(page.absolute(), out.absolute())).as_posix() if page.is_file() else "",
    }


def _flags(joined: Joined) -> list[str]:
    """What must be known before any number: sweeps that are not complete, and protocols that are not the same."""
    partial = [f"{member.name} {member.read.partial}." for member in joined.members if member.read.partial]
    protocols = {member.name: member.read.protocols for member in joined.members}
    lines = [
        line
        for first, second in sweep_pairs(joined.names)
        if protocols[first] and protocols[second]
        for line in protocol_differences(protocols[first], protocols[second], (first, second))
    ]
    return [*partial, *dict.fromkeys(lines)]
