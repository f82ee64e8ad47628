"""Tables as HTML, with links to their other forms."""

from html import escape

from capsexp.analysis.formats import numeric_columns
from capsexp.analysis.measures import HOLE
from capsexp.analysis.tables import Table

HOLE_ROW = '<tr class="hole">'
FORMATS = (("csv", "CSV"), ("md", "Markdown"), ("tex", "LaTeX"))
PARTS = {"ours": "ours", "paper": "paper", "ours - paper": "difference"}
"""The style of each line of a row."""


def section(title: str, body: str) -> str:
    """A part of the page."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def table(title: str, shown: Table, box: str = "scroll") -> str:
    """A section with one table, a line a row."""
    numeric = numeric_columns(shown)
    rows = [_row(row, numeric, shown, hole) for row, hole in zip(shown.rows, shown.holes, strict=True)]
    return section(title, _boxed(shown, rows, box))


def grid(shown: Table) -> str:
    """A table in which several lines are one row, under its own heading."""
    rows = [_line(row, PARTS[part]) for row, part in zip(shown.rows, shown.parts, strict=True)]
    flags = f'<p class="flag">{escape("; ".join(shown.flags))}</p>\n' if shown.flags else ""
    return f"<h3>{escape(shown.title)}</h3>\n{flags}{_boxed(shown, rows, 'scroll')}"


def _boxed(shown: Table, rows: list[str], box: str) -> str:
    heads = zip(shown.header, numeric_columns(shown), strict=True)
    head = "".join(f"<th{_class(right)}>{escape(name)}</th>" for name, right in heads)
    links = " · ".join(f'<a href="{shown.name}.{end}">{name}</a>' for end, name in FORMATS)
    body = "\n".join(rows)
    return (
        f'<div class="{box}"><table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>\n'
        f'<p class="small">{escape(shown.caption)} {links}</p>'
    )


def _row(row: list[str], numeric: list[bool], shown: Table, hole: bool) -> str:
    classes = (
        _class(right, name if text != HOLE else "")
        for text, right, name in zip(row, numeric, shown.header, strict=True)
    )
    cells = "".join(f"<td{each}>{escape(text)}</td>" for text, each in zip(row, classes, strict=True))
    return f"{HOLE_ROW if hole else '<tr>'}{cells}</tr>"


def _line(row: list[str], part: str) -> str:
    """A line of a row; words in place of our number say why there is none."""
    name, what, *values = row
    lacking = [part == "ours" and text[:1].isalpha() for text in values]
    together = [escape(text).replace("± ", "±&nbsp;") for text in values]  # a narrow page breaks before the deviation
    cells = "".join(
        f'<td class="num{" lacking" if each else ""}">{text}</td>' for text, each in zip(together, lacking, strict=True)
    )
    kind = f"{part} first" if name else part
    return f'<tr class="{kind}"><td class="whole">{escape(name)}</td><td class="whole">{escape(what)}</td>{cells}</tr>'


def _class(right: bool, column: str = "") -> str:
    kind = {"caveats": "flag", "at": "whole"}.get(column, "num" if right else "")
    return f' class="{kind}"' if kind else ""
