"""Names of what is kept."""

from tests.golden import cases


def parts() -> list[str]:
    """What can be gathered; a report needs its sweep."""
    pairs = [f"{kind}:{name}" for name in cases.SWEEPS for kind in ("sweeps", "reports")]
    return ["plans", "ids", "said", "older", "stacked", "interrupted", *pairs]


def file_of(part: str) -> str:
    """The file that keeps a part."""
    return f"{part.replace(':', '-')}.json"
