"""``python -m capsexp.report DIR``: writes DIR/report/ and prints the path of its page."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from capsexp import commands

__path__: list[str] = []  # so that former names of its modules can be imported (see capsexp.renamed)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = commands.parser(
        "report",
        "Write tables, figures and one self-contained page from a sweep's folder.",
        "The last line printed is the path of the page. Timings stand in timings.* alone, so that the same "
        "results give the same bytes in every other file.",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="a sweep's folder, such as multirun/cnn_prune")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: DIR/report)")
    parser.add_argument("--beside", metavar="OTHER", type=Path, help="another sweep, to show the surfaces of both")
    return commands.run(parser, _write, words)


def _write(given: argparse.Namespace) -> None:
    from capsexp.analysis.write import write_report  # matplotlib and numpy would make --help slow

    index, summary = write_report(given.directory, given.out or given.directory / "report", given.beside)
    sys.stdout.write(f"{summary}\n{index}\n")


if __name__ == "__main__":
    sys.exit(main())
