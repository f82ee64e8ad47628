"""``python -m capsexp.report DIR``: writes DIR/report/ and prints the path of its page.

With ``--schema DIR`` it writes the JSON schema of ``report:`` blocks instead, for editors.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from capsexp import commands, records

__path__: list[str] = []  # so that former names of its modules can be imported (see capsexp.renamed)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = commands.parser(
        "report",
        "Write tables, figures and one self-contained page from a sweep's folder.",
        "The last line printed is the path of the page. Timings stand in timings.* alone, so that the same "
        "results give the same bytes in every other file.",
    )
    parser.add_argument(
        "directory", metavar="DIR", nargs="?", type=Path, help="a sweep's folder, such as multirun/cnn_prune"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: DIR/report)")
    parser.add_argument("--beside", metavar="OTHER", type=Path, help="another sweep, to show the surfaces of both")
    schema_help = "write report.schema.json there, the JSON schema of report: blocks, and no report"
    parser.add_argument("--schema", metavar="DIR", type=Path, help=schema_help)
    return commands.run(parser, lambda given: _write(parser, given), words)


def _write(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    if given.schema:
        if given.directory or given.out or given.beside:
            parser.error("--schema writes no report: leave the other arguments out")
        _write_schema(given.schema / "report.schema.json")
        return
    if not given.directory:
        parser.error("the following arguments are required: DIR")
    from capsexp.analysis.write import write_report  # matplotlib and numpy would make --help slow

    index, summary = write_report(given.directory, given.out or given.directory / "report", given.beside)
    sys.stdout.write(f"{summary}\n{index}\n")


def _write_schema(file: Path) -> None:
    from capsexp.analysis.spec import json_schema  # pydantic and matplotlib would make --help slow

    records.write_text(file, json.dumps(json_schema(), indent=1) + "\n")
    sys.stdout.write(f"{file}\n")


if __name__ == "__main__":
    sys.exit(main())
