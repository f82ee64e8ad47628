"""The common part of all pictures: colours, the words around them, and saving without what differs from run to run."""

import contextlib
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray

from capsexp.analysis.measures import Measure

Grid = NDArray[np.float64]
INK, GREY, RULE, PAPER = "#1f2328", "#59636e", "#d1d9e0", "#f6f8fa"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""
SEQUENTIAL, DIVERGING = "viridis", "RdBu_r"
"""Colours of heat maps: for values on one side of zero, and for values on both."""
STYLE: dict[str, Any] = {
    "font.size": 9.5,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


SPREAD = "mean ± sample standard deviation"


def counted(sizes: Iterable[int]) -> str:
    """Numbers of trainings as text: ``n = 3``, or ``n = 2 to 3``; places without any do not count."""
    found = sorted(set(sizes) - {0}) or [0]
    return f"n = {found[0]}" if len(found) == 1 else f"n = {found[0]} to {found[-1]}"


def shares_end_at_one(axes: Axes, measures: Iterable[Measure], highest: float) -> None:
    """Let an axis of shares end at 1 where no drawn value is above it."""
    if highest <= 1 and all(measure.unit == "share" for measure in measures):
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.0))


@dataclass(frozen=True)
class Caption:
    """The words around one picture.

    Attributes:
        name: stem of the picture's files.
        title: the line at its top.
        parts: what stands below the title, one after the other: data, number of trainings, the paper's word.
        note: what stands below the picture on the page.
    """

    name: str
    title: str
    parts: tuple[str, ...] = ()
    note: str = ""

    def lines(self, width: float, *extra: str) -> list[str]:
        """The lines below the title, broken between their parts where the picture (``width`` inches) ends."""
        fits = int(width * 13)
        lines = [""]
        for part in [*self.parts, *extra]:
            joined = f"{lines[-1]}   ·   {part}" if lines[-1] and part else lines[-1] + part
            lines = [*lines[:-1], joined] if len(joined) <= fits else [*lines, part]
        return [line if len(line) <= fits else line[: fits - 4] + " ..." for line in lines if line]


@dataclass(frozen=True)
class Area:
    """A rectangle of a picture that shows one point of the sweep.

    Attributes:
        box: left, top, width and height, as shares of the picture's width and height.
        cells: ids of the point's cells.
        text: the point's place and value.
    """

    box: tuple[float, float, float, float]
    cells: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Picture:
    """A finished picture: its files' stem, the texts above and below it on the page, its bytes, and its fields."""

    name: str
    title: str
    note: str
    png: bytes
    pdf: bytes
    areas: tuple[Area, ...] = ()


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Matplotlib's own defaults with ours on top, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        params: Any = mpl.rcParams
        params.update(STYLE)
        yield


def room(lines: Sequence[str]) -> float:
    """Inches that a figure must be taller than with a single line below its title."""
    return 0.2 * max(0, len(lines) - 1)


def blank(caption: Caption, width: float, height: float, left: float, lines: Sequence[str]) -> Canvas:
    """An empty figure (inches) with its title and the lines below that written at its top."""
    canvas = Canvas(figsize=(width, height))
    top = 1 - 0.2 / height
    size = min(13.0, width * 72 * 0.92 / (0.68 * max(1, len(caption.title))))
    canvas.text(left, top, caption.title, fontsize=size, fontweight="bold", va="top", parse_math=False)
    below = top - 0.3 / height
    canvas.text(left, below, "\n".join(lines), color=GREY, va="top", linespacing=1.45, parse_math=False)
    return canvas


def save(canvas: Canvas, caption: Caption, extra: str = "", areas: Sequence[Area] = ()) -> Picture:
    """The figure in both formats, without dates and versions."""
    png, pdf = io.BytesIO(), io.BytesIO()
    canvas.savefig(png, format="png", dpi=120, metadata={"Software": None})
    canvas.savefig(pdf, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    note = " ".join(part for part in (extra, caption.note) if part)
    return Picture(caption.name, caption.title, note, png.getvalue(), pdf.getvalue(), tuple(areas))


def colour_bar(
    canvas: Canvas, norm: Normalize, colours: str, label: str, place: tuple[float, float, float, float]
) -> Axes:
    """The scale of the colours, with the name of what they show."""
    bar = canvas.colorbar(mpl.cm.ScalarMappable(norm, colours), cax=canvas.add_axes(place))
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2, labelsize=8.5)
    bar.set_label(label)
    return bar.ax


def font(inches: tuple[float, float], texts: Sequence[Sequence[str]]) -> float:
    """The size in points at which the longest text of a heat map of that size still fits into its field."""
    (wide, high), lines = inches, [text.split("\n") for row in texts for text in row]
    longest = max(1, *(len(line) for each in lines for line in each))
    most = max(map(len, lines))
    return min(10.0, wide * 72 / len(texts[0]) / (0.68 * longest), high * 72 / len(texts) * 0.55 / (0.75 * most + 0.25))


def write_fields(flat: Axes, texts: Sequence[Sequence[str]], colours: Any, size: float) -> None:
    """A text in each field of a heat map, black or white on its colour."""
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            colour = ink_on(colours[row, column])
            flat.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def compact(values: Grid, like: Grid | None = None) -> list[list[str]]:
    """Numbers for the fields of a heat map, all with the same decimals (.957, 1.32, 4206, 11.6k); empty where missing.

    Those decimals are the ones that suit ``like``, by default the values themselves.
    """
    like = values if like is None else like
    finite = np.abs(like[np.isfinite(like)])
    largest = float(finite.max()) if finite.size else 0.0
    unit, sign = next(((u, s) for u, s in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if largest >= 10 * u), (1.0, ""))
    whole = bool(np.all(finite == np.round(finite))) and not sign
    digits = 0 if whole else max(0, 3 - len(str(int(largest / unit))) + (largest < 1))
    return [[_short(value / unit, digits, sign) for value in row] for row in values.tolist()]


def _short(value: float, digits: int, sign: str) -> str:
    if not np.isfinite(value):
        return ""
    text = f"{value:.{digits}f}"
    text = text if float(text) else text.removeprefix("-")
    if digits and abs(float(text)) < 1:
        text = text.replace("0.", ".", 1)
    return text + sign


def ink_on(colour: Sequence[float]) -> str:
    """Black or white, whichever reads better on a colour (relative luminance after WCAG)."""
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3])
    return "black" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "white"
