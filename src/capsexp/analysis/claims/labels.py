"""Words for columns, conditions and places, as the page says them."""

from collections.abc import Mapping
from dataclasses import dataclass

from capsexp.analysis.claims.evidence import Place, Where
from capsexp.analysis.claims.table import Row
from capsexp.analysis.conditions import Condition, axis_text
from capsexp.analysis.measures import Measure, number, signed, usual

MOST_NAMES = 3


@dataclass(frozen=True)
class Labels:
    """How columns are called, by their heads."""

    columns: Mapping[str, Measure]

    def measure(self, column: str) -> Measure:
        """How a column is shown."""
        return self.columns.get(column) or usual(column)

    def name(self, column: str) -> str:
        """A column's label."""
        return self.measure(column).label

    def number(self, column: str, value: float) -> str:
        """A value with the column's decimals."""
        return number(value, self.measure(column).digits)

    def signed(self, column: str, value: float) -> str:
        """A difference with its sign and the column's decimals."""
        return signed(value, self.measure(column).digits)

    def where(self, conditions: Where) -> str:
        """Conditions in words, with a blank before them: `` where c2 >= 7 and c3 >= 6``; nothing for none."""
        texts = [text for axis, rule in conditions.items() for text in self._condition(axis, rule)]
        return f" where {' and '.join(texts)}" if texts else ""

    def _condition(self, axis: str, rule: Condition) -> list[str]:
        name = self.name(axis)
        if rule.values is not None:
            values = " or ".join(axis_text(value) for value in rule.values)
            return [f"{name} = {values}"]
        low = [f"{name} >= {rule.minimum:g}"] if rule.minimum is not None else []
        return low + ([f"{name} <= {rule.maximum:g}"] if rule.maximum is not None else [])

    def place(self, place: Place) -> str:
        """A place and the cells there: ``c2 = 7, c3 = 6 (`c2-07_c3-06-1a2b3c4d5e`)``."""
        axes = ", ".join(f"{self.name(axis)} = {axis_text(value)}" for axis, value in place.axes.items())
        return f"{axes} ({names(place.rows)})" if axes else names(place.rows)


def names(rows: tuple[Row, ...]) -> str:
    """The names of cells as code; of many the first ones."""
    shown = ", ".join(code(row.name) for row in rows[:MOST_NAMES])
    return shown + (f" and {len(rows) - MOST_NAMES} more" if len(rows) > MOST_NAMES else "")


def code(text: str) -> str:
    """Text in Markdown that is shown letter by letter, on one line."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"
