"""``python -m capsexp.report DIR``: writes DIR/report/ and prints the path of its page."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status, 2 for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m capsexp.report",
        description="Write tables, figures and one self-contained page from a sweep's folder.",
        epilog="The last line printed is the path of the page. Timings stand in timings.* alone, so that the same "
        "results give the same bytes in every other file.",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="a sweep's folder, such as multirun/cnn_prune")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where to write (default: DIR/report)")
    parser.add_argument("--beside", metavar="OTHER", type=Path, help="another sweep, to show the surfaces of both")
    given = parser.parse_args(arguments)
    # Only now: matplotlib and numpy would make --help slow.
    from capsexp.errors import ConfigError
    from capsexp.report.results import ReportError
    from capsexp.report.write import write_report

    try:
        index, summary = write_report(given.directory, given.out or given.directory / "report", given.beside)
    except (ReportError, ConfigError, OSError) as error:
        message = " ".join(str(error).split())
        sys.stderr.write(f"capsexp.report: error: {message}\n")
        return 2
    sys.stdout.write(f"{summary}\n{index}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
