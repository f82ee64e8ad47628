"""``python -m capsexp.claims NAME``: judges a paper's claims and prints the path of the page."""

import argparse
import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from capsexp import commands


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    said = list(sys.argv[1:] if words is None else words)
    parser = _parser()
    return commands.run(parser, functools.partial(_work, parser, said), said)


def _work(parser: argparse.ArgumentParser, said: list[str], given: argparse.Namespace) -> None:
    if given.schema:
        _write_schema(given.schema)
    elif given.name is None:
        parser.error("the following arguments are required: NAME")
    else:
        _judge(said, given)


def _judge(said: list[str], given: argparse.Namespace) -> None:
    from capsexp import records  # and pandas, pydantic and scipy, which would make --help slow
    from capsexp.analysis.claims import page, paper

    out = given.out or paper.MULTIRUN / f"{paper.stem(given.name)}.md"
    claims = paper.load(given.name, trust=given.trust)
    tables = paper.read(claims, paper.folders(claims, given.sources))
    text, summary = page.render(page.Request(claims, tables, said, out))
    records.write_text(out, text)
    sys.stdout.write(f"{summary}\n{out}\n")


def _write_schema(file: Path) -> None:
    from capsexp import records
    from capsexp.analysis.claims.paper import Paper

    records.write_text(file, json.dumps(Paper.model_json_schema(), indent=2) + "\n")
    sys.stdout.write(f"{file}\n")


def _parser() -> argparse.ArgumentParser:
    parser = commands.parser(
        "claims",
        "Judge each conclusion of a paper by the tables of reports, and write one Markdown page.",
        "A source without FOLDER is read from multirun/<its sweep>/report, if that is there. Where several "
        "folders have a cell for one place and seed, the last one's counts. The last line printed is the path of the "
        "page. The same tables give the same bytes.",
    )
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="the paper: a file of conf/claims (wang), or the path of a YAML file"
    )
    parser.add_argument(
        "sources",
        metavar="SOURCE=FOLDER[,FOLDER]",
        nargs="*",
        help="folders of reports or sweeps, such as cnn=multirun/cnn_prune",
    )
    parser.add_argument("--out", metavar="FILE", type=Path, help="the page (default: multirun/NAME.md)")
    parser.add_argument("--trust", action="store_true", help=commands.TRUST_CLAIMS)
    parser.add_argument(
        "--schema", metavar="FILE", type=Path, help="only write the JSON schema of a file of claims, for editors"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
