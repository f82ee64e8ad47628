"""Whether two columns rise and fall together over the cells of a source."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from capsexp.analysis import checks
from capsexp.analysis.claims.evidence import Evidence, Sample, Where
from capsexp.analysis.claims.finding import Finding, Verdict, all_of, interval_text, too_few
from capsexp.analysis.claims.labels import Labels, code
from capsexp.analysis.claims.measures import bootstrap, spearman
from capsexp.errors import require, require_choice, require_number

SIGNS = ("rise", "fall", "none")
THRESHOLD = 0.5


@dataclass(frozen=True)
class Pair:
    """One correlation: what ``y`` does when ``x`` grows."""

    x: str
    y: str
    sign: str
    where: Where


@dataclass(frozen=True)
class Trend:
    """Spearman's rank correlation (ties: mean ranks) over the places of a source, seeds averaged, for each pair.

    Its interval is the percentile bootstrap over the places (95 %, 2,000 resamples, fixed seed).  ``rise`` and ``fall``
    hold if the whole interval is on that side of 0, do not hold if it is on the other side, else are undecided.
    ``none`` holds if the whole interval is between -threshold and threshold, does not hold if it lies beyond one of
    them, else is undecided.  Fewer than eight places, or a column that does not vary: undecided.  Of several pairs all
    must hold.
    """

    KEYS: ClassVar = frozenset({"source", "pairs", "threshold"})
    NEEDED: ClassVar = frozenset({"source", "pairs"})

    source: str
    pairs: tuple[Pair, ...]
    threshold: float

    @classmethod
    def parse(cls, key: str, raw: Mapping[str, Any], tolerance: float) -> "Trend":
        """The checked form of a claim's keys."""
        pairs = tuple(_pair(each, item) for each, item in checks.items(f"{key}.pairs", raw["pairs"]))
        require(bool(pairs), f"{key}.pairs", "name at least one pair", raw["pairs"])
        threshold = require_number(f"{key}.threshold", raw.get("threshold", THRESHOLD), 0, 1)
        return cls(checks.text(f"{key}.source", raw["source"]), pairs, threshold)

    @property
    def sources(self) -> tuple[str, ...]:
        """The one source."""
        return (self.source,)

    @property
    def measured(self) -> tuple[str, ...]:
        """None: ranks decide."""
        return ()

    def rule(self, labels: Labels) -> str:
        """What is measured and how it is decided."""
        said = {
            "rise": "above 0",
            "fall": "below 0",
            "none": f"between -{self.threshold:g} and {self.threshold:g}",
        }
        asked = "; ".join(f"{self._name(pair, labels)}, claimed {said[pair.sign]}" for pair in self.pairs)
        over = f"Spearman's rank correlation over the cells of {code(self.source)}"
        return f"{over}: {asked}. Its whole 95 % bootstrap interval decides."

    def judge(self, evidence: Evidence, labels: Labels) -> Finding:
        """The correlation of each pair."""
        part = evidence.part(self.source)
        samples = [part.sample(pair.where, pair.x, pair.y) for pair in self.pairs]
        found = [self._judge(pair, sample, labels) for pair, sample in zip(self.pairs, samples, strict=True)]
        verdict = all_of(each for each, _, _ in found)
        lacking = (self.source,) if verdict == "undecided" and any("too few" in line for _, _, line in found) else ()
        number = "rho " + ", ".join(text for _, text, _ in found)
        return Finding(verdict, number, tuple(line for _, _, line in found), tuple(samples), lacking)

    def _judge(self, pair: Pair, sample: Sample, labels: Labels) -> tuple[Verdict, str, str]:
        """Verdict, number and line of one pair."""
        places = sample.places
        x, y = ([place.mean(column) for place in places] for column in (pair.x, pair.y))
        rho = spearman(x, y)
        line = f"{self._name(pair, labels)}: rho {rho:+.2f}"
        few = too_few(len(places), sample)
        if few or len(set(x)) == 1 or len(set(y)) == 1:
            return "undecided", f"{rho:+.2f}", f"{line}; {f'too few: {few}' if few else 'one of them does not vary'}"
        low, high = bootstrap(x, y)
        verdict = decide(pair.sign, low, high, self.threshold)
        return verdict, f"{rho:+.2f}", f"{line} {interval_text(low, high, 2)} over {len(places)} places: {verdict}"

    def _name(self, pair: Pair, labels: Labels) -> str:
        return f"{labels.name(pair.x)} and {labels.name(pair.y)}{labels.where(pair.where)}"


def decide(sign: str, low: float, high: float, threshold: float = THRESHOLD) -> Verdict:
    """The verdict on one interval."""
    if sign == "none":
        inside, beyond = -threshold < low and high < threshold, low >= threshold or high <= -threshold
        return "holds" if inside else "does not hold" if beyond else "undecided"
    above, below = low > 0, high < 0
    right, wrong = (above, below) if sign == "rise" else (below, above)
    return "holds" if right else "does not hold" if wrong else "undecided"


def _pair(key: str, value: object) -> Pair:
    raw = checks.mapping(key, value, {"x", "y", "sign", "where"}, {"x", "y", "sign"})
    sign = require_choice(f"{key}.sign", str(raw["sign"]), SIGNS)
    return Pair(
        checks.text(f"{key}.x", raw["x"]),
        checks.text(f"{key}.y", raw["y"]),
        sign,
        checks.conditions(key, {"where": raw.get("where")}),
    )
