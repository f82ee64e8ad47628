"""The shared part of the other commands: argument parsing, one-line errors, and exit codes.

Exit codes: 0 done, 1 a requested item is missing, 2 a user error, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from capsexp.errors import CommandError, ConfigError
from capsexp.records import DamagedError
from capsexp.text import plain, prepare_output

_ANY_CODE = "and so run any code: only for a folder whose author you trust"
TRUST = f"make whatever the cell's config names, {_ANY_CODE}"
"""The help text of ``--trust`` where cells are loaded."""

TRUST_REPORT = f"import the modules of one's own that the report: block names as kinds of figures, {_ANY_CODE}"
"""The help text of ``--trust`` where a ``report:`` block is read."""


TRUST_CLAIMS = "import the modules of one's own that the file names as kinds of rules, and so run any code of theirs"
"""The help text of ``--trust`` where a file of claims is read."""


def parser(name: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """The argument parser of a command, with its help text.

    Args:
        name: of the command, the module after ``capsexp.``.
        description: what it does.
        epilog: what else a user should know.
    """
    return argparse.ArgumentParser(prog=f"python -m capsexp.{name}", description=description, epilog=epilog)


def run(
    arguments: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], int | None],
    words: Sequence[str] | None = None,
    *,
    name: str | None = None,
) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: the command's argument parser.
        work: the function that does the work; it returns the exit code, None for 0.
        words: the command line; None for that of this process.
        name: the prefix of error messages; None for the command's module.
    """
    prepare_output()
    given = arguments.parse_intermixed_args(list(sys.argv[1:] if words is None else words))
    try:
        return work(given) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as head, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (CommandError, ConfigError, DamagedError, OSError) as error:
        line = plain(" ".join(str(error).split()))
        sys.stderr.write(f"{name or arguments.prog.rpartition(' ')[2]}: error: {line}\n")
        return error.exit_code if isinstance(error, CommandError) else 2
