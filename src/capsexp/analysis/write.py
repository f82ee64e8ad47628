"""Reads a sweep's folder and writes its report."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from capsexp import records
from capsexp.analysis import beside, defaults, drawing, formats, page, paper_tables, results, tables
from capsexp.analysis.compare import compare
from capsexp.analysis.figures.style import Picture
from capsexp.analysis.spec import parse
from capsexp.analysis.unknown import unknown_axes

PAGE = '<script type="application/json" id="cell-data">'
"""A part of every page of a report, and of no page that others write."""

LINK = re.compile(r'<a href="([^"/\\]+\.(?:png|pdf|csv|md|tex))">')
"""A link from a page to a table or picture in its own folder."""


def write_report(directory: Path, out: Path, other: Path | None = None, *, trust: bool = False) -> tuple[Path, str]:
    """Write every file of the report of ``directory`` into ``out``; its surfaces also beside those of an ``other`` one.

    Args:
        directory: the sweep's folder.
        out: where to write.
        other: another sweep's folder.
        trust: see :func:`~capsexp.analysis.spec.parse`.

    Returns:
        The page's path; a line on what was found and written, and one for each table or figure that could not be made.

    Raises:
        ReportError: ``directory`` or ``other`` is no sweep's folder, or the two are one or have no surface in common.
        ConfigError: its ``report:`` block breaks a rule.
    """
    read = results.read(directory)
    spec = defaults.fill(parse(read.sweep.report, trust=trust), read)
    shown_beside = beside.beside(spec, read, _read_other(directory, other)) if other else None
    compared = compare(spec, read)
    makers = (tables.results_table, tables.cells_table, tables.timings_table)
    made = {table.name: table for table in (make(spec, read) for make in makers)}
    made["comparison"] = tables.comparison_table(spec, read, compared)
    crossed, lacking = paper_tables.grid_tables(spec, read)
    drawn, problems = drawing.draw_all(spec, read, unknown_axes(spec, read, directory))
    pictures = [*drawn, *(shown_beside.pictures if shown_beside else [])]
    rendered = page.render(
        page.Content(
            spec,
            read,
            compared,
            made,
            crossed,
            drawn,
            [*lacking, *problems],
            shown_beside,
            linked=out.absolute().parent == directory.absolute(),
        )
    )
    index = write_files(out, [*made.values(), *crossed], pictures, rendered)
    state = read.partial or f"complete: {len(read.cells)} of {len(read.cells)} cells done"
    counts = f"tables: {len(made) + len(crossed)}, figures: {len(pictures)}"
    lines = [f"{read.sweep.name}: {state}; {counts}", *(f"  {line}" for line in (*lacking, *problems))]
    return index, "\n".join(lines)


def _read_other(directory: Path, other: Path) -> results.Results:
    if other.resolve() == directory.resolve():
        raise results.ReportError(f"{other} is this sweep's own folder; give another sweep's to stand beside it")
    return results.read(other)


def write_files(out: Path, made: Sequence[tables.Table], pictures: Sequence[Picture], rendered: str) -> Path:
    """Write each table as CSV, Markdown and LaTeX, each picture as PNG and PDF, and the page.

    A table or picture to which the former page of the folder had a link is removed if neither this page links to it nor
    this run has written it; no other file is.

    Args:
        out: the folder.
        made: the tables.
        pictures: the pictures.
        rendered: the page's HTML.

    Returns:
        The page's path.
    """
    index = out / "index.html"
    former = _linked(_former(index))
    written = {name for table in made for name in _write_table(out, table)}
    written |= {name for picture in pictures for name in _write_picture(out, picture)}
    records.write_text(index, rendered)
    for name in sorted(former - _linked(rendered) - written):
        if (out / name).is_file() and not (out / name).is_symlink():
            (out / name).unlink()
    return index


def _former(index: Path) -> str:
    """The page that lies in the folder; empty if there is none, or one that no report has written."""
    try:
        text = index.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    return text if PAGE in text else ""


def _linked(rendered: str) -> set[str]:
    """The tables and pictures beside a page to which it has links."""
    return {html.unescape(name) for name in LINK.findall(rendered)}


def _write_table(out: Path, table: tables.Table) -> list[str]:
    """The names of the files."""
    texts = {"csv": formats.to_csv(table), "md": formats.to_markdown(table), "tex": formats.to_latex(table)}
    for ending, text in texts.items():
        records.write_text(out / f"{table.name}.{ending}", text)
    return [f"{table.name}.{ending}" for ending in texts]


def _write_picture(out: Path, picture: Picture) -> list[str]:
    """The names of the files."""
    contents = {"png": picture.png, "pdf": picture.pdf}
    for ending, content in contents.items():
        with records.replacing(out / f"{picture.name}.{ending}") as temporary:
            temporary.write_bytes(content)
    return [f"{picture.name}.{ending}" for ending in contents]
