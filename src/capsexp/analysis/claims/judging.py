"""Every claim put to every body of evidence."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from capsexp.analysis.claims import learning
from capsexp.analysis.claims.evidence import Body, Evidence, LackingError
from capsexp.analysis.claims.finding import VERDICTS, Finding
from capsexp.analysis.claims.schema import Claim, Claims

PLURAL = ("hold", "do not hold", "undecided")


@dataclass(frozen=True)
class Judged:
    """A claim and what was found, by body of evidence."""

    claim: Claim
    findings: dict[Body, Finding]


def judge(claims: Claims, bodies: Mapping[Body, Evidence]) -> list[Judged]:
    """Every claim on every body of evidence; undecided is what lacks cells, or what :func:`learning.judge` says."""
    return [
        Judged(claim, {body: _judge(claim, evidence, claims) for body, evidence in bodies.items()})
        for claim in claims.claims
    ]


def _judge(claim: Claim, evidence: Evidence, claims: Claims) -> Finding:
    try:
        return learning.judge(claim.kind, evidence, claims.labels)
    except LackingError as error:
        empty = [source for source in claim.kind.sources if source not in evidence.parts]
        return Finding("undecided", lines=(str(error),), lacking=tuple(empty or [error.source]))


def tally(judged: Sequence[Judged], body: Body) -> str:
    """How often each verdict was found: ``4 hold, 5 do not hold, 21 undecided``."""
    found = Counter(each.findings[body].verdict for each in judged)
    return ", ".join(f"{found[verdict]} {word}" for verdict, word in zip(VERDICTS, PLURAL, strict=True))
