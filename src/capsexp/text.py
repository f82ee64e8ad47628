"""Text formatting that the commands share (standard library only)."""

import difflib
import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path

MOST_NAMES = 12
"""Names in one line at most."""


def prepare_output() -> None:
    """Let nothing that is printed or drawn fail for want of a terminal's letters or a notebook's backend.

    Letters that a terminal or log cannot write become escapes.  A notebook sets a backend for its own process; the
    processes that it starts have no such module, and matplotlib would refuse to be imported.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - until the process ends
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
    if os.environ.get("MPLBACKEND", "").startswith("module://"):
        os.environ["MPLBACKEND"] = "agg"


def install(extra: str) -> str:
    """The command that installs an extra of the package."""
    return f"pip install 'capsexp[{extra}]' (in a checkout: pip install -e '.[{extra}]')"


def plain(text: str) -> str:
    """Text without control characters: a cause comes from another program and must not control the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def most_like(name: str, names: Iterable[str]) -> str | None:
    """The one of some dotted names with the same last part, or else the one that looks the most like a name."""
    known = list(dict.fromkeys(each for each in names if each != name))
    same = [each for each in known if each.rpartition(".")[2] == name.rpartition(".")[2]]
    found = difflib.get_close_matches(name, same, 1, 0.0) or difflib.get_close_matches(name, known, 1)
    return found[0] if found else None


def no_metric(metric: str, known: Iterable[str]) -> str:
    """Says that finished cells lack a metric, with the one of theirs that it may be, or all of them."""
    names = sorted(known)
    near = most_like(metric, names)
    some = [*names[:MOST_NAMES], *(["..."] if len(names) > MOST_NAMES else [])]
    there = f"{near} is the most like it" if near else f"there are {', '.join(some)}"
    return f"the cells have no metric {metric}" + (f" ({there})" if names else "")


def plural(count: int, one: str, many: str) -> str:
    """``many`` unless the count is one."""
    return one if count == 1 else many


def duration(seconds: float | None) -> str:
    """Seconds in the units that suit them: ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds is None:
        return "unknown"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for name, size, smaller, unit in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // unit} {smaller}"
    return f"{whole} s"


def roughly(seconds: float) -> str:
    """An estimated duration, rounded: ``45 s``, ``12 min``, ``3 h 20 min``, ``4 d 2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def count(number: int, noun: str) -> str:
    """A number with its noun: ``1 cell``, ``3 cells``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
