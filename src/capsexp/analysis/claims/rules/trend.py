"""Two columns that rise and fall together over the cells of a source."""

from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Field, field_validator

from capsexp.analysis.claims.evidence import Evidence, Sample, mean_of
from capsexp.analysis.claims.rules.base import (
    Answer,
    Labels,
    OfSource,
    Part,
    Verdict,
    code,
    combined,
    interval_text,
    too_few,
)
from capsexp.analysis.validation import Conditions, Model
from capsexp.errors import require, require_number

THRESHOLD = 0.5
RESAMPLES = 2000
LEVEL = 0.95
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(partial(require_number, "", minimum=0, maximum=1))]
Array = npt.NDArray[np.float64]


class Pair(Model):
    """One correlation: the sign that ``y`` follows ``x`` with."""

    x: str
    y: str
    sign: Literal["rise", "fall", "none"]
    where: Conditions = Field(default={})


class Trend(OfSource):
    """Spearman's rank correlation (ties: mean ranks) over the points of a source, seeds averaged, for each pair.

    Its interval is the percentile bootstrap over the points (95 %, 2,000 resamples, fixed seed).  ``rise`` and ``fall``
    hold if the whole interval is on that side of 0, do not hold if it is on the other side, else are undecided.
    ``none`` holds if the whole interval is between -threshold and threshold, does not hold if it lies beyond one of
    them, else is undecided.  Fewer than eight points, or a column that does not vary: undecided.  Of several pairs all
    must hold.
    """

    kind: Literal["trend"]
    pairs: list[Pair]
    threshold: Annotated[
        float, Field(ge=0, le=1), BeforeValidator(partial(require_number, "", minimum=0, maximum=1))
    ] = THRESHOLD

    @field_validator("pairs")
    @classmethod
    def _any(cls, pairs: list[Pair]) -> list[Pair]:
        require(bool(pairs), "", "name at least one pair", [])
        return pairs

    def describe(self, labels: Labels) -> str:
        """The measured quantity and the rule that decides."""
        claimed = {
            "rise": "above 0",
            "fall": "below 0",
            "none": f"between -{self.threshold:g} and {self.threshold:g}",
        }
        asked = "; ".join(f"{_name(pair, labels)}, claimed {claimed[pair.sign]}" for pair in self.pairs)
        over = f"Spearman's rank correlation over the cells of {code(self.source)}"
        return f"{over}: {asked}. Its whole 95 % bootstrap interval decides."

    def judge(self, evidence: Evidence, labels: Labels) -> Verdict:
        """The correlation of each pair."""
        part = evidence.part(self.source)
        samples = [part.sample(pair.where, pair.x, pair.y) for pair in self.pairs]
        found = [self._judge(pair, sample, labels) for pair, sample in zip(self.pairs, samples, strict=True)]
        lacking = self.sources if any("too few" in line for _, _, line in found) else ()
        return combined(found, samples, lacking, "rho ")

    def _judge(self, pair: Pair, sample: Sample, labels: Labels) -> Part:
        points = sample.points
        x, y = ([mean_of(point.cells, column) for point in points] for column in (pair.x, pair.y))
        rho = spearman(x, y)
        line = f"{_name(pair, labels)}: rho {rho:+.2f}"
        few = too_few(len(points), sample)
        if few or len(set(x)) == 1 or len(set(y)) == 1:
            return "undecided", f"{rho:+.2f}", f"{line}; {f'too few: {few}' if few else 'one of them does not vary'}"
        low, high = bootstrap(x, y)
        answer = decide(pair.sign, low, high, self.threshold)
        return answer, f"{rho:+.2f}", f"{line} {interval_text(low, high, 2)} over {len(points)} places: {answer}"


def _name(pair: Pair, labels: Labels) -> str:
    return f"{labels.name(pair.x)} and {labels.name(pair.y)}{labels.where(pair.where)}"


def decide(sign: str, low: float, high: float, threshold: float = THRESHOLD) -> Answer:
    """The answer from one interval."""
    if sign == "none":
        inside, beyond = -threshold < low and high < threshold, low >= threshold or high <= -threshold
        return "holds" if inside else "does not hold" if beyond else "undecided"
    right, wrong = (low > 0, high < 0) if sign == "rise" else (high < 0, low > 0)
    return "holds" if right else "does not hold" if wrong else "undecided"


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's of the ranks, equal values having their mean.

    0 where one of the two does not vary, since there is nothing to rank; scipy's has NaN there.
    """
    return float(_correlation(_places(x)[None], _places(y)[None])[0])


def bootstrap(x: Sequence[float], y: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Percentile interval (95 %) of Spearman's rank correlation, over resamples of the pairs.

    Pairs are drawn with replacement, so a resample has ties even where the data have none; it is ranked again, ties
    with the mean of their ranks.  A resample in which a column does not vary counts as 0.  The draws decide the printed
    digits, so they are made here and not by scipy, whose order of draws may change.
    """
    drawn = np.random.default_rng(seed).integers(0, len(x), (resamples, len(x)))
    low, high = np.quantile(_correlation(_places(x)[drawn], _places(y)[drawn]), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _places(values: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """The place of each value among the different ones, from small to large."""
    return np.unique(np.asarray(values, np.float64), return_inverse=True)[1]


def _correlation(x_RN: npt.NDArray[np.intp], y_RN: npt.NDArray[np.intp]) -> Array:
    """The rank correlation of each resample, from the places of its values."""
    a, b = (each - each.mean(-1, keepdims=True) for each in (_ranks(x_RN), _ranks(y_RN)))
    norms = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    found: Array = np.divide((a * b).sum(-1), norms, out=np.zeros(norms.shape), where=norms > 0)
    return np.clip(found, -1.0, 1.0)


def _ranks(places_RN: npt.NDArray[np.intp]) -> Array:
    """The rank of each value in its resample: values are counted, not sorted, for all resamples at once."""
    resamples, different = len(places_RN), int(places_RN.max()) + 1
    flat = places_RN + different * np.arange(resamples)[:, None]
    counts = np.bincount(flat.ravel(), minlength=resamples * different).reshape(resamples, different)
    ranks: Array = counts.cumsum(-1) - (counts - 1) / 2
    return np.take_along_axis(ranks, places_RN, -1)
