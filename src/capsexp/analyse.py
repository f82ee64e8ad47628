"""Figures and tables of one trained capsule network: ``python -m capsexp.analyse RUN_DIR``.

The figures are those of Zhao et al. (2019) on couplings and class lengths.  For a network with a decoder there is also
one figure of reconstructions per class (Ou's slides).  ``RUN_DIR/analysis/`` receives every figure as PNG and PDF,
every matrix as CSV, and all arrays in one ``arrays.npz``.  The figures are also logged to the cell's Weights & Biases
run.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from capsexp import commands

if TYPE_CHECKING:
    from capsexp.analysis.arrays import Array
    from capsexp.analysis.figures.style import Picture
    from capsexp.build import LoadedRun

SCALE = {"range": [-1, 1], "value_label": "Pearson correlation"}
"""One scale for all matrices, so that they can be compared."""

BLOCK: list[dict[str, Any]] = [
    {
        "kind": "matrix",
        "name": "fig02_images",
        "title": "Correlations between the ground-truth columns of the first training images",
        "array": "correlation/images",
        **SCALE,
        "labels": "correlation/images/labels",
        "triangle": True,
        "sort": True,
        "x_label": "training image, by class",
        "y_label": "training image, by class",
    },
    {
        "kind": "matrix",
        "name": "fig03_classes",
        "title": "Mean correlation between the ground-truth columns of two classes",
        "array": "correlation/classes",
        **SCALE,
        "triangle": True,
        "x_label": "class",
        "y_label": "class",
    },
    {
        "kind": "matrix",
        "name": "fig05_master",
        "title": "The master's columns and the images' ground-truth columns",
        "array": "correlation/master",
        **SCALE,
        "x_label": "class of the images",
        "y_label": "column of the master",
    },
    {
        "kind": "bars",
        "name": "fig06_probabilities",
        "title": "Lengths of the class capsules for the same test images",
        "arrays": {"dynamic": "probabilities/dynamic", "fast": "probabilities/fast"},
        "labels": "probabilities/labels",
        "images": "probabilities/images",
    },
    {
        "kind": "tuning",
        "name": "fig07_tuning",
        "title": "Mean lengths of the class capsules over the test images of each class",
        "arrays": {"dynamic": "tuning/dynamic", "fast": "tuning/fast"},
    },
]
"""The paper's figures by number, in the format of an experiment's ``report:`` block."""


def _called(word: str) -> dict[str, dict[str, str]]:
    return {
        "fig06_probabilities": {
            "title": f"{word.capitalize()}s of the class capsules for the same test images",
            "y_label": f"{word} of the class capsule",
        },
        "fig07_tuning": {
            "title": f"Mean {word}s of the class capsules over the test images of each class",
            "y_label": f"mean {word}",
        },
    }


WORDS = {"share": _called("share"), "probability": _called("activation")}
"""Other words of these figures, where the activations of the class capsules are no lengths, by their kind."""

OURS = ("correlation/", "probabilities/", "tuning/", "decoded/")
DECODED = "decoded/class"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = commands.parser(
        "analyse",
        "Draw what the couplings and the class capsules of a finished cell say.",
        "The last line printed is the folder written to. What a cell has kept (recipe=accumulate) is drawn; "
        "else its network passes over its data once more.",
    )
    parser.add_argument("directory", metavar="RUN_DIR", type=Path, help="a finished cell's folder")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: RUN_DIR/analysis)")
    parser.add_argument(
        "--wandb", metavar="MODE", help="auto, online, offline or disabled (default: as the cell had it)"
    )
    parser.add_argument("--trust", action="store_true", help=commands.TRUST)
    return commands.run(parser, _analyse, words)


def _analyse(given: argparse.Namespace) -> None:
    from capsexp.build import load_run  # torch and matplotlib would make --help slow

    directory, out = given.directory, given.out or given.directory / "analysis"
    run = load_run(directory, trust=given.trust)
    arrays, missing = _arrays(directory, run)
    pictures, problems = draw_all(arrays, directory.resolve().name, run.result, activation=_activation(run))
    problems = [*missing, *problems]
    written = write(out, pictures, arrays)
    shown = _show(directory, run, given.wandb, written)
    counted = f"{len(written)} figures{', also in the Weights & Biases run' if shown else ''}"
    sys.stdout.write("\n".join([*problems, *_means(arrays), counted, str(out)]) + "\n")


def _arrays(directory: Path, run: "LoadedRun") -> tuple[dict[str, "Array"], list[str]]:
    """The cell's arrays, computed by its network where some are missing, and a message where that is impossible."""
    from capsexp.analysis.arrays import ArrayError, read_all
    from capsexp.errors import ConfigError

    try:
        kept = read_all(directory)
    except ArrayError:
        kept = {}
    arrays = {name: values for name, values in kept.items() if name.startswith(OURS)}
    decodes = getattr(run.module.model, "decoder", None) is not None
    wanted = needed(masters=_has_masters(run))
    if wanted <= arrays.keys() and (not decodes or any(name.startswith(DECODED) for name in arrays)):
        return arrays, []
    try:
        return run.examine(), []
    except ConfigError as error:
        if not wanted <= arrays.keys():
            raise
        return arrays, [f"no reconstructions: {error}"]


def _has_masters(run: "LoadedRun") -> bool:
    """True if the routing of every layer can have master coefficients."""
    from capsexp.nn.capsules import capsule_layers

    return all(layer.routing.has_master for layer in capsule_layers(run.module.model).values())


def _activation(run: "LoadedRun") -> str:
    """The kind of the class capsules' activations."""
    from capsexp.nn.routing_hooks import class_layer

    return str(class_layer(run.module.model)[1].routing.activation)


def block(*, masters: bool, activation: str = "length") -> list[dict[str, Any]]:
    """The paper's figures.

    Args:
        masters: False leaves out what master coefficients give.
        activation: kind of the class capsules' activations, which are called so, see :class:`~capsexp.routing.Routing`.
    """
    items = [item | WORDS.get(activation, {}).get(item["name"], {}) for item in BLOCK]
    if masters:
        return items
    kept = [item for item in items if item.get("array") != "correlation/master"]
    for item in kept:
        if "arrays" in item:
            item["arrays"] = {"dynamic": item["arrays"]["dynamic"]}
    return kept


def needed(*, masters: bool = True) -> set[str]:
    """The names of the arrays that the paper's figures need."""
    items = block(masters=masters)
    names = {item[key] for item in items for key in ("array", "labels", "images") if key in item}
    return names | {name for item in items for name in item.get("arrays", {}).values()}


def draw_all(
    arrays: Mapping[str, "Array"], name: str, result: Mapping[str, Any], *, activation: str
) -> tuple[list["Picture"], list[str]]:
    """The figures, and one message for each figure that cannot be drawn.

    Args:
        arrays: the cell's arrays by name.
        name: the cell's name.
        result: the body of the cell's ``result.json``.
        activation: see :func:`block`.
    """
    from capsexp.analysis.arrays import ArrayError
    from capsexp.analysis.figures import drawer
    from capsexp.analysis.figures.style import Caption
    from capsexp.analysis.spec import parse

    parts = (f"data {result['data']['name']}", name, f"test accuracy {result['metrics']['test/acc']:.4f}")
    drawn, problems = [], []
    shown = block(masters="tuning/fast" in arrays, activation=activation)
    for figure in parse({"figures": [*shown, *_decoded(arrays)]}).figures or []:
        try:
            caption = Caption(figure.name, figure.title, parts, figure.note)
            drawn.append(drawer(figure.kind).picture(figure, lambda array: arrays[array], caption))
        except ArrayError as error:
            problems.append(f"{figure.name}: {error}")
    return drawn, problems


def _decoded(arrays: Mapping[str, "Array"]) -> list[dict[str, Any]]:
    """One figure for each class that has reconstructions."""
    figures = []
    for name in (name for name in arrays if name.startswith(DECODED) and name.count("/") == 1):
        label, known = name.removeprefix(DECODED), bool(arrays[f"{name}/recognised"])
        title = (
            f"Class {label}{'' if known else ' (an image that is not recognised)'}: each component changed, and drawn"
        )
        figures.append({"kind": "images", "name": f"activity_class{label}", "title": title, "array": name})
    return [{**figure, "steps": "decoded/steps"} for figure in figures]


def write(out: Path, pictures: Sequence["Picture"], arrays: Mapping[str, "Array"]) -> dict[str, Path]:
    """Write figures, tables and arrays; returns the PNG paths by figure name."""
    import numpy as np

    from capsexp import records

    paths = {}
    for picture in pictures:
        paths[picture.name] = out / f"{picture.name}.png"
        for ending, content in (("png", picture.png), ("pdf", picture.pdf)):
            with records.replacing(out / f"{picture.name}.{ending}") as temporary:
                temporary.write_bytes(content)
    for name, values in arrays.items():
        if values.ndim == 2:
            records.write_text(out / f"{name.replace('/', '_')}.csv", _csv(values))
    with records.replacing(out / records.ARRAYS) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **cast("dict[str, Any]", dict(arrays)))
    return paths


def _csv(values: "Array") -> str:
    """A matrix as CSV with row and column numbers; NaN and infinite values give empty fields."""
    lines = [["", *(str(column) for column in range(values.shape[1]))]]
    for row, numbers in enumerate(values.tolist()):
        lines.append([str(row), *(repr(number) if math.isfinite(number) else "" for number in numbers)])
    return "".join(",".join(line) + "\n" for line in lines)


def _means(arrays: Mapping[str, "Array"]) -> list[str]:
    """Lines with the mean correlations within a class and between two classes."""
    import numpy as np

    lines = []
    for name, words in (("classes", "ground-truth columns"), ("master", "the master's columns with them")):
        values = arrays.get(f"correlation/{name}")
        if values is None:
            continue  # the routing has no master coefficients
        own = np.eye(len(values), dtype=bool)
        means = f"{np.nanmean(values[own]):.3f} within a class, {np.nanmean(values[~own]):.3f} between two"
        lines.append(f"mean correlation of {words}: {means}")
    return lines


def _show(directory: Path, run: "LoadedRun", mode: str | None, pictures: Mapping[str, Path]) -> bool:
    """Log the figures to the cell's Weights & Biases run; returns False if there is no run."""
    from capsexp import tracking

    config = run.config
    if mode is not None:
        config = {**config, "logger": {**config["logger"], "wandb": {**config["logger"]["wandb"], "mode": mode}}}
    about = tracking.About(config, directory.resolve(), run.result["id"], run.result["axes"])
    return tracking.log_images(about, {f"analysis/{name}": path for name, path in pictures.items()})


if __name__ == "__main__":
    sys.exit(main())
