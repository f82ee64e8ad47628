"""The rules that decide claims: each checks its keys and judges one protocol, and its docstring says when it holds."""

from typing import Annotated

from capsexp.analysis.claims.rules.base import Rule
from capsexp.analysis.claims.rules.flat import Flat
from capsexp.analysis.claims.rules.gap import Gap
from capsexp.analysis.claims.rules.paired import Paired
from capsexp.analysis.claims.rules.rank import Rank
from capsexp.analysis.claims.rules.robust_area import RobustArea
from capsexp.analysis.claims.rules.trend import Trend
from capsexp.analysis.validation import ByKind

KINDS = {"flat": Flat, "trend": Trend, "gap": Gap, "paired": Paired, "rank": Rank, "robust_area": RobustArea}
Claim = Annotated[Rule, ByKind(lambda: KINDS)]
"""A claim with any rule, as its ``kind`` says."""
