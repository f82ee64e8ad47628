"""Differences between sweeps: keys of their configs, versions and machines that are not the same in all of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from capsexp import records
from capsexp.analysis.cells import is_number
from capsexp.analysis.comparison.joined import Joined, Member
from capsexp.analysis.conditions import axis_text
from capsexp.analysis.measures import MISSING
from capsexp.analysis.results import ordered
from capsexp.analysis.tables import Table
from capsexp.analysis.unplanned import without_copies

MOST = 6
"""Values of a key that are listed; of more the first and the last stand for all."""

Values = dict[str, list[list[Any]]]
"""For each key and sweep the distinct values, in order; a sweep without the key has none."""


def differing(sweeps: Sequence[Sequence[Mapping[str, Any]]]) -> Values:
    """The keys whose values are not the same in all sweeps.

    Of keys that differ alike, such as ``routing.iterations`` and its copy ``model.routing.iterations``, the shortest
    one stays.

    Args:
        sweeps: for each sweep the keys and values of its cells.
    """
    keys = dict.fromkeys(key for cells in sweeps for cell in cells for key in cell)
    values = {key: [_distinct([cell[key] for cell in cells if key in cell]) for cells in sweeps] for key in keys}
    return without_copies({key: each for key, each in values.items() if len({_same(one) for one in each}) > 1})


def _distinct(found: Iterable[Any]) -> list[Any]:
    """Each value once, numbers from small to large; values that look the same are one (4 and 4.0)."""
    values = list({axis_text(value): value for value in found}.values())
    return ordered(values, values)


def _same(values: Iterable[Any]) -> frozenset[str]:
    return frozenset(map(axis_text, values))


def config_table(joined: Joined) -> Table:
    """A row for each key of the configs that differs, and a column for each sweep."""
    values = differing([[dict(records.leaves(config)) for config in each.configs.values()] for each in joined.members])
    swept = {axis for member in joined.members for axis in member.read.sweep.axes}
    caption = (
        "Keys of the cells' configs whose values are not the same in all sweeps, without those that change no number."
    )
    return _table("differences", caption, "key", values, joined, swept)


def environment_table(joined: Joined) -> Table:
    """A row for each version or fact of the machine that differs, and a column for each sweep."""
    values = differing([[_facts(each.result) for each in m.read.cells if each.result] for m in joined.members])
    caption = "Versions and facts of the machines that are not the same in all sweeps, of finished and stale cells."
    return _table("environments", caption, "fact", values, joined, set())


def _facts(result: Mapping[str, Any]) -> dict[str, Any]:
    """Versions and facts of a machine, without clocks."""
    facts = records.leaves({"numerics": result.get("numerics"), "environment": result.get("environment") or {}})
    named = {"NUMERICS_VERSION" if key == "numerics" else key.removeprefix("environment."): x for key, x in facts}
    return {key: value for key, value in named.items() if not key.endswith("_s")}


def _table(name: str, caption: str, what: str, values: Values, joined: Joined, swept: set[str]) -> Table:
    heads = [what, *joined.names]
    return Table(
        name=name,
        caption=f"{caption} {_partial(joined.members)}".strip(),
        header=heads,
        rows=[[key, *(_listed(each) for each in columns)] for key, columns in values.items()],
        raw_header=[*heads, "swept"],
        raw_rows=[
            [key, *("; ".join(map(axis_text, each)) for each in columns), "yes" if key in swept else ""]
            for key, columns in values.items()
        ],
        missing=[False] * len(values),
    )


def _listed(values: Sequence[Any]) -> str:
    texts = list(map(axis_text, values))
    if len(texts) <= MOST:
        return ", ".join(texts) or MISSING
    numbers = all(is_number(value) for value in values)
    shown = f"{texts[0]} to {texts[-1]}" if numbers else f"{', '.join(texts[: MOST - 1])}, ..."
    return f"{shown} ({len(texts)} values)"


def _partial(members: Sequence[Member]) -> str:
    """The sweeps of which some configs are not known."""
    lacking = [(member.name, sum(not config for config in member.configs.values())) for member in members]
    said = ", ".join(f"{count} of {name}" for name, count in lacking if count)
    return f"Cells without a readable config: {said}." if said else ""
