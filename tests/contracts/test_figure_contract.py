"""Every kind of figure draws small and odd sweeps, with all its text on the canvas and no text on another."""

import functools
import itertools
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from capsexp.analysis import drawing, results
from capsexp.analysis.figures import kinds
from capsexp.analysis.figures.base import OfCell
from capsexp.analysis.spec import parse

sys.path.append(str(Path(__file__).parents[1] / "analysis"))

import array_fakes
from report_fakes import accuracy, finish, sweep

ASKED: dict[str, dict[str, Any]] = {
    "surface": {"x": "a", "y": "b", "metric": "test/acc"},
    "heatmap": {"x": "a", "y": "b", "metric": "test/acc"},
    "line": {"x": "a", "by": "b", "metric": "test/acc"},
    "epochs": {"metrics": ["train/acc", "val/acc"], "by": "a", "where": {"b": [1, 2, "fast", "slow"]}},
    "series": {"x": "walk/params", "y": "walk/acc", "by": "a", "panels": "b"},
    "kernels": {"layer": "conv1", "metric": "test/acc", "pick": "max"},
    "matrix": {"array": "correlation/classes", "x_label": "class", "y_label": "class"},
    "bars": {
        "arrays": {"dynamic": "probabilities/dynamic", "fast": "probabilities/fast"},
        "labels": "probabilities/labels",
        "images": "probabilities/images",
    },
    "tuning": {"arrays": {"dynamic": "tuning/dynamic", "fast": "tuning/fast"}},
    "images": {"array": "decoded/class3", "steps": "decoded/steps"},
    "activity": {"by": "a", "layers": "all"},
}
"""What is asked of each kind; a new kind has an entry."""

LONG = "a word of many letters and then of some more"
SWEEPS: dict[str, dict[str, list[Any]]] = {
    "one cell": {"a": [1], "b": [1], "seed": [0]},
    "one seed": {"a": [1, 2, 3], "b": [1, 2, 3], "seed": [0]},
    "missing cells": {"a": [1, 2, 3], "b": [1, 2, 3], "seed": [0, 1]},
    "not finite": {"a": [1, 2, 3], "b": [1, 2, 3], "seed": [0, 1]},
    "words and numbers": {"a": ["adam", "sgd"], "b": [1, 2], "seed": [0, 1]},
    "numbers that crowd": {"a": [0, 1e-6, 1e-5, 0.1], "b": [1, 1000], "seed": [0]},
    "long names": {"a": [f"{LONG} {place}" for place in range(3)], "b": ["fast", "slow"], "seed": [0, 1]},
    "dollars": {"a": [1, 2, 3], "b": [1, 2], "seed": [0, 1]},
}
UNREADABLE = {
    ("surface", "long names"): "3-D axes keep no room for long words; the heat map beside them has the same values",
}
"""Texts that cannot be read, and why that is accepted."""


TITLES = {"long names": f"A title with {LONG}, and {LONG}", "dollars": "From $5 to $6 a unit_of x^2"}


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], results.Results]:
    """Each of the sweeps, written and read once; its cells have what every kind shows."""

    @functools.cache
    def read(name: str) -> results.Results:
        root = tmp_path_factory.mktemp("sweep")
        for place, cell in enumerate(sweep(root, SWEEPS[name])):
            if name == "missing cells" and place % 5 == 1:
                continue
            lost = name == "not finite" and place % 5 == 1
            folder = finish(root, cell, None if lost else accuracy(cell))
            array_fakes.keep(folder, arrays(place, lost))
            array_fakes.history(folder, learning(place, lost))
        return results.read(root)

    return read


def block(name: str, kind: str) -> dict[str, Any]:
    """The block of a report with one figure of the kind."""
    figure = {"kind": kind, "name": "fig", "title": TITLES.get(name, "Title"), "paper": ".94", **ASKED[kind]}
    return {"figures": [figure], "axes": {"a": {"label": LONG if name == "long names" else "$a"}}}


def arrays(seed: int, lost: bool) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    found = {
        **array_fakes.arrays(classes=4, seed=seed, components=3, side=8),
        **array_fakes.activities(2, seed=seed),
        "kernels/conv1": random.normal(size=(4, 2, 3, 3)).astype(np.float32),
        "walk/params": np.array([40_000.0, 30_000.0, 20_000.0]),
        "walk/acc": random.uniform(0.5, 0.9, 3),
    }
    if lost:
        for values in found.values():
            if values.dtype.kind == "f" and values.size > 3:
                values.flat[1] = math.nan
    return found


def learning(seed: int, lost: bool) -> dict[str, list[float]]:
    curves = array_fakes.learning(seed, 6)
    return {name: [math.nan, *values[1:]] for name, values in curves.items()} if lost else curves


def texts_of(figure: Figure) -> list[tuple[Text, Bbox]]:
    """Every text that is drawn, with the pixels that it takes."""
    found: list[Text] = []
    draw = Text.draw

    def recorded(self: Text, *given: Any, **options: Any) -> Any:
        if self.get_visible() and self.get_text().strip():
            found.append(self)
        return draw(self, *given, **options)

    canvas = FigureCanvasAgg(figure)
    with mock.patch.object(Text, "draw", recorded):
        canvas.draw()
    return [(text, text.get_window_extent(canvas.get_renderer())) for text in dict.fromkeys(found)]


def faults(figure: Figure) -> Iterator[str]:
    """Texts beyond the canvas, and pairs of texts that share some pixels."""
    texts = texts_of(figure)
    for text, box in texts:
        if min(box.x0, box.y0, figure.bbox.x1 - box.x1, figure.bbox.y1 - box.y1) < -1:
            yield f"clipped: {text.get_text()!r}"
    upright = [(text, box) for text, box in texts if text.get_rotation() % 90 == 0]  # others have slanted boxes
    for (one, first), (other, second) in itertools.combinations(upright, 2):
        width = min(first.x1, second.x1) - max(first.x0, second.x0)
        height = min(first.y1, second.y1) - max(first.y0, second.y0)
        if width > 1.5 and height > 1.5:
            yield f"overlapping: {one.get_text()!r} and {other.get_text()!r}"


def drawn(read: results.Results, asked: dict[str, Any]) -> tuple[list[Figure], list[str]]:
    """The figures of a report, and the lines on those that are not drawn."""
    found: list[Figure] = []

    def keep(self: Figure, *_: Any, **__: Any) -> None:
        if self not in found:
            found.append(self)

    with mock.patch.object(Figure, "savefig", keep):
        problems = drawing.draw_all(parse(asked), read)[1]
    return found, problems


def test_every_kind_is_asked_for_something() -> None:
    assert ASKED.keys() == kinds().keys()


QUICK, QUICK_OF_CELL = ("missing cells", "words and numbers", "long names"), ("long names",)
"""The sweeps that every test run draws, and those for kinds that show one cell; the others are slow."""


def cases() -> Iterator[Any]:
    for kind, name in itertools.product(kinds(), SWEEPS):
        reason = UNREADABLE.get((kind, name))
        marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
        quick = QUICK_OF_CELL if issubclass(kinds()[kind], OfCell) else QUICK
        marks += [] if name in quick else [pytest.mark.slow]
        yield pytest.param(kind, name, marks=marks, id=f"{kind}, {name}")


@pytest.mark.parametrize(("kind", "name"), list(cases()))
def test_all_text_can_be_read(kind: str, name: str, sweeps: Callable[[str], results.Results]) -> None:
    figures, problems = drawn(sweeps(name), block(name, kind))
    assert figures or (name == "one cell" and problems == ["fig: too few swept values to draw"])
    assert all("\n" not in problem for problem in problems)
    found = [fault for figure in figures for fault in faults(figure)]
    assert found == []


def test_clipped_and_overlapping_texts_are_found() -> None:
    figure = Figure(figsize=(2, 1))
    figure.text(0.9, 0.5, "far too long for this")
    figure.text(0.1, 0.1, "one")
    figure.text(0.12, 0.1, "other")
    assert [fault.partition(":")[0] for fault in faults(figure)] == ["clipped", "overlapping"]
