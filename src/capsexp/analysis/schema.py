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
          paper: 0.94            # a number, a sentence, or null where the paper is silent; {mnist: .99, ...}: a number
                                 # for each data set, then the row is there once for each that has finished cells
          paper_data: mnist      # where this row's differs
          note: "..."
      grids:                     # the paper's tables beside ours, one or more each
        - name: table1           # file name
          title: "..."           # default: the name
          rows: study.net        # an axis
          columns: pruning.ratio # another one
          metric: test/acc
          scale: 100             # ours times this is in the paper's unit (shares and per cent: 100); default: 1
          unit: "%"              # the paper's; default: that of the metric, where there is no scale
          digits: 2              # default: those of the metric
          where: {...}           # as above, and `at`
          paper_columns: [0, 0.125, 0.25, 0.375]    # values of the axis; equal numbers match however they are written
          paper:                 # default: none, ours alone
            C10D8: [73.92, 74.26, null, 74.53]      # a number for each of paper_columns, null where the paper has none
            C16D6: {0: 75.40, 0.625: 73.02}         # or by column, also where it is none of paper_columns
          paper_data: cifar10    # where this table's differs
          note: "..."
      figures:                   # default: one figure over all axes, see capsexp.analysis.defaults
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
        - {kind: epochs, name: ..., metrics: [train/acc, val/acc], by: ..., y_label: ...}  # learning curves, see below
        - {kind: kernels, name: ..., layer: conv1, metric: ..., pick: max}  # filters of the cell with the max (or min)
        - kind: matrix           # a heat map of a two-dimensional array
          array: correlation/images
          labels: correlation/images/labels   # class of each row, of a matrix whose rows and columns are images
          sort: true             # images in order of their class; default: as they are
          triangle: true         # the lower half alone, with the diagonal; default: all
          range: [-1, 1]         # values at the ends of the colours; default: the smallest and the largest
          x_label: "image"       # below the columns; default: none
          y_label: "image"       # beside the rows
          value_label: "Pearson correlation"  # beside the colours; default: the array's name up to the first /
        - kind: bars             # for each image a bar for each class, one array beside the other
          arrays: {dynamic: probabilities/dynamic, fast: probabilities/fast}  # lengths [image, class], 1 to 4 of them
          labels: probabilities/labels        # true class of each image
          images: probabilities/images        # uint8 [image, channel, y, x]
        - {kind: tuning, name: ..., arrays: {dynamic: tuning/dynamic, fast: tuning/fast}}  # [true class, capsule]
        - kind: activity         # how active capsules are: a row of panels a value of `by`, a panel a layer
          by: pruning.ratio      # default: none, a single row
          layers: intermediate   # layer1, layer2, ...; or `all` that the cell has kept, primary first
          threshold: 0.01        # activity up to which a capsule is dead; marked beside the colours
        - kind: images           # a grid of images
          array: decoded/class3  # uint8 [row, column, channel, y, x]
          steps: decoded/steps   # numbers above the columns, that of 0 marked; default: 1, 2, 3, ...
          labels: pairs/labels   # the class of each column, above it; in place of steps
          rows: [originals, reconstructions]  # words beside the rows; default: 1, 2, 3, ...
        - kind: series           # curves of one array of each cell against another, see below
          x: walk/params_paper   # an array of one dimension
          y: walk/test_acc       # another one, as long
          by: pruning            # an axis: a colour and a marker for each value; default: none
          style: recipe.mode     # another axis: a line style for each value; default: none
          panels: recipe.steps   # another axis: a panel for each value, side by side; default: none
          reference: {recipe.mode: reinit}    # as where: one dark line in every panel, and no other; default: none
          reference_label: "initialised anew" # what that line is
          x_label: "parameters"  # default: the arrays' names
          y_label: "test accuracy (share)"

Axes that a figure or grid does not name (``seed`` apart, which is averaged over) give one picture or table for each of
their values.

A row of a grid has three lines: ours (mean, deviation, and n where it is not that of the caption), the paper's number,
and the difference.  A place without our number says why; rows and columns of the paper that were not run have the
paper's number alone.

``epochs`` draws columns of ``metrics.csv`` (1 to 4 of them) as mean and deviation over the seeds, with a panel for each
value of ``by``, side by side; a metric that a training did not record is left out and said.

``series`` draws an array of ``arrays.npz`` against another, as mean and deviation over the seeds at each of its steps;
so the cells of a line must have the same ``x``.  Where that is largest at the first step, it falls from left to right.
The reference is a mean too: of the cells that differ in ``by``, ``style`` or ``panels``, then over the seeds.

``matrix``, ``bars``, ``tuning`` and ``images`` draw arrays of ``arrays.npz``, in each picture those of one cell: the
one whose ``metric`` is largest or smallest (``metric`` and ``pick``, as ``kernels``), or without these the first
finished one that ``where`` and ``at`` leave, which is that of the first seed.  These four know ``x_label`` and
``y_label``, and so do ``epochs`` and ``series``.  ``activity`` chooses a cell in the same way for each of its rows, and
draws ``activity/<layer>`` [type, y, x] on one logarithmic scale.
"""

from capsexp.analysis import checks, figure_schema, grid_schema
from capsexp.analysis.spec import Comparison, Measure, Spec, usual
from capsexp.errors import require, require_int, require_number


def parse(block: object) -> Spec:
    """The checked form of a ``report:`` block.

    Raises:
        ConfigError: a key is unknown or missing, or a value is not what the module's docstring allows.
    """
    raw = checks.mapping("report", {} if block is None else block, Spec.__dataclass_fields__)
    timings = checks.texts("report.timings", raw.get("timings", []))
    columns = None if raw.get("columns") is None else checks.texts("report.columns", raw["columns"])
    paper_data = checks.optional_text("report.paper_data", raw.get("paper_data"))
    metrics = _measures("report.metrics", raw.get("metrics"))
    spec = Spec(
        **{
            key: checks.text(f"report.{key}", raw[key])
            for key in ("title", "source", "claim")
            if raw.get(key) is not None
        },
        paper_data=paper_data,
        axes=_measures("report.axes", raw.get("axes")),
        metrics=metrics,
        columns=columns,
        timings=timings,
        compare=[
            _comparison(key, item, paper_data) for key, item in checks.items("report.compare", raw.get("compare"))
        ],
        grids=grid_schema.grids(raw.get("grids"), metrics, paper_data),
        figures=figure_schema.figures(raw.get("figures")),
    )
    _refuse_clocks(spec)
    return spec


def _refuse_clocks(spec: Spec) -> None:
    """Clocks differ from run to run; one outside ``timings.*`` would make two equal reports differ."""
    used = [(f"report.columns[{i}]", metric) for i, metric in enumerate(spec.columns or [])]
    used += [(f"report.compare[{i}].metric", row.metric) for i, row in enumerate(spec.compare)]
    used += [(f"report.grids[{i}].metric", grid.figure.metric) for i, grid in enumerate(spec.grids)]
    used += [(f"report.figures[{i}].metric", figure.metric) for i, figure in enumerate(spec.figures or [])]
    for i, figure in enumerate(spec.figures or []):
        used += [(f"report.figures[{i}].metrics[{j}]", metric) for j, metric in enumerate(figure.metrics)]
    for key, metric in used:
        clock = metric.startswith("clocks.") or metric in spec.timings
        require(not clock, key, "be no clock (those stand in the timings table alone)", metric)


def _measures(key: str, value: object) -> dict[str, Measure]:
    raw = checks.mapping(key, {} if value is None else value)
    return {name: _measure(f"{key}.{name}", name, item) for name, item in raw.items()}


def _measure(key: str, name: str, value: object) -> Measure:
    raw = checks.mapping(key, value, {"label", "unit", "digits"})
    standard = usual(name)
    return Measure(
        name,
        checks.text(f"{key}.label", raw.get("label", standard.label)),
        checks.text(f"{key}.unit", raw.get("unit", standard.unit)),
        require_int(f"{key}.digits", raw.get("digits", standard.digits), 0, 12),
    )


def _comparison(key: str, value: object, paper_data: str | None) -> Comparison:
    known = {"what", "metric", "reduce", "where", "at", "minus", "paper", "paper_data", "note"}
    raw = checks.mapping(key, value, known, {"what", "metric"})
    paper = raw.get("paper")
    if isinstance(paper, dict):
        paper = {str(data): require_number(f"{key}.paper.{data}", number) for data, number in paper.items()}
    elif paper is not None and not isinstance(paper, str):
        require_number(f"{key}.paper", paper)
    return Comparison(
        what=checks.text(f"{key}.what", raw["what"]),
        metric=checks.text(f"{key}.metric", raw["metric"]),
        reduce=checks.extreme(f"{key}.reduce", raw.get("reduce")),
        where=checks.conditions(key, raw),
        minus=checks.extreme(f"{key}.minus", raw.get("minus")),
        paper=paper,
        paper_data=checks.optional_text(f"{key}.paper_data", raw.get("paper_data", paper_data)),
        note=checks.text(f"{key}.note", raw.get("note") or ""),
    )
