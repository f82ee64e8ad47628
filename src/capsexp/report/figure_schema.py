"""The figures of a ``report:`` block, checked; what they may say is in :mod:`capsexp.report.schema`."""

from collections.abc import Mapping
from typing import Any

from capsexp.errors import require, require_number
from capsexp.report import checks
from capsexp.report.spec import Figure

SHARED = {"kind", "name", "title", "where", "at", "paper", "note"}
GRID = SHARED | {"metric", "x", "y"}
CELL = SHARED | {"metric", "pick"}
LABELS = {"x_label", "y_label"}
KINDS: dict[str, tuple[set[str], set[str]]] = {
    "surface": (GRID | {"sigma", "azim"}, {"x", "y", "metric"}),
    "heatmap": (GRID | {"by"}, {"x", "y", "metric"}),
    "line": (SHARED | {"metric", "x", "by"}, {"x", "metric"}),
    "epochs": (SHARED | LABELS | {"metrics", "by"}, {"metrics"}),
    "kernels": (CELL | {"layer"}, {"layer", "metric", "pick"}),
    "matrix": (CELL | LABELS | {"array", "triangle", "labels", "sort", "range", "value_label"}, {"array"}),
    "bars": (CELL | LABELS | {"arrays", "labels", "images"}, {"arrays", "labels", "images"}),
    "tuning": (CELL | LABELS | {"arrays"}, {"arrays"}),
    "images": (CELL | LABELS | {"array", "steps"}, {"array"}),
    "activity": (CELL | {"by", "layers", "threshold"}, set()),
}
"""For each kind of figure: the keys that it knows, and those among them that it needs."""

TEXTS = (
    *("title", "metric", "x", "y", "by", "layer", "paper", "note"),
    *("array", "labels", "images", "steps", "x_label", "y_label", "value_label"),
)
MOST = 4
"""Arrays in one figure at most."""


def figures(value: object) -> list[Figure] | None:
    """The checked figures; None where the block does not name any.

    Raises:
        ConfigError: a key is unknown or missing, or has a wrong value.
    """
    if value is None:
        return None
    found: list[Figure] = []
    for key, item in checks.items("report.figures", value):
        figure = _figure(key, item, len(found) + 1)
        taken = {other.name for other in found}
        require(figure.name not in taken, f"{key}.name", "be used once in the report", figure.name)
        found.append(figure)
    return found


def _figure(key: str, value: object, number: int) -> Figure:
    kind = checks.mapping(key, value, None, {"kind"})["kind"]
    require(isinstance(kind, str) and kind in KINDS, f"{key}.kind", f"be one of {', '.join(KINDS)}", kind)
    known, needed = KINDS[kind]
    raw = checks.mapping(key, value, known, needed)
    texts = {
        name: checks.text(f"{key}.{name}", str(raw[name]) if name == "paper" else raw[name])
        for name in TEXTS
        if raw.get(name) is not None
    }
    name = checks.file_name(f"{key}.name", raw.get("name", f"figure{number:02d}"))
    _pairs(key, raw)
    return Figure(
        **{"title": name, **texts},
        kind=kind,
        name=name,
        sigma=require_number(f"{key}.sigma", raw.get("sigma", 0.5), 0, 100),
        azim=require_number(f"{key}.azim", raw.get("azim", -125.0), -360, 360),
        pick=checks.extreme(f"{key}.pick", raw.get("pick")) or "max",
        arrays=_arrays(f"{key}.arrays", raw.get("arrays")),
        metrics=_metrics(f"{key}.metrics", raw.get("metrics")),
        triangle=checks.switch(f"{key}.triangle", raw.get("triangle", False)),
        sort=checks.switch(f"{key}.sort", raw.get("sort", False)),
        range=checks.span(f"{key}.range", raw.get("range")),
        layers=_layers(f"{key}.layers", raw.get("layers", "intermediate")),
        threshold=require_number(f"{key}.threshold", raw.get("threshold", 0.01), 0, open_ends="<"),
        where=checks.conditions(key, raw),
    )


def _pairs(key: str, raw: Mapping[str, Any]) -> None:
    """Keys that say nothing without another."""
    if "pick" in KINDS[raw["kind"]][0]:
        for one, other in (("metric", "pick"), ("pick", "metric")):
            given = raw.get(one) is None or raw.get(other) is not None
            require(given, f"{key}.{other}", f"be given with {one}", raw.get(other))
    sortable = not raw.get("sort") or raw.get("labels") is not None
    require(sortable, f"{key}.labels", "be given with sort", raw.get("labels"))


def _arrays(key: str, value: object) -> dict[str, str]:
    if value is None:
        return {}
    raw = checks.mapping(key, value)
    require(1 <= len(raw) <= MOST, key, f"name 1 to {MOST} arrays", value)
    return {name: checks.text(f"{key}.{name}", array) for name, array in raw.items()}


def _layers(key: str, value: object) -> str:
    require(value in ("intermediate", "all"), key, "be intermediate or all", value)
    return checks.text(key, value)


def _metrics(key: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    found = checks.texts(key, value)
    require(1 <= len(set(found)) == len(found) <= MOST, key, f"be 1 to {MOST} different metrics", value)
    return tuple(found)
