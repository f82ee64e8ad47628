"""Networks that were still learning when their training ended, and what that leaves of a verdict.

The columns tell of the training that gives the accuracy: of an autoencoder, that of its classifier.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from capsexp.analysis.claims.evidence import Evidence, LackingError, number_of
from capsexp.analysis.claims.finding import Finding, Kind
from capsexp.analysis.claims.labels import Labels, code
from capsexp.analysis.claims.table import Row
from capsexp.text import count

EPOCHS, PEAK = "training.epochs", "training.peak_epoch"
ACCURACIES = frozenset({"test/acc", "val/acc"})

RULE = (
    "A network is *still learning* when it ends if its best epoch is the last that it had. Where more than half of the"
    " cells on one side of a claim about accuracies were, the claim is not refuted but undecided, unless the other"
    " cells refute it alone."
)
ALONE = "the cells that were not still learning refute it alone"


@dataclass(frozen=True)
class Learning:
    """How many cells were still learning when they ended.

    Attributes:
        still: cells whose best epoch is their last one.
        known: cells that tell both; 0 where the table does not.
    """

    still: int
    known: int

    @property
    def most(self) -> bool:
        """Whether more than half were."""
        return 2 * self.still > self.known

    def words(self, source: str = "") -> str:
        """The sentence on it; of which source, if that is named."""
        of = f" of {code(source)}" if source else ""
        verb, they = ("was", "it") if (self.still or self.known) == 1 else ("were", "they")
        return f"{self.still} of {count(self.known, 'cell')}{of} {verb} still learning when {they} ended"


def learning(rows: Iterable[Row]) -> Learning:
    """How many of these cells were still learning; those that do not tell both epochs are left out."""
    ends = [(number_of(row, PEAK), number_of(row, EPOCHS)) for row in rows]
    known = [(peak, last) for peak, last in ends if peak is not None and last is not None]
    return Learning(sum(peak >= last for peak, last in known), len(known))


def judge(kind: Kind, evidence: Evidence, labels: Labels) -> Finding:
    """The finding of a kind of claim, after a look at its trainings.

    A claim about accuracies that would not hold becomes undecided where more than half of the cells of one of its
    samples were still learning: what they would have reached is not known.  It stays refuted where the other cells
    refute it alone, those that were still learning counted as lacking.  A claim that holds stays.

    Raises:
        LackingError: a source has no cells for it.
    """
    finding = kind.judge(evidence, labels)
    if finding.verdict != "does not hold" or not ACCURACIES & set(kind.measured):
        return finding
    found = [(sample.part.source, learning(sample.rows)) for sample in finding.samples]
    reasons = dict.fromkeys(each.words(source) for source, each in found if each.most)
    if not reasons:
        return finding
    if _refuted(kind, _ended(evidence), labels):
        return replace(finding, lines=(*finding.lines, ALONE))
    lines = [*finding.lines, *(f"not refuted, since {reason}" for reason in reasons)]
    return replace(finding, verdict="undecided", lines=tuple(lines))


def _ended(evidence: Evidence) -> Evidence:
    """The evidence with a hole for every cell that was still learning."""
    parts = {
        name: replace(part, rows=tuple(row for row in part.rows if not learning([row]).still))
        for name, part in evidence.parts.items()
    }
    return replace(evidence, parts=parts)


def _refuted(kind: Kind, evidence: Evidence, labels: Labels) -> bool:
    try:
        return kind.judge(evidence, labels).verdict == "does not hold"
    except LackingError:
        return False
