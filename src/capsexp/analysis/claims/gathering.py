"""Sorts the cells of all tables into bodies of evidence."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

from capsexp.analysis.cells import SEED
from capsexp.analysis.claims.evidence import Body, Evidence, Part, key_of, order
from capsexp.analysis.claims.table import Row, Table, TableError, Value


def gather(tables: Mapping[str, Sequence[Table]], cells: Mapping[str, int], paper_data: str) -> dict[Body, Evidence]:
    """All bodies of evidence: those of the paper's data (an empty one for want of any), then others, by name.

    Where two tables of a source have a place and seed in common, the finished cell of the later one counts.

    Args:
        tables: the tables of each source.
        cells: size of the paper's grid, by source.
        paper_data: the paper's data set.

    Raises:
        TableError: two tables of a source swept different axes, or one table has two trainings of one place.
    """
    found = {Body(r.data, r.select_on) for each in tables.values() for table in each for r in _done(table)}
    own = {body for body in found if body.data.lower() == paper_data.lower()} or {Body(paper_data)}
    evidence = {}
    for body in [*sorted(own), *sorted(found - own)]:
        parts = [_part(source, each, body, cells.get(source, 0)) for source, each in tables.items()]
        evidence[body] = Evidence(body, {part.source: part for part in parts if part}, body in own)
    return evidence


def _done(table: Table) -> Iterator[Row]:
    return (row for row in table.rows if row.state == "done")


def _part(source: str, tables: Sequence[Table], body: Body, cells: int) -> Part | None:
    used = [table for table in tables if any(_belongs(row, body) for row in _done(table))]
    if not used:
        return None
    for table in used:
        if set(table.axes) != set(used[0].axes):
            raise TableError(f"{source}: {used[0].folder} and {table.folder} swept different axes; give one of them")
    axes = tuple(axis for axis in used[0].axes if axis != SEED)
    planned = {key_of(r.axes): r for table in used for r in table.rows if r.state != "done" or _belongs(r, body)}
    rows, replaced = _once(source, body, used)
    return Part(
        source=source,
        axes=axes,
        metrics=frozenset(metric for table in used for metric in table.metrics),
        rows=rows,
        planned=len(planned),
        values={axis: tuple(_different(row.axes[axis] for row in planned.values())) for axis in axes},
        folders=tuple(table.folder for table in used),
        cells=cells,
        replaced=replaced,
    )


def _belongs(row: Row, body: Body) -> bool:
    return Body(row.data, row.select_on) == body


def _once(source: str, body: Body, tables: Sequence[Table]) -> tuple[tuple[Row, ...], int]:
    """The finished cell of every place and seed, the last table's where several have one, and how many gave way."""
    rows: dict[str, Row] = {}
    replaced = 0
    for table in tables:
        own = _by_place(source, body, table)
        replaced += sum(key in rows and rows[key].id != row.id for key, row in own.items())
        rows |= own
    return tuple(rows.values()), replaced


def _by_place(source: str, body: Body, table: Table) -> dict[str, Row]:
    """A table's finished cells by place and seed; two of one place are a contradiction."""
    rows: dict[str, Row] = {}
    for row in (row for row in _done(table) if _belongs(row, body)):
        other = rows.setdefault(key_of(row.axes), row)
        if other is not row:
            names = f"{other.name} and {row.name} ({table.folder})"
            raise TableError(f"{source}: {names} are two trainings of one place on {body.data}")
    return rows


def _different(values: Iterable[Value]) -> list[Value]:
    """Each value once, in order."""
    return sorted({json.dumps(value): value for value in values}.values(), key=order)
