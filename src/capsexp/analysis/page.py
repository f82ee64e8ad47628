"""The whole report as one HTML page that needs no other file: style, script, figures and curves are inside it."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from capsexp import records
from capsexp.analysis import learning_curves, warnings
from capsexp.analysis.beside import Beside
from capsexp.analysis.cells import STATES, Cell
from capsexp.analysis.compare import Compared
from capsexp.analysis.figures.style import Picture
from capsexp.analysis.learning_curves import Curves
from capsexp.analysis.page_parts import REPORT, figure_parts, folder_of, render_template, table_parts
from capsexp.analysis.results import Results, command
from capsexp.analysis.spec import Spec
from capsexp.analysis.tables import Table

DATA = {
    **{"name": "data set", "source": "source", "sha256": "sha256", "generated": "generated", "classes": "classes"},
    **{"image_shape": "image shape", "n_train": "training images", "n_val": "validation images"},
    **{"n_test": "test images", "test_split": "test split", "split_seed": "seed of the splits"},
}
"""The facts about the data, in the order in which a reader asks for them, with their labels."""

PARTS = {"ours": "ours", "paper": "paper", "ours - paper": "difference"}
"""The style of each line of a row of several lines."""

SECTIONS = {
    "data": "Data and protocol",
    "comparison": "Beside the paper",
    "paper": "Tables beside the paper's",
    "figures": "Figures",
    "beside": "Beside another sweep",
    "curves": "Learning curves",
    "results": "Results",
    "cells": "Cells",
    "missing": "Missing cells and leftovers",
    "reproduce": "How to reproduce",
    "environment": "Environment",
}
"""The sections in their order, by their anchors."""

NOT_FACTS = {"id", "name", "axes", "metrics", "clocks", "environment", "memory", "gpu"}
"""Keys of a result that the row of a cell does not open: they stand elsewhere, or differ from run to run."""


@dataclass(frozen=True)
class Content:
    """The content of the page.

    Attributes:
        spec: the checked block.
        results: the sweep.
        compared: rows of the comparison.
        tables: by name; ``timings`` is only linked to, since its bytes differ from run to run.
        grids: the paper's tables beside ours.
        figures: the pictures.
        problems: one line for each table or figure that could not be made.
        beside: the surfaces beside those of another sweep, where they were asked for.
        linked: whether the page lies in ``report/`` of the sweep's folder, so that it can link to the cells' files.
    """

    spec: Spec
    results: Results
    compared: Sequence[Compared]
    tables: dict[str, Table]
    grids: Sequence[Table]
    figures: Sequence[Picture]
    problems: Sequence[str]
    beside: Beside | None = None
    linked: bool = False


def render(content: Content) -> str:
    """The page's HTML."""
    spec, results = content.spec, content.results
    curves = {cell.id: learning_curves.read_curves(cell) for cell in results.cells}
    key = learning_curves.colours(spec, results, {identifier for identifier, each in curves.items() if each})
    lines = [(cell.name, curves[cell.id], key.of_cell.get(cell.id)) for cell in results.cells]
    places = {cell.id: place for place, cell in enumerate(results.cells)}
    values: dict[str, Any] = {
        "title": spec.title or results.sweep.name,
        "source": spec.source,
        "claim": spec.claim,
        "partial": results.partial,
        "state": results.partial or f"Complete: {len(results.cells)} of {len(results.cells)} cells done",
        "warnings": [*warnings.warnings(spec, results), *content.problems],
        "planned": len(results.cells),
        "data": _data(results),
        "comparison": table_parts(content.tables["comparison"]) if content.compared else None,
        "paper": content.grids,
        "grids": [_grid(table) for table in content.grids],
        "figures": [figure_parts(drawn, places) for drawn in content.figures],
        "beside": _beside(content.beside) if content.beside else None,
        "learning": learning_curves.pictures(lines, key),
        "colours": key,
        "learning_caption": _learning_caption(curves),
        "results": table_parts(content.tables["results"], sortable=True),
        "cells": table_parts(content.tables["cells"], sortable=True, opens=True),
        "missing": [_missing(cell) for cell in _missing_cells(results)],
        "stale": any(cell.state == "stale" for cell in results.cells),
        "orphans": results.orphans,
        "reproduce": True,
        "command": command(results.sweep),
        "report": _report_command(content),
        "environment": _environment(results),
        "details": [_detail(cell, curves[cell.id], content) for cell in results.cells],
        "curves": any(curves.values()),
    }
    always = {"data", "results", "cells", "reproduce"}
    shown = [(_title(anchor, content), anchor) for anchor in SECTIONS if anchor in always or _is_there(anchor, values)]
    sizes = {name.lower(): getattr(learning_curves, name) for name in ("WIDTH", "HEIGHT", "LEFT", "RIGHT", "BELOW")}
    return render_template("page.html.j2", **values, **sizes, sections=shown)


def _is_there(anchor: str, values: dict[str, Any]) -> bool:
    if anchor == "missing":
        return bool(values["missing"] or values["orphans"])
    return bool(values[anchor])


def _title(anchor: str, content: Content) -> str:
    return f"Beside {content.beside.name}" if anchor == "beside" and content.beside else SECTIONS[anchor]


# -- the sections -----------------------------------------------------------------------------------------------------


def _data(results: Results) -> list[tuple[int, list[list[str]]]]:
    """Each combination of data and protocol with the number of its cells."""
    described = Counter(_described(cell.result or {}) for cell in results.cells if cell.done)
    return [(count, json.loads(text)) for text, count in sorted(described.items())]


def _described(body: dict[str, Any]) -> str:
    """A result's data and protocol as JSON pairs of texts, equal for equal ones."""
    data = dict(body.get("data") or {})
    if data.get("source") == "npz" and data.get("test_split") == "published":  # the file may be one's own
        data["test_split"] = "as in the file"
    pairs = [(name, _plain(data[key])) for key, name in DATA.items() if data.get(key) is not None]
    pairs += [(key, _plain(data[key])) for key in sorted(data) if key not in (*DATA, "select_on")]
    chosen = (body.get("training") or {}).get("select_on", "unknown")
    return json.dumps([*pairs, ("model chosen on", str(chosen))])


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " × ".join(map(str, value))  # noqa: RUF001
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _grid(shown: Table) -> dict[str, Any]:
    """A table in which several lines are one row, under its own heading."""
    rows = [_line(row, PARTS[part]) for row, part in zip(shown.rows, shown.parts, strict=True)]
    return {**table_parts(shown), "rows": rows, "title": shown.title, "flags": "; ".join(shown.flags)}


def _line(row: Sequence[str], part: str) -> dict[str, Any]:
    """A line of a row; words in place of our number say why there is none."""
    name, what, *values = row
    texts = [(name, "whole"), (what, "whole")]
    for text in values:
        lacking = part == "ours" and text[:1].isalpha()
        # A narrow page breaks before the deviation.
        texts.append((text.replace("± ", "±\N{NO-BREAK SPACE}"), "num lacking" if lacking else "num"))
    return {"kind": f"{part} first" if name else part, "texts": texts}


def _beside(beside: Beside) -> dict[str, Any]:
    return {
        "title": beside.title,
        "partial": beside.other.partial,
        "flags": beside.flags,
        "figures": [figure_parts(drawn) for drawn in beside.pictures],
    }


def _learning_caption(curves: dict[str, Curves]) -> str:
    count = sum(bool(each) for each in curves.values())
    if count <= learning_curves.MOST_LINES:
        return f"A line per finished cell ({count}); the row of a cell in the table of cells opens its own."
    return (
        f"{count} finished cells at each epoch: the median, the middle half, and all. The row of a cell in the table "
        "of cells opens its own curves."
    )


def _missing_cells(results: Results) -> list[Cell]:
    """The cells without numbers, failures first: many missing cells would bury them."""
    return sorted((cell for cell in results.cells if not cell.done), key=lambda cell: STATES.index(cell.state))


def _missing(cell: Cell) -> dict[str, str]:
    return {
        "name": cell.name,
        "state": cell.state,
        "kind": cell.kind or "",
        "cause": cell.cause or "",
        "retried": "once" if cell.retried == 1 else f"{cell.retried} times" if cell.retried else "",
        "log": f"{cell.directory.name}/{records.LOG}" if cell.directory else "",
    }


def _detail(cell: Cell, curves: Curves, content: Content) -> dict[str, Any]:
    """The content that the row of a cell opens."""
    body = cell.result if cell.done and cell.result is not None else {}
    facts = [(key, _plain(value)) for key, value in records.leaves(_without(body, NOT_FACTS))]
    about = [("cell", cell.name), ("state", cell.state), *([("cause", cell.cause)] if cell.cause else [])]
    name = cell.directory.name if cell.directory else ""
    files = [f"../{name}/{file}" for file in (records.CONFIG, records.METRICS, records.LOG)] if name else []
    return {
        "facts": [*about, *facts],
        "curves": {metric: [_short(value) for value in values.tolist()] for metric, values in curves.items()},
        "files": files,
        "linked": content.linked,
    }


def _without(body: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in keys}


def _short(value: float) -> float | None:
    """A value for a small picture: four digits; None if it is not finite."""
    return float(f"{value:.4g}") if abs(value) < float("inf") else None


def _report_command(content: Content) -> str:
    beside = ["--beside", folder_of(content.beside.other)] if content.beside else []
    own = ["--trust"] if any("." in figure.kind for figure in content.spec.figures or []) else []
    return shlex.join([*REPORT, folder_of(content.results), *beside, *own])


def _environment(results: Results) -> list[tuple[str, str]]:
    """Each fact of the machines with the values it took; a clock, if one slipped in, stays out."""
    bodies = [(cell.result or {}).get("environment") or {} for cell in results.cells if cell.done]
    keys = sorted({key for body in bodies for key in body if not key.endswith("_s")})
    return [(key, warnings.described(warnings.seen(results, key))) for key in keys]
