"""``python -m capsexp.sync [DIR ...]``: upload the Weights & Biases runs that were kept on disk."""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from capsexp import commands
from capsexp.errors import CommandError
from capsexp.tracking.login import has_login
from capsexp.tracking.sync import COMMAND, TIMEOUT_S, sync


def main(words: Sequence[str] | None = None, *, command: Sequence[str] = COMMAND) -> int:
    """Run the command; returns its exit code: 1 if a run could not be uploaded."""
    parser = commands.parser(
        "sync",
        "Upload the Weights & Biases runs below some folders that were kept on disk.",
        "Runs that are there already are skipped, those of cells that still run are left for later.",
    )
    parser.add_argument(
        "directories", metavar="DIR", type=Path, nargs="*", default=[Path("multirun")], help="default: multirun"
    )
    parser.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=TIMEOUT_S, help="for one run (default: %(default)g)"
    )
    return commands.run(parser, functools.partial(_upload, command), words)


def _upload(command: Sequence[str], given: argparse.Namespace) -> int:
    missing = [str(path) for path in given.directories if not path.is_dir()]
    if missing:
        raise CommandError(f"there is no folder {', '.join(missing)}")
    if not given.timeout > 0:
        raise CommandError(f"--timeout must be > 0, got {given.timeout:g}")
    if not has_login():
        raise CommandError("there is no Weights & Biases login: run `wandb login`, or set WANDB_API_KEY")
    summary = sync(given.directories, command=command, timeout_s=given.timeout, report=_print)
    _print(str(summary))
    return 1 if summary.failures else 0


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
