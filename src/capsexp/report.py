"""``python -m capsexp.report DIR``: writes DIR/report/ and prints the path of its page.

Several DIRs, or one folder of sweeps such as ``multirun``, are compared on one page in ``comparison/`` of the first.
With ``--schema DIR`` it writes the JSON schema of ``report:`` blocks instead, for editors; ``--kind`` adds kinds of
figures of one's own to it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from capsexp import commands, records
from capsexp.errors import require

__path__: list[str] = []  # so that former names of its modules can be imported (see capsexp.renamed)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = commands.parser(
        "report",
        "Write tables, figures and one self-contained page from a sweep's folder, or from several to compare them.",
        "The last line printed is the path of the page. Timings stand in timings.* alone, so that the same "
        "results give the same bytes in every other file.",
    )
    parser.add_argument(
        "directories",
        metavar="DIR",
        nargs="*",
        type=Path,
        help="a sweep's folder, such as multirun/cnn_prune; several, or a folder of sweeps (multirun), are compared",
    )
    out_help = "where to write (default: DIR/report; of several sweeps comparison/ in the first DIR)"
    parser.add_argument("--out", metavar="DIR", type=Path, help=out_help)
    parser.add_argument("--beside", metavar="OTHER", type=Path, help="another sweep, to show the surfaces of both")
    parser.add_argument("--metric", metavar="NAME", help="the metric that ranks several sweeps (default: test/acc)")
    best_help = "the value that comes first (default: max, but min for a loss, an error or params)"
    parser.add_argument("--best", metavar="max|min", help=best_help)
    parser.add_argument("--trust", action="store_true", help=commands.TRUST_REPORT)
    schema_help = "write report.schema.json there, the JSON schema of report: blocks, and no report"
    parser.add_argument("--schema", metavar="DIR", type=Path, help=schema_help)
    kind_help = "with --schema: a module of one's own, a kind of figure that the schema shall know; may be repeated"
    parser.add_argument("--kind", metavar="MODULE", action="append", default=[], help=kind_help)
    return commands.run(parser, lambda given: _write(parser, given), words)


def _write(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    if given.schema:
        if given.directories or given.out or given.beside or given.metric or given.best:
            parser.error("--schema writes no report: leave the other arguments out")
        _write_schema(given.schema / "report.schema.json", given.kind)
        return
    if given.kind:
        parser.error("--kind belongs to --schema: a report imports such modules with --trust")
    if not given.directories:
        parser.error("the following arguments are required: DIR")
    several = len(given.directories) > 1 or bool(records.sweeps_below(given.directories[0]))
    index, summary = _compare(given) if several else _report(given)
    sys.stdout.write(f"{summary}\n{index}\n")


def _report(given: argparse.Namespace) -> tuple[Path, str]:
    for option in ("metric", "best"):
        value = getattr(given, option)
        require(value is None, f"--{option}", "be given with several sweeps, which it ranks", value)
    from capsexp.analysis.write import write_report  # matplotlib and numpy would make --help slow

    (directory,) = given.directories
    return write_report(directory, given.out or directory / "report", given.beside, trust=given.trust)


def _compare(given: argparse.Namespace) -> tuple[Path, str]:
    require(given.beside is None, "--beside", "be given with the folder of one sweep alone", str(given.beside))
    from capsexp.analysis.comparison.page import Asked, write_comparison  # matplotlib and numpy would make --help slow

    asked = Asked(given.directories, given.metric, given.best, given.trust)
    return write_comparison(asked, given.out or given.directories[0] / "comparison")


def _write_schema(file: Path, kinds: Sequence[str]) -> None:
    from capsexp.analysis.spec import json_schema  # pydantic and matplotlib would make --help slow

    records.write_text(file, json.dumps(json_schema(list(dict.fromkeys(kinds))), indent=1) + "\n")
    sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    sys.exit(main())
