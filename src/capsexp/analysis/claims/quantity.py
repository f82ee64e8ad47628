"""One number out of a source's cells: the largest, the lowest, the mean, or that of a single place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from capsexp.analysis import checks
from capsexp.analysis.claims.evidence import Evidence, LackingError, Place, Sample, Where
from capsexp.analysis.claims.labels import Labels, code
from capsexp.errors import require, require_choice, require_number
from capsexp.text import count

REDUCES = {"max": "largest", "min": "lowest", "mean": "mean"}


@dataclass(frozen=True)
class Quantity:
    """What is asked for.

    Attributes:
        source: empty for a constant.
        reduce: ``max``, ``min`` or ``mean`` over the places that ``where`` leaves; empty: these are one place.
        best: a metric; the number is that of the place where this one is largest.
        factor: what the number is multiplied by.
        value: the constant.
    """

    source: str = ""
    metric: str = ""
    reduce: str = ""
    best: str = ""
    where: Where = field(default_factory=dict)
    factor: float = 1.0
    value: float = 0.0

    def words(self, labels: Labels) -> str:
        """What the number is."""
        if not self.source:
            return f"{self.value:,.12g}"
        times = f"{self.factor:g} times " if self.factor != 1 else ""
        reduce = f"{REDUCES[self.reduce]} " if self.reduce else ""
        best = f" where its {labels.name(self.best)} is largest" if self.best else ""
        return f"{times}the {reduce}{labels.name(self.metric)} of {code(self.source)}{labels.where(self.where)}{best}"

    def find(self, evidence: Evidence, labels: Labels) -> "Found":
        """The number on one body of evidence.

        Raises:
            LackingError: the source has no cells for it, or several places and no rule that chooses.
        """
        if not self.source:
            return Found(self.value, self.words(labels))
        sample = evidence.part(self.source).sample(self.where, *[self.metric, *([self.best] if self.best else [])])
        value, place = self._reduced(sample)
        at = f" at {labels.place(place)}" if place else f" over {count(len(sample.places), 'place')}"
        shown = labels.number(self.metric, value * self.factor)
        return Found(value * self.factor, f"{self.words(labels)}: {shown}{at}", sample, *self._open(sample))

    def _open(self, sample: Sample) -> tuple[bool, bool]:
        """Whether more cells could raise the number, and whether they could lower it."""
        if sample.whole or not (self.reduce or self.best):
            return False, False
        # A mean over other seeds than the rest's may go either way, and take the extreme with it.
        even = len({len(place.rows) for place in sample.places}) == 1
        if not even or self.reduce not in ("max", "min"):
            return True, True
        up = (self.reduce == "max") == (self.factor >= 0)
        return up, not up

    def _reduced(self, sample: Sample) -> tuple[float, Place | None]:
        """The number before the factor, and where it is from; None: from all places."""
        places = sample.places
        if self.best:
            place = max(places, key=lambda place: place.mean(self.best))
        elif self.reduce == "mean":
            return sum(place.mean(self.metric) for place in places) / len(places), None
        elif self.reduce:
            choose = max if self.reduce == "max" else min
            place = choose(places, key=lambda place: place.mean(self.metric))
        elif len(places) > 1:
            raise LackingError(
                self.source, f"{len(places)} places of {self.source} match: the claim needs reduce or where"
            )
        else:
            place = places[0]
        return place.mean(self.metric), place


@dataclass(frozen=True)
class Found:
    """A number, and what it rests on.

    Attributes:
        words: what it is and where it is from.
        sample: the cells looked at; None: a constant.
        can_rise: whether more cells could raise it: cells are lacking, and it is no lowest value.
        can_fall: whether more cells could lower it.
    """

    value: float
    words: str
    sample: Sample | None = None
    can_rise: bool = False
    can_fall: bool = False


def parse(key: str, value: object) -> Quantity:
    """The checked form of a quantity: a constant, or a mapping."""
    if not isinstance(value, Mapping):
        return Quantity(value=require_number(key, value))
    raw: dict[str, Any] = checks.mapping(
        key, value, {"source", "metric", "reduce", "best", "where", "factor"}, {"source", "metric"}
    )
    reduce, best = str(raw.get("reduce", "")), checks.text(f"{key}.best", raw.get("best", ""))
    require_choice(f"{key}.reduce", reduce, ["", *REDUCES])
    require(not (reduce and best), f"{key}.best", "not be given beside reduce", best)
    return Quantity(
        source=checks.text(f"{key}.source", raw["source"]),
        metric=checks.text(f"{key}.metric", raw["metric"]),
        reduce=reduce,
        best=best,
        where=checks.conditions(key, {"where": raw.get("where")}),
        factor=require_number(f"{key}.factor", raw.get("factor", 1.0)),
    )
