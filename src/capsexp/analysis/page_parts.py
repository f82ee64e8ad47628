"""The parts that all pages share: tables and figures as their templates need them, and the rendering itself."""

import base64
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from capsexp.analysis.figures.style import Area, Picture
from capsexp.analysis.formats import numeric_columns
from capsexp.analysis.measures import MISSING
from capsexp.analysis.results import Results
from capsexp.analysis.tables import Table

HERE = Path(__file__).parent
REPORT = ["python", "-m", "capsexp.report"]
KINDS = {"caveats": "flag", "at": "whole", "A - B": "whole", "remarks": "remark"}
"""The style of the cells in some columns, by their heads."""


def render_template(name: str, **values: Any) -> str:
    """A page's HTML from a template of this folder; style and script are added to the values."""
    files = {"style": _text("page.css"), "script": _text("page.js")}
    return _templates().get_template(name).render(**values, **files)


@functools.cache
def _templates() -> jinja2.Environment:
    """The compiled templates; whatever comes from a result or config is escaped."""
    return jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        loader=jinja2.FileSystemLoader(HERE),
    )


def _text(name: str) -> Markup:
    return Markup((HERE / name).read_text(encoding="utf-8"))


def table_parts(shown: Table, *, sortable: bool = False, opens: bool = False) -> dict[str, Any]:
    """A table with a line per row; if it opens, each row is that of the cell at its place."""
    numeric = numeric_columns(shown)
    rows = [
        {"missing": missing, "cell": place if opens else None, "texts": list(_texts(row, numeric, shown))}
        for place, (row, missing) in enumerate(zip(shown.rows, shown.missing, strict=True))
    ]
    heads = list(zip(shown.header, numeric, strict=True))
    return {"name": shown.name, "caption": shown.caption, "heads": heads, "rows": rows, "sortable": sortable}


def _texts(row: Sequence[str], numeric: Sequence[bool], shown: Table) -> Iterator[tuple[str, str]]:
    for text, right, name in zip(row, numeric, shown.header, strict=True):
        yield text, KINDS.get(name if text != MISSING else "", "num" if right else "")


def figure_parts(drawn: Picture, places: Mapping[str, int] | None = None) -> dict[str, Any]:
    """A figure with its picture inside, whose fields lead to the rows of cells.

    Args:
        drawn: the picture.
        places: the row of each cell by its id; fields lead nowhere by default.
    """
    image = base64.b64encode(drawn.png).decode("ascii")
    areas = [_area(area, places) for area in drawn.areas] if places else []
    return {"name": drawn.name, "title": drawn.title, "note": drawn.note, "image": image, "areas": areas}


def _area(area: Area, places: Mapping[str, int]) -> dict[str, Any]:
    box = zip(("left", "top", "width", "height"), area.box, strict=True)
    style = ";".join(f"{name}:{100 * share:.2f}%" for name, share in box)
    cells = " ".join(str(places[cell]) for cell in area.cells)
    return {"style": style, "cells": cells, "text": area.text}


def folder_of(results: Results) -> str:
    """The sweep's folder, seen from the folder in which its command was given."""
    given = [word.partition("=")[2] for word in results.sweep.overrides if word.startswith("paths.output=")]
    return f"{given[-1] if given else 'multirun'}/{results.sweep.name}"
