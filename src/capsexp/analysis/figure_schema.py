"""The figures of a ``report:`` block, checked; what they may say is in :mod:`capsexp.analysis.schema`."""

from collections.abc import Mapping
from typing import Any

from capsexp.analysis import checks
from capsexp.analysis.spec import Condition, Figure
from capsexp.errors import require, require_number

SHARED = {"kind", "name", "title", "where", "at", "paper", "note"}
GRID = SHARED | {"metric", "x", "y"}
CELL = SHARED | {"metric", "pick"}
LABELS = {"x_label", "y_label"}
LINES = {"by", "style", "panels", "reference", "reference_label"}
KINDS: dict[str, tuple[set[str], set[str]]] = {
    "surface": (GRID | {"sigma", "azim"}, {"x", "y", "metric"}),
    "heatmap": (GRID | {"by"}, {"x", "y", "metric"}),
    "line": (SHARED | {"metric", "x", "by"}, {"x", "metric"}),
    "epochs": (SHARED | LABELS | {"metrics", "by"}, {"metrics"}),
    "series": (SHARED | LABELS | LINES | {"x", "y"}, {"x", "y"}),
    "kernels": (CELL | {"layer"}, {"layer", "metric", "pick"}),
    "matrix": (CELL | LABELS | {"array", "triangle", "labels", "sort", "range", "value_label"}, {"array"}),
    "bars": (CELL | LABELS | {"arrays", "labels", "images"}, {"arrays", "labels", "images"}),
    "tuning": (CELL | LABELS | {"arrays"}, {"arrays"}),
    "images": (CELL | LABELS | {"array", "steps", "rows", "labels"}, {"array"}),
    "activity": (CELL | {"by", "layers", "threshold"}, set()),
}
"""For each kind of figure: the keys that it knows, and those among them that it needs."""

TEXTS = (
    *("title", "metric", "x", "y", "by", "layer", "paper", "note"),
    *("array", "labels", "images", "steps", "x_label", "y_label", "value_label"),
    *("style", "panels", "reference_label"),
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
    arrays = _arrays(f"{key}.arrays", raw.get("arrays"))
    if kind == "series":
        _apart(key, texts)
        arrays = {end: texts.pop(end) for end in ("x", "y")}
    return Figure(
        **{"title": name, **texts},
        kind=kind,
        name=name,
        sigma=require_number(f"{key}.sigma", raw.get("sigma", 0.5), 0, 100),
        azim=require_number(f"{key}.azim", raw.get("azim", -125.0), -360, 360),
        pick=checks.extreme(f"{key}.pick", raw.get("pick")) or "max",
        arrays=arrays,
        metrics=_metrics(f"{key}.metrics", raw.get("metrics")),
        triangle=checks.switch(f"{key}.triangle", raw.get("triangle", False)),
        sort=checks.switch(f"{key}.sort", raw.get("sort", False)),
        range=checks.span(f"{key}.range", raw.get("range")),
        layers=_layers(f"{key}.layers", raw.get("layers", "intermediate")),
        threshold=require_number(f"{key}.threshold", raw.get("threshold", 0.01), 0, open_ends="<"),
        reference=_reference(f"{key}.reference", raw.get("reference")),
        rows=_rows(f"{key}.rows", raw.get("rows")),
        where=checks.conditions(key, raw),
    )


def _pairs(key: str, raw: Mapping[str, Any]) -> None:
    """Keys that say nothing without another."""
    pairs = [("reference", "reference_label"), *([("metric", "pick")] if "pick" in KINDS[raw["kind"]][0] else [])]
    for one, other in (*pairs, *(pair[::-1] for pair in pairs)):
        given = raw.get(one) is None or raw.get(other) is not None
        require(given, f"{key}.{other}", f"be given with {one}", raw.get(other))
    sortable = not raw.get("sort") or raw.get("labels") is not None
    require(sortable, f"{key}.labels", "be given with sort", raw.get("labels"))
    above = raw.get("labels") is None or raw.get("steps") is None
    require(above, f"{key}.labels", "be left out where steps stand above the columns", raw.get("labels"))


def _apart(key: str, texts: Mapping[str, str]) -> None:
    """One axis cannot be colour, line style and panel at once."""
    used: list[str] = []
    for name in ("by", "style", "panels"):
        require(texts.get(name) not in used, f"{key}.{name}", "be another axis", texts.get(name))
        used += [texts[name]] if name in texts else []


def _reference(key: str, value: object) -> dict[str, Condition]:
    require(value is None or value != {}, key, "name an axis", value)
    return {} if value is None else checks.rules(key, value)


def _rows(key: str, value: object) -> tuple[str, ...]:
    require(value is None or value != [], key, "be a text for each row", value)
    return tuple(checks.texts(key, value))


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
