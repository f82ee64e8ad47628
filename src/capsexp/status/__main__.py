"""``python -m capsexp.status DIR``: show the progress of the sweep in DIR, or of all sweeps below DIR."""

import argparse
import dataclasses
import itertools
import json
import math
import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from capsexp import commands, records
from capsexp.status import overview, text
from capsexp.status.facts import Facts, facts
from capsexp.status.heatmap import heat_map
from capsexp.status.read import Snapshot, read

EVERY_S = 5.0
CLEAR = "\x1b[2J\x1b[H"


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return commands.run(_parser(), _watch, _with_seconds(sys.argv[1:] if words is None else words))


def _watch(given: argparse.Namespace) -> None:
    try:
        _show(given)
    except KeyboardInterrupt:
        if not given.watch:  # which is meant to end so
            raise


def _parser() -> argparse.ArgumentParser:
    parser = commands.parser(
        "status",
        "Show how far a sweep is: counts, time left, slow and failed cells, a map of its axes.",
        "For a folder of sweeps, such as multirun, a line for each. Only reads. Colours are used in a terminal, unless "
        "the environment variable NO_COLOR is set.",
    )
    parser.add_argument(
        "directory", metavar="DIR", type=Path, help="a sweep's folder, such as multirun/cnn_prune, or multirun"
    )
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        type=_interval,
        const=EVERY_S,
        help=f"show it again every so often (default: {EVERY_S:g}) until every cell is done or failed, or Ctrl-C",
    )
    parser.add_argument("--json", action="store_true", help="the same facts on one line of JSON, without the map")
    return parser


def _interval(word: str) -> float:
    seconds = float(word)
    if not 0 < seconds < math.inf:
        raise ValueError
    return seconds


_interval.__name__ = "number of seconds"  # the name in argparse's error


def _with_seconds(words: Sequence[str]) -> list[str]:
    """The arguments with explicit SECONDS for ``--watch DIR``, where argparse would parse DIR as SECONDS."""
    followed = itertools.zip_longest(words, words[1:], fillvalue="0")
    return [f"--watch={EVERY_S}" if word == "--watch" and not _is_number(after) else word for word, after in followed]


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _show(given: argparse.Namespace) -> None:
    screen = sys.stdout.isatty()
    while True:
        shown, content, settled = _look(given.directory, screen)
        if given.json:
            _write(json.dumps(content) + "\n")
        elif given.watch and screen:
            _write(CLEAR + "\n".join(_fitting(shown)) + "\n")
        else:
            _write("\n".join(shown) + "\n" * (2 if given.watch else 1))
        if not given.watch or settled:
            return
        time.sleep(given.watch)


def _look(directory: Path, screen: bool) -> tuple[list[str], object, bool]:
    """The lines about a sweep or about the sweeps below a folder, the facts for JSON, and whether all is settled."""
    folders = records.sweeps_below(directory)
    if folders:
        each, damaged = overview.facts_of(folders)
        every: list[Facts | overview.Damaged] = [*each, *damaged]
        content = [dataclasses.asdict(one) for one in every]
        return overview.lines(directory, each, damaged), content, all(one.settled for one in each)
    snapshot = read(directory)
    found = facts(snapshot)
    return _lines(snapshot, found, screen), dataclasses.asdict(found), found.settled


def _lines(snapshot: Snapshot, found: Facts, screen: bool) -> list[str]:
    width = shutil.get_terminal_size().columns
    colour = screen and not os.environ.get("NO_COLOR")
    return text.lines(found, heat_map(snapshot, width, colour), width)


def _fitting(lines: list[str]) -> list[str]:
    """The lines that fit on the screen; otherwise the counts at the top would scroll away."""
    columns, height = shutil.get_terminal_size()
    used = 0
    for place, line in enumerate(lines):
        visible = len(re.sub(r"\x1b\[[0-9;]*m", "", line))
        used += max(math.ceil(visible / columns), 1)
        if used > height - 2:
            return [*lines[:place], f"({len(lines) - place} more lines: make the window higher, or leave out --watch)"]
    return lines


def _write(words: str) -> None:
    """Write and flush; characters that the terminal's encoding lacks become question marks."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(words.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
