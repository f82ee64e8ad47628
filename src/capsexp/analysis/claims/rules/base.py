"""A claim with the rule that decides it: the base of all rules, their verdicts, and the words of the page for both."""

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import Field

from capsexp.analysis.cells import Cell, Point
from capsexp.analysis.claims.evidence import Evidence, LackingError, Sample, Where, mean_of, number_of
from capsexp.analysis.conditions import Condition, axis_text
from capsexp.analysis.measures import Measure, number, signed, usual
from capsexp.analysis.validation import AtLeast0, FileName, Model
from capsexp.text import count

Answer = Literal["holds", "does not hold", "undecided"]
ANSWERS: tuple[Answer, ...] = ("holds", "does not hold", "undecided")

FEWEST = 8
"""Cells without which a claim about a whole grid cannot hold; one cell against it is enough to refute it."""
ROUNDING = 1e-12
"""Rounding error of sums of decimals: .95 - .93 is still within .02."""
MOST_NAMES = 3


@dataclass(frozen=True, eq=False)
class Verdict:
    """The answer to a claim under one protocol.

    Attributes:
        number: the number that decides, as the summary shows it; empty where there is none.
        lines: the numbers from which the answer follows, with the cells that decide.
        samples: the cells used.
        lacking: sources that need more cells before the claim can be decided.
    """

    answer: Answer
    number: str = ""
    lines: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    lacking: tuple[str, ...] = ()


# -- words ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Labels:
    """Words for columns, conditions and points, as the page has them."""

    columns: Mapping[str, Measure]

    def measure(self, column: str) -> Measure:
        """A column's label, unit and decimals."""
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
            return [f"{name} = {' or '.join(axis_text(value) for value in rule.values)}"]
        low = [f"{name} >= {rule.minimum:g}"] if rule.minimum is not None else []
        return low + ([f"{name} <= {rule.maximum:g}"] if rule.maximum is not None else [])

    def axes(self, axes: Mapping[str, Any], cells: str) -> str:
        """Values of axes, and cells in brackets after them: ``c2 = 7, c3 = 6 (`c2-07_c3-06-1a2b3c4d5e`)``."""
        text = ", ".join(f"{self.name(axis)} = {axis_text(value)}" for axis, value in axes.items())
        return f"{text} ({cells})" if text else cells

    def point(self, point: Point) -> str:
        """A point and its cells."""
        return self.axes(point.axes, names(point.cells))


def names(cells: Sequence[Cell]) -> str:
    """The names of cells as code; of many the first ones."""
    shown = ", ".join(code(cell.name) for cell in cells[:MOST_NAMES])
    return shown + (f" and {len(cells) - MOST_NAMES} more" if len(cells) > MOST_NAMES else "")


def code(text: str) -> str:
    """Text in Markdown that is shown letter by letter, on one line."""
    return f"`{' '.join(text.replace('`', chr(39)).split())}`"


def interval_text(low: float, high: float, digits: int) -> str:
    """An interval with its signs: ``[-0.81, +0.02]``."""
    return f"[{low:+.{digits}f}, {high:+.{digits}f}]"


# -- rules ------------------------------------------------------------------------------------------------------------


class Rule(Model):
    """A claim of a paper as a question to numbers; the docstring of each rule says when it holds.

    Attributes:
        name: unique in its file, and a file name.
        statement: the conclusion, as a sentence that is true or not.
        paper: where the paper says it.
        note: a caveat for the reader.
    """

    name: FileName
    statement: str
    paper: str
    note: str | None = None

    @property
    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that it needs."""

    @property
    def measured(self) -> tuple[str, ...]:
        """Columns whose size decides; none where their order alone does."""
        return ()

    @abstractmethod
    def describe(self, labels: Labels) -> str:
        """The measured quantity and the rule that decides, in one or two sentences."""

    @abstractmethod
    def judge(self, evidence: Evidence, labels: Labels) -> Verdict:
        """The verdict under one protocol, whether or not the trainings had ended.

        Raises:
            LackingError: a source has no cells for it.
        """


def _without_default(schema: dict[str, Any]) -> None:
    del schema["default"]


class Near(Rule):
    """A rule with a tolerance."""

    tolerance: AtLeast0 = Field(0.0, description="default: the file's", json_schema_extra=_without_default)


class OfMetric(Near):
    """A rule about the size of one metric."""

    metric: str

    @property
    def measured(self) -> tuple[str, ...]:
        """The metric."""
        return (self.metric,)

    def value(self, point: Point) -> float:
        """The metric's mean over the seeds of a point."""
        return mean_of(point.cells, self.metric)

    def words(self, point: Point, labels: Labels) -> str:
        """The metric's value at a point, in words."""
        return f"{labels.number(self.metric, self.value(point))} at {labels.point(point)}"


class OfSource(Rule):
    """A rule about one source."""

    source: str

    @property
    def sources(self) -> tuple[str, ...]:
        """The one source."""
        return (self.source,)


def all_of(answers: Iterable[Answer]) -> Answer:
    """The answer to a claim of several parts: one that fails is enough, and all must hold."""
    found = set(answers)
    if "does not hold" in found:
        return "does not hold"
    return "holds" if found == {"holds"} else "undecided"


Part = tuple[Answer, str, str]
"""Answer, number and line of a part of a claim."""


def combined(parts: Sequence[Part], samples: Sequence[Sample], lacking: Sequence[str], number: str = "") -> Verdict:
    """The verdict on a claim of several parts.

    Args:
        parts: of the claim; all must hold.
        samples: the cells used.
        lacking: the sources that need more cells if the claim is undecided.
        number: text before the numbers of the parts.
    """
    answers, texts, lines = zip(*parts, strict=True)
    answer = all_of(answers)
    open_sources = tuple(lacking) if answer == "undecided" else ()
    return Verdict(answer, number + ", ".join(texts), lines, tuple(samples), open_sources)


def within(value: float, tolerance: float) -> bool:
    """True if a value is at most the tolerance."""
    return value <= tolerance + ROUNDING


def too_few(found: int, sample: Sample, fewest: int = FEWEST) -> str:
    """The reason for which a claim cannot hold on so few cells; empty where there are enough."""
    return f"{found} of at least {fewest} cells of {sample.part.source}" if found < fewest else ""


# -- networks that were still learning when their training ended ------------------------------------------------------

EPOCHS, PEAK = "training.epochs", "training.peak_epoch"
"""Of an autoencoder, these columns are about the training of its classifier, which gives the accuracy."""
ACCURACIES = frozenset({"test/acc", "val/acc"})
STILL_LEARNING = (
    "A network is *still learning* when it ends if its best epoch is the last that it had. Where more than half of the"
    " cells on one side of a claim about accuracies were, the claim is not refuted but undecided, unless the other"
    " cells refute it alone."
)
ALONE = "the cells that were not still learning refute it alone"


@dataclass(frozen=True)
class Learning:
    """The number of cells that were still learning when they ended.

    Attributes:
        still: cells whose best epoch is their last one.
        known: cells with both epochs; 0 where the table has none.
    """

    still: int
    known: int

    @property
    def most(self) -> bool:
        """True if more than half were."""
        return 2 * self.still > self.known

    def words(self, source: str = "") -> str:
        """The sentence on it; of which source, if that is named."""
        of = f" of {code(source)}" if source else ""
        verb, they = ("was", "it") if (self.still or self.known) == 1 else ("were", "they")
        return f"{self.still} of {count(self.known, 'cell')}{of} {verb} still learning when {they} ended"


def learning(cells: Iterable[Cell]) -> Learning:
    """The number of these cells that were still learning; those that lack one of the epochs are left out."""
    ends = [(number_of(cell, PEAK), number_of(cell, EPOCHS)) for cell in cells]
    known = [(peak, last) for peak, last in ends if not (math.isnan(peak) or math.isnan(last))]
    return Learning(sum(peak >= last for peak, last in known), len(known))


def judge(rule: Rule, evidence: Evidence, labels: Labels) -> Verdict:
    """The verdict of a rule, with regard to its trainings.

    A claim about accuracies that would not hold becomes undecided where more than half of the cells of one of its
    samples were still learning: their final accuracy is unknown.  It stays refuted where the other cells refute it
    alone, those that were still learning counted as lacking.  A claim that holds stays.

    Raises:
        LackingError: a source has no cells for it.
    """
    verdict = rule.judge(evidence, labels)
    if verdict.answer != "does not hold" or not ACCURACIES & set(rule.measured):
        return verdict
    found = [(sample.part.source, learning(sample.cells)) for sample in verdict.samples]
    reasons = dict.fromkeys(each.words(source) for source, each in found if each.most)
    if not reasons:
        return verdict
    if _refuted(rule, _ended(evidence), labels):
        return replace(verdict, lines=(*verdict.lines, ALONE))
    lines = [*verdict.lines, *(f"not refuted, since {reason}" for reason in reasons)]
    return replace(verdict, answer="undecided", lines=tuple(lines))


def _ended(evidence: Evidence) -> Evidence:
    """The evidence without the cells that were still learning, which count as lacking."""
    parts = {
        name: replace(part, cells=[cell for cell in part.cells if not learning([cell]).still])
        for name, part in evidence.parts.items()
    }
    return replace(evidence, parts=parts)


def _refuted(rule: Rule, evidence: Evidence, labels: Labels) -> bool:
    try:
        return rule.judge(evidence, labels).answer == "does not hold"
    except LackingError:
        return False
