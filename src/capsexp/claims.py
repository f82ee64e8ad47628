"""``python -m capsexp.claims NAME``: judges a paper's claims and prints the path of the page."""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from capsexp import commands


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    said = list(sys.argv[1:] if words is None else words)
    return commands.run(_parser(), functools.partial(_judge, said), said)


def _judge(said: list[str], given: argparse.Namespace) -> None:
    from capsexp import records  # and numpy and scipy, which would make --help slow
    from capsexp.analysis.claims import page, sources

    out = given.out or sources.MULTIRUN / f"{given.name}.md"
    claims = sources.load(given.name)
    tables = sources.read(claims, sources.folders(claims, given.sources))
    text, summary = page.render(sources.Request(claims, tables, said, out))
    records.write_text(out, text)
    sys.stdout.write(f"{summary}\n{out}\n")


def _parser() -> argparse.ArgumentParser:
    parser = commands.parser(
        "claims",
        "Judge each conclusion of a paper by the tables of reports, and write one Markdown page.",
        "A source without FOLDER is read from multirun/<its sweep>/report, if that is there. Where several "
        "folders have a cell for one place and seed, the last one's counts. The last line printed is the path of the "
        "page. The same tables give the same bytes.",
    )
    parser.add_argument("name", metavar="NAME", help="which paper, a file of conf/claims: wang")
    parser.add_argument(
        "sources",
        metavar="SOURCE=FOLDER[,FOLDER]",
        nargs="*",
        help="folders of reports or sweeps, such as cnn=multirun/cnn_prune",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="the page (default: multirun/NAME.md)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
