"""The file of a paper's claims, ``conf/claims/<name>.yaml``, checked with one-line errors.

Its keys::

    title: "..."                 # heading of the page
    source: "..."                # which paper
    paper_data: dhcd             # the paper's data set; any other is flagged
    tolerance: 0.02              # what "near" means in this paper; a claim may have its own
    columns:                     # how axes and metrics are labelled, as in a report
      model.c2: {label: "c2"}
      distance/conv1/min: {label: "minimum cosine distance, conv1", digits: 3}
    sources:                     # where numbers come from
      cnn:
        folder: cnn_prune        # below multirun/: the sweep's, or
                                 #   its report; `cnn=FOLDER,FOLDER` on the command line takes the place of both
        command: "..."           # what makes the cells; {data} is the data set's name
        what: "..."              # in words
        cells: 225               # size of the paper's grid, so that a part of it is flagged; default: not said
        axes: [model.c2]         # what its tables must have swept, more is allowed; default: nothing
        columns: [test/acc]      # columns that its tables must have besides; default: none
    claims:                      # in the order of the page
      - name: cnn_flat           # unique; a file name
        statement: "..."         # the conclusion, as a sentence that is true or not
        paper: "section 4.1"     # where the paper says it
        note: "..."              # what a reader must know besides; default: nothing
        kind: flat               # and the keys of the kind:

Conditions (``where``) are those of a ``report:`` block: ``{model.c2: {min: 7}, model.c3: [6, 8], mode: merge}``.  Every
kind but ``trend`` knows ``tolerance``.  The rule of each stands in the docstring of its class::

    kind: flat                   # the best of the grid less the lowest where ...
    source: cnn
    metric: test/acc
    where: {model.c2: {min: 7}}

    kind: trend                  # rank correlations
    source: cnn
    pairs: [{x: model.c2, y: distance/conv2/min, sign: fall, where: {...}}]     # sign: rise, fall or none
    threshold: 0.5               # of `none`: what is a trend

    kind: gap                    # one number less another
    a: {source: cnn, metric: test/acc, reduce: max, where: {...}, factor: 1}    # reduce: max, min or mean; not needed
    b: 0.94                      # a constant, or as `a`                        # where one place is left
    relation: near               # near, above, below, at_least_near, at_most_near
    relative: true               # gap and tolerance as shares of b; default: false
                                 # {..., best: test/acc} in place of reduce: where that metric is largest

    kind: paired                 # cell by cell
    a: shared                    # or {source: walk, where: {mode: merge}}
    b: autoencoder
    metric: test/acc
    claimed: every               # every (always greater), near, or above (over seeds)
    by: [seed]                   # axes that are equal in a pair; default: those of both sides

    kind: rank                   # one value of an axis against others, over seeds
    source: walk
    metric: walk/mean_acc
    axis: pruning
    best: cosine
    against: [magnitude, random]
    where: {recipe.mode: remove}

    kind: robust_area            # a rectangle from the widest corner on
    source: capsnet
    metric: test/acc
    axes: [model.c1, model.c2]
    claimed: none                # none or some
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from capsexp.analysis import checks
from capsexp.analysis.claims.finding import Kind
from capsexp.analysis.claims.flat import Flat
from capsexp.analysis.claims.gap import Gap
from capsexp.analysis.claims.labels import Labels
from capsexp.analysis.claims.paired import Paired
from capsexp.analysis.claims.rank import Rank
from capsexp.analysis.claims.robust_area import RobustArea
from capsexp.analysis.claims.trend import Trend
from capsexp.analysis.measures import Measure, usual
from capsexp.errors import require, require_choice, require_int, require_number

KINDS: dict[str, Any] = {
    "flat": Flat,
    "trend": Trend,
    "gap": Gap,
    "paired": Paired,
    "rank": Rank,
    "robust_area": RobustArea,
}
OF_CLAIM = {"name", "statement", "paper", "note", "kind"}


@dataclass(frozen=True)
class Source:
    """Where numbers come from.

    Attributes:
        cells: size of the paper's grid; 0 where it is not said.
        axes: what its tables must have swept.
        columns: columns of numbers that its tables must have.
    """

    name: str
    folder: str
    command: str
    what: str
    cells: int = 0
    axes: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One conclusion of the paper, and how it is decided."""

    name: str
    statement: str
    paper: str
    note: str
    kind: Kind


@dataclass(frozen=True)
class Claims:
    """A checked file of claims."""

    name: str
    title: str
    source: str
    paper_data: str
    labels: Labels
    sources: dict[str, Source]
    claims: tuple[Claim, ...]


def parse(name: str, content: object) -> Claims:
    """The checked form of a file's content.

    Raises:
        ConfigError: a key is unknown or missing, or a value is not what the module's docstring allows.
    """
    known = {"title", "source", "paper_data", "tolerance", "columns", "sources", "claims"}
    raw = checks.mapping(name, content, known, known - {"columns"})
    tolerance = require_number(f"{name}.tolerance", raw["tolerance"], 0)
    sources = {
        key: _source(f"{name}.sources.{key}", key, value)
        for key, value in checks.mapping(f"{name}.sources", raw["sources"]).items()
    }
    claims = tuple(_claim(key, item, sources, tolerance) for key, item in checks.items(f"{name}.claims", raw["claims"]))
    names = [claim.name for claim in claims]
    require(len(set(names)) == len(names), f"{name}.claims", "have every name once", names)
    texts = {key: checks.text(f"{name}.{key}", raw[key]) for key in ("title", "source", "paper_data")}
    return Claims(name, **texts, labels=_labels(f"{name}.columns", raw.get("columns")), sources=sources, claims=claims)


def _source(key: str, name: str, value: object) -> Source:
    needed = {"folder", "command", "what"}
    raw = checks.mapping(key, value, needed | {"cells", "axes", "columns"}, needed)
    return Source(
        name=name,
        folder=checks.text(f"{key}.folder", raw["folder"]),
        command=checks.text(f"{key}.command", raw["command"]),
        what=checks.text(f"{key}.what", raw["what"]),
        cells=require_int(f"{key}.cells", raw.get("cells", 0), 0),
        axes=tuple(checks.texts(f"{key}.axes", raw.get("axes"))),
        columns=tuple(checks.texts(f"{key}.columns", raw.get("columns"))),
    )


def _claim(key: str, value: object, sources: Mapping[str, Source], tolerance: float) -> Claim:
    raw = checks.mapping(key, value, None, {"name", "statement", "paper", "kind"})
    kind = KINDS[require_choice(f"{key}.kind", str(raw["kind"]), KINDS)]
    checks.mapping(key, raw, OF_CLAIM | kind.KEYS, kind.NEEDED)
    made: Kind = kind.parse(key, raw, tolerance)
    for source in made.sources:
        require_choice(f"{key}: source", source, sources)
    return Claim(
        name=checks.file_name(f"{key}.name", raw["name"]),
        statement=checks.text(f"{key}.statement", raw["statement"]),
        paper=checks.text(f"{key}.paper", raw["paper"]),
        note=checks.text(f"{key}.note", raw.get("note") or ""),
        kind=made,
    )


def _labels(key: str, value: object) -> Labels:
    raw = checks.mapping(key, {} if value is None else value)
    return Labels({name: _measure(f"{key}.{name}", name, item) for name, item in raw.items()})


def _measure(key: str, name: str, value: object) -> Measure:
    raw, standard = checks.mapping(key, value, {"label", "unit", "digits"}), usual(name)
    return Measure(
        name,
        checks.text(f"{key}.label", raw.get("label", standard.label)),
        checks.text(f"{key}.unit", raw.get("unit", standard.unit)),
        require_int(f"{key}.digits", raw.get("digits", standard.digits), 0, 12),
    )
