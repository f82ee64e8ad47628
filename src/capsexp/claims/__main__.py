"""``python -m capsexp.claims NAME``: judges a paper's claims and prints the path of the page."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for what the user can mend."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = _parser().parse_intermixed_args(words)
    # Only now: numpy and scipy would make --help slow.
    from capsexp import records
    from capsexp.claims import page, sources
    from capsexp.claims.table import TableError
    from capsexp.errors import ConfigError

    out = given.out or sources.MULTIRUN / f"{given.name}.md"
    try:
        claims = sources.load(given.name)
        tables = sources.read(claims, sources.folders(claims, given.sources))
        text, summary = page.render(sources.Request(claims, tables, words, out))
        records.write_text(out, text)
    except (TableError, ConfigError, OSError) as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"capsexp.claims: error: {message}\n")
        return 2
    sys.stdout.write(f"{summary}\n{out}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m capsexp.claims",
        description="Judge each conclusion of a paper by the tables of reports, and write one Markdown page.",
        epilog="A source without FOLDER is read from multirun/<its sweep>/report, if that is there. Where several "
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
