"""Reads a sweep's folder and writes its report."""

from collections.abc import Sequence
from pathlib import Path

from capsexp import records
from capsexp.analysis import beside, defaults, drawing, formats, page, paper_tables, results, tables
from capsexp.analysis.compare import compare
from capsexp.analysis.figures.style import Picture
from capsexp.analysis.spec import parse


def write_report(directory: Path, out: Path, other: Path | None = None) -> tuple[Path, str]:
    """Write every file of the report of ``directory`` into ``out``; its surfaces also beside those of an ``other`` one.

    Returns:
        The page's path, and one line on what was found and written.

    Raises:
        ReportError: ``directory`` or ``other`` is no sweep's folder, or the two are one or have no surface in common.
        ConfigError: its ``report:`` block breaks a rule.
    """
    read = results.read(directory)
    spec = defaults.fill(parse(read.sweep.report), read)
    shown_beside = beside.beside(spec, read, _read_other(directory, other)) if other else None
    compared = compare(spec, read)
    makers = (tables.results_table, tables.cells_table, tables.timings_table)
    made = {table.name: table for table in (make(spec, read) for make in makers)}
    made["comparison"] = tables.comparison_table(spec, read, compared)
    crossed, lacking = paper_tables.grid_tables(spec, read)
    drawn, problems = drawing.draw_all(spec, read)
    pictures = [*drawn, *(shown_beside.pictures if shown_beside else [])]
    write_files(out, [*made.values(), *crossed], pictures)
    index = out / "index.html"
    records.write_text(
        index,
        page.render(
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
        ),
    )
    state = read.partial or f"complete: {len(read.cells)} of {len(read.cells)} cells done"
    return index, f"{read.sweep.name}: {state}; tables: {len(made) + len(crossed)}, figures: {len(pictures)}"


def _read_other(directory: Path, other: Path) -> results.Results:
    if other.resolve() == directory.resolve():
        raise results.ReportError(f"{other} is this sweep's own folder; give another sweep's to stand beside it")
    return results.read(other)


def write_files(out: Path, written: Sequence[tables.Table], pictures: Sequence[Picture]) -> None:
    """Write each table as CSV, Markdown and LaTeX, and each picture as PNG and PDF."""
    for table in written:
        _write_table(out, table)
    for picture in pictures:
        _write_picture(out, picture)


def _write_table(out: Path, table: tables.Table) -> None:
    records.write_text(out / f"{table.name}.csv", formats.to_csv(table))
    records.write_text(out / f"{table.name}.md", formats.to_markdown(table))
    records.write_text(out / f"{table.name}.tex", formats.to_latex(table))


def _write_picture(out: Path, picture: Picture) -> None:
    for ending, content in (("png", picture.png), ("pdf", picture.pdf)):
        with records.replacing(out / f"{picture.name}.{ending}") as temporary:
            temporary.write_bytes(content)
