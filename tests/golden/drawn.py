"""What stands in a figure, read from matplotlib's artists when it is saved."""

import contextlib
import hashlib
import json
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

DIGITS = 9
"""Significant digits to which numbers are kept."""


@contextlib.contextmanager
def watching() -> Iterator[list[dict[str, Any]]]:
    """Yields a list that every figure saved meanwhile is added to, once however often it is saved."""
    found: list[dict[str, Any]] = []
    last: list[Figure] = []
    save = Figure.savefig

    def savefig(self: Figure, *arguments: Any, **options: Any) -> Any:
        if not last or last[-1] is not self:
            last[:] = [self]
            found.append(summary(self))
        return save(self, *arguments, **options)

    with mock.patch.object(Figure, "savefig", savefig):
        yield found


def summary(figure: Figure) -> dict[str, Any]:
    """A digest of all that is in a figure, and what of it can be read."""
    whole = {
        "size": numbers(figure.get_size_inches()),
        "texts": [text_of(text) for text in figure.texts],
        "axes": [axes_of(axes) for axes in figure.axes],
    }
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:16]
    short = [
        {
            "title": axes["title"],
            "labels": axes["labels"],
            "limits": axes["limits"],
            "has": {key: len(axes[key]) for key in ("lines", "collections", "images", "patches", "texts") if axes[key]},
            "range": axes["range"],
        }
        for axes in whole["axes"]
    ]
    return {"sha": digest, "texts": [text[0] for text in whole["texts"]], "axes": short}


def numbers(values: Any) -> Any:
    """Numbers of any shape as lists, rounded; what is masked or not finite as text."""
    if values is None:
        return None
    filled = np.ma.filled(np.ma.asarray(values, dtype=np.float64), np.nan)
    return [rounded(value) for value in filled.ravel().tolist()] if filled.ndim else rounded(float(filled))


def rounded(value: float) -> float | str:
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else repr(value)


def text_of(text: Any) -> list[Any]:
    return [text.get_text(), numbers(text.get_position()), rounded(float(text.get_fontsize())), str(text.get_color())]


def axes_of(axes: Axes) -> dict[str, Any]:
    """Everything in a pair of axes that shows data or says something."""
    names = [name for name in "xyz" if hasattr(axes, f"get_{name}lim")]
    lines = [line_of(line) for line in axes.lines]
    collections = [collection_of(each) for each in axes.collections]
    images = [image_of(image) for image in axes.images]
    legend = axes.get_legend()
    return {
        "place": numbers(axes.get_position().bounds),
        "title": [axes.get_title(loc=place) for place in ("left", "center", "right")],
        "labels": [getattr(axes, f"get_{name}label")() for name in names],
        "limits": [numbers(getattr(axes, f"get_{name}lim")()) for name in names],
        "scales": [getattr(axes, f"get_{name}scale")() for name in names],
        "ticks": [numbers(getattr(axes, f"get_{name}ticks")()) for name in names],
        "tick labels": [[each.get_text() for each in getattr(axes, f"get_{name}ticklabels")()] for name in names],
        "view": numbers([axes.elev, axes.azim]) if hasattr(axes, "azim") else None,
        "lines": lines,
        "collections": collections,
        "images": images,
        "patches": [patch_of(patch) for patch in axes.patches],
        "texts": [text_of(text) for text in axes.texts],
        "legend": [text.get_text() for text in legend.get_texts()] if legend else None,
        "range": range_of(axes),
    }


def line_of(line: Any) -> list[Any]:
    data = line.get_data_3d() if hasattr(line, "get_data_3d") else line.get_data()
    style = [str(line.get_color()), str(line.get_linestyle()), str(line.get_marker()), str(line.get_label())]
    return [[numbers(each) for each in data], style]


def collection_of(each: Any) -> list[Any]:
    return [
        type(each).__name__,
        numbers(getattr(each, "_vec", None)),  # the corners of a surface, which has no public way to tell them
        numbers(each.get_offsets()),
        numbers(each.get_array()),
        each.get_cmap().name if each.get_array() is not None else None,
        [numbers(path.vertices) for path in each.get_paths()],
        numbers(each.get_facecolor()),
        numbers(each.get_clim()) if None not in each.get_clim() else None,
    ]


def image_of(image: Any) -> list[Any]:
    limits = image.get_clim()
    shape = [*np.shape(image.get_array()), image.get_cmap().name]
    return [
        shape,
        numbers(image.get_array()),
        numbers(image.get_extent()),
        numbers(limits) if None not in limits else None,
    ]


def patch_of(patch: Any) -> list[Any]:
    path = patch.get_path().transformed(patch.get_patch_transform())
    return [type(patch).__name__, numbers(path.vertices), numbers(patch.get_facecolor())]


def range_of(axes: Axes) -> list[Any]:
    """The smallest and largest number that is drawn: of lines, of what is coloured, and of images."""
    shown: list[Any] = [line.get_ydata() for line in axes.lines]
    coloured: list[Artist | Any] = [*axes.collections, *axes.images]
    shown += [each.get_array() for each in coloured if each.get_array() is not None]
    surfaces = [each._vec[2] for each in axes.collections if getattr(each, "_vec", None) is not None]
    flat = [np.ma.filled(np.ma.asarray(each, np.float64), np.nan).ravel() for each in [*shown, *surfaces]]
    every = np.concatenate(flat) if flat else np.empty(0)
    finite = every[np.isfinite(every)]
    return [rounded(float(finite.min())), rounded(float(finite.max())), int(every.size)] if finite.size else []
