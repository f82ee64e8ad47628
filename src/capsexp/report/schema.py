"""The ``report:`` block of an experiment: what it may say, checked with one-line errors.

Every key is optional.  An axis is a swept key (``model.c2``).  A metric is a name under ``metrics`` of a result
(``test/acc``) or a dotted path in the result itself (``params``, ``training.epochs``)::

    report:
      title: "..."               # heading of the page; default: the sweep's name and what was swept
      source: "..."              # which paper, which sections and figures
      claim: "..."               # what the paper says, in a sentence or two
      paper_data: dhcd           # data.name of the paper's data set; any other is flagged beside the paper's numbers
      axes:                      # how an axis is labelled
        model.c2: {label: "c2", unit: "channels"}
      metrics:                   # how a metric is labelled, and its decimals
        test/acc: {label: "test accuracy", unit: "share", digits: 4}
      columns: [test/acc, params]  # metrics in the tables; default: the standard ones that every result has
      timings: [speed/step_ms]   # metrics measured with a clock: shown in timings.* only, beside the result's clocks
      compare:                   # one row each: our number, the paper's, the difference
        - what: "best accuracy"
          metric: test/acc
          reduce: max            # max or min over the points that `where` leaves; not needed where one point is left
          where: {model.c2: {min: 7, max: 16}, model.c3: [6, 8]}   # bounds, a list of values, or one value
          at: {model.c2: 16}     # the same as `where` with one value a key
          minus: max             # subtract the max (or min) of the metric over the whole sweep
          paper: 0.94            # a number, a sentence, or null where the paper is silent
          paper_data: mnist      # where this row's differs
          note: "..."
      figures:                   # default: one figure over all axes, see capsexp.report.defaults
        - kind: surface          # smoothed 3-D surface beside a heat map of the raw values
          name: fig01_accuracy   # file name
          title: "..."
          x: model.c2
          y: model.c3
          metric: test/acc
          sigma: 0.5             # of the Gaussian filter, in grid steps; the heat map is never smoothed
          azim: -125             # direction of view, in degrees
          where: {...}           # as above
          paper: "best .94"      # in the subtitle
          note: "..."            # below the figure
        - {kind: heatmap, name: ..., x: ..., y: ..., by: ..., metric: ...}  # raw values; one map a value of `by`
        - {kind: line, name: ..., x: ..., by: ..., metric: ...}          # mean and deviation; one line a value of `by`
        - {kind: kernels, name: ..., layer: conv1, metric: ..., pick: max}  # filters of the cell with the max (or min)

Axes that a figure does not name (``seed`` apart, which is averaged over) give one picture for each of their values.
"""

from collections.abc import Collection, Mapping
from typing import Any

from capsexp.errors import ConfigError, require, require_int, require_number
from capsexp.report.spec import Comparison, Condition, Figure, Measure, Spec, usual

SHARED = {"kind", "name", "title", "metric", "where", "at", "paper", "note"}
GRID = SHARED | {"x", "y"}
KINDS: dict[str, tuple[set[str], set[str]]] = {
    "surface": (GRID | {"sigma", "azim"}, {"x", "y", "metric"}),
    "heatmap": (GRID | {"by"}, {"x", "y", "metric"}),
    "line": (SHARED | {"x", "by"}, {"x", "metric"}),
    "kernels": (SHARED | {"layer", "pick"}, {"layer", "metric", "pick"}),
}
"""For each kind of figure: the keys that it knows, and those among them that it needs."""


def parse(block: object) -> Spec:
    """The checked form of a ``report:`` block.

    Raises:
        ConfigError: a key is unknown or missing, or a value is not what the module's docstring allows.
    """
    raw = _mapping("report", {} if block is None else block, Spec.__dataclass_fields__)
    timings = _texts("report.timings", raw.get("timings", []))
    columns = None if raw.get("columns") is None else _texts("report.columns", raw["columns"])
    paper_data = _optional_text("report.paper_data", raw.get("paper_data"))
    spec = Spec(
        **{key: _text(f"report.{key}", raw[key]) for key in ("title", "source", "claim") if raw.get(key) is not None},
        paper_data=paper_data,
        axes=_measures("report.axes", raw.get("axes")),
        metrics=_measures("report.metrics", raw.get("metrics")),
        columns=columns,
        timings=timings,
        compare=[_comparison(key, item, paper_data) for key, item in _items("report.compare", raw.get("compare"))],
        figures=_figures(raw.get("figures")),
    )
    _refuse_clocks(spec)
    return spec


def _refuse_clocks(spec: Spec) -> None:
    """Clocks differ from run to run; one outside ``timings.*`` would make two equal reports differ."""
    used = [(f"report.columns[{i}]", metric) for i, metric in enumerate(spec.columns or [])]
    used += [(f"report.compare[{i}].metric", row.metric) for i, row in enumerate(spec.compare)]
    used += [(f"report.figures[{i}].metric", figure.metric) for i, figure in enumerate(spec.figures or [])]
    for key, metric in used:
        clock = metric.startswith("clocks.") or metric in spec.timings
        require(not clock, key, "be no clock (those stand in the timings table alone)", metric)


def _measures(key: str, value: object) -> dict[str, Measure]:
    raw = _mapping(key, {} if value is None else value)
    return {name: _measure(f"{key}.{name}", name, item) for name, item in raw.items()}


def _measure(key: str, name: str, value: object) -> Measure:
    raw = _mapping(key, value, {"label", "unit", "digits"})
    standard = usual(name)
    return Measure(
        name,
        _text(f"{key}.label", raw.get("label", standard.label)),
        _text(f"{key}.unit", raw.get("unit", standard.unit)),
        require_int(f"{key}.digits", raw.get("digits", standard.digits), 0, 12),
    )


def _comparison(key: str, value: object, paper_data: str | None) -> Comparison:
    known = {"what", "metric", "reduce", "where", "at", "minus", "paper", "paper_data", "note"}
    raw = _mapping(key, value, known, {"what", "metric"})
    paper = raw.get("paper")
    if paper is not None and not isinstance(paper, str):
        require_number(f"{key}.paper", paper)
    return Comparison(
        what=_text(f"{key}.what", raw["what"]),
        metric=_text(f"{key}.metric", raw["metric"]),
        reduce=_extreme(f"{key}.reduce", raw.get("reduce")),
        where=_conditions(key, raw),
        minus=_extreme(f"{key}.minus", raw.get("minus")),
        paper=paper,
        paper_data=_optional_text(f"{key}.paper_data", raw.get("paper_data", paper_data)),
        note=_text(f"{key}.note", raw.get("note") or ""),
    )


def _figures(value: object) -> list[Figure] | None:
    if value is None:
        return None
    figures: list[Figure] = []
    for key, item in _items("report.figures", value):
        figure = _figure(key, item, len(figures) + 1)
        taken = {other.name for other in figures}
        require(figure.name not in taken, f"{key}.name", "be used once in the report", figure.name)
        figures.append(figure)
    return figures


def _figure(key: str, value: object, number: int) -> Figure:
    kind = _mapping(key, value, None, {"kind"})["kind"]
    require(isinstance(kind, str) and kind in KINDS, f"{key}.kind", f"be one of {', '.join(KINDS)}", kind)
    known, needed = KINDS[kind]
    raw = _mapping(key, value, known, needed)
    texts = {
        name: _text(f"{key}.{name}", str(raw[name]) if name == "paper" else raw[name])
        for name in ("title", "metric", "x", "y", "by", "layer", "paper", "note")
        if raw.get(name) is not None
    }
    name = _text(f"{key}.name", raw.get("name", f"figure{number:02d}"))
    plain = bool(name) and all(char.isascii() and (char.isalnum() or char in "_-") for char in name)
    require(plain, f"{key}.name", "be a file name of letters, digits, - and _", name)
    return Figure(
        **{"title": name, **texts},
        kind=kind,
        name=name,
        sigma=require_number(f"{key}.sigma", raw.get("sigma", 0.5), 0, 100),
        azim=require_number(f"{key}.azim", raw.get("azim", -125.0), -360, 360),
        pick=_extreme(f"{key}.pick", raw.get("pick")) or "max",
        where=_conditions(key, raw),
    )


def _conditions(key: str, raw: Mapping[str, Any]) -> dict[str, Condition]:
    where = _mapping(f"{key}.where", raw.get("where") or {})
    at = _mapping(f"{key}.at", raw.get("at") or {})
    for axis, value in at.items():
        require(not isinstance(value, Mapping | list), f"{key}.at.{axis}", "be one value", value)
    return {axis: _condition(f"{key}.where.{axis}", value) for axis, value in {**where, **at}.items()}


def _condition(key: str, value: object) -> Condition:
    if isinstance(value, Mapping):
        raw = _mapping(key, value, {"min", "max"})
        require(bool(raw), key, "name min, max or both", value)
        low, high = (require_number(f"{key}.{end}", raw[end]) if end in raw else None for end in ("min", "max"))
        return Condition(None, low, high)
    return Condition(tuple(value) if isinstance(value, list) else (value,))


# -- plain checks -----------------------------------------------------------------------------------------------------


def _mapping(
    key: str, value: object, known: Collection[str] | None = None, needed: Collection[str] = ()
) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(key, "be a mapping", value)
    for name in value:
        require(known is None or name in known, f"{key}.{name}", f"be one of {', '.join(sorted(known or ()))}", name)
    for name in sorted(needed):
        require(value.get(name) is not None, f"{key}.{name}", "be given", value.get(name))
    return {str(name): item for name, item in value.items()}


def _items(key: str, value: object) -> list[tuple[str, object]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ConfigError(key, "be a list", value)
    return [(f"{key}[{index}]", item) for index, item in enumerate(value)]


def _texts(key: str, value: object) -> list[str]:
    return [_text(item_key, item) for item_key, item in _items(key, value)]


def _text(key: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(key, "be a text", value)
    return value


def _optional_text(key: str, value: object) -> str | None:
    return None if value is None else _text(key, value)


def _extreme(key: str, value: object) -> str | None:
    require(value in (None, "max", "min"), key, "be max or min", value)
    return _optional_text(key, value)
