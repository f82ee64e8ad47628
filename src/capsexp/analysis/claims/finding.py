"""What judging a claim on one body of evidence gives, and what every kind of claim can do."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

from capsexp.analysis.claims.evidence import Evidence, Sample
from capsexp.analysis.claims.labels import Labels

Verdict = Literal["holds", "does not hold", "undecided"]
VERDICTS: tuple[Verdict, ...] = ("holds", "does not hold", "undecided")

FEWEST = 8
"""Cells without which a claim about a whole grid cannot hold; one cell against it is enough to refute it."""
ROUNDING = 1e-12
"""What sums of decimals miss: .95 - .93 is still within .02."""


@dataclass(frozen=True)
class Finding:
    """A claim on one body of evidence.

    Attributes:
        number: what decides, as the summary shows it; empty where there is none.
        lines: the numbers behind the verdict, with the cells that decide.
        samples: the cells looked at.
        lacking: sources that need more cells before the claim can be decided.
    """

    verdict: Verdict
    number: str = ""
    lines: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()
    lacking: tuple[str, ...] = ()


class Kind(Protocol):
    """A claim's statement as a question to numbers: its docstring says when it holds."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that it needs."""

    @property
    def measured(self) -> tuple[str, ...]:
        """Columns whose size decides; none where their order alone does."""

    def rule(self, labels: Labels) -> str:
        """What is measured and how it is decided, in one or two sentences."""

    def judge(self, evidence: Evidence, labels: Labels) -> Finding:
        """The finding on one body of evidence.

        Raises:
            LackingError: a source has no cells for it.
        """


def all_of(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict on a claim of several parts: one that fails is enough, and all must hold."""
    found = set(verdicts)
    if "does not hold" in found:
        return "does not hold"
    return "holds" if found == {"holds"} else "undecided"


def within(value: float, tolerance: float) -> bool:
    """Whether a value is at most the tolerance."""
    return value <= tolerance + ROUNDING


def too_few(count: int, sample: Sample, fewest: int = FEWEST) -> str:
    """Why a claim cannot hold on so few cells; empty where there are enough."""
    return f"{count} of at least {fewest} cells of {sample.part.source}" if count < fewest else ""


def interval_text(low: float, high: float, digits: int) -> str:
    """An interval with its signs: ``[-0.81, +0.02]``."""
    return f"[{low:+.{digits}f}, {high:+.{digits}f}]"
