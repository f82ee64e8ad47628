"""What the commands beside ``python -m capsexp`` share: their arguments, errors in one line, and exit codes.

Exit codes: 0 done, 1 something that was asked for is missing, 2 what the user can mend, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from capsexp.errors import CommandError, ConfigError
from capsexp.text import plain


def parser(name: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser of a command's arguments, with its help.

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
    """Run a command and give its exit code.

    Args:
        arguments: parses its words.
        work: does it; gives the exit code, None for 0.
        words: what the user typed; None for those of this process.
        name: what stands before an error; None for the command's module.
    """
    given = arguments.parse_intermixed_args(list(sys.argv[1:] if words is None else words))
    try:
        return work(given) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (CommandError, ConfigError, OSError) as error:
        line = plain(" ".join(str(error).split()))
        sys.stderr.write(f"{name or arguments.prog.rpartition(' ')[2]}: error: {line}\n")
        return error.exit_code if isinstance(error, CommandError) else 2
