"""The command ``python -m capsexp``; a user error gives one line and exit code 2.

Exit codes: 0 all cells are done, 1 a cell failed, 2 the command or a config is wrong, 130 interrupted.
"""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from capsexp import __version__, hardware, records, resolvers
from capsexp.errors import ConfigError, LaunchError, config_error, require
from capsexp.sweep import closing
from capsexp.sweep.cells import options_of, require_mapping
from capsexp.sweep.messages import of_command, one_line
from capsexp.text import prepare_output

log = logging.getLogger(__name__)

resolvers.register()  # here, because a cluster's job imports this module and never calls main


class Command:
    """The callable that Hydra runs for each job of this process; it collects their outcomes.

    Attributes:
        ended: the statuses of the jobs that ran.
        folder: the sweep's folder, once it is known.
        directory: the directory of the last cell that ran in this process.
        refused: the errors of the jobs that could not start.
        exit_code: the exit code of the whole sweep, set by capsexp's sweeper; None under another sweeper.
    """

    def __init__(self) -> None:
        self.ended: list[records.Status] = []
        self.folder: Path | None = None
        self.directory: Path | None = None
        self.refused: list[Exception] = []
        self.exit_code: int | None = None

    def __call__(self, config: DictConfig) -> float | None:
        """Run one cell and return its score, which optimising sweepers need."""
        try:
            from capsexp.sweep import job  # torch and Lightning are imported by the first cell, not by --help

            self.folder, self.directory = Path(config.paths.sweep), Path(HydraConfig.get().runtime.output_dir)
            ended = job.run(config)
        except Exception as error:  # Hydra would print the overrides and stop the sweep at the first error
            self.refused.append(error)
            log.debug("refused", exc_info=True)  # for a cluster's job, where nothing reads ``refused``
            return None
        self.ended.append(ended.status)
        return ended.score


def entry() -> None:
    """The console script ``capsexp``."""
    sys.path.insert(0, "")  # as for ``python -m capsexp``: a user's own modules lie in the current folder
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    prepare_output()
    if "--version" in arguments:  # Hydra would print its own
        sys.stdout.write(f"capsexp {__version__}\n")
        return 0
    for name, value in hardware.WAITING.items():
        os.environ.setdefault(name, value)
    command = Command()
    try:
        execute(arguments, command)
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        # OSError: a folder that cannot be written, a full disk.  ValueError: an argument that Hydra or capsexp refuses.
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return _complain(str(config_error(error) or of_command(error, arguments)))
    except LaunchError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.stderr.write(f"capsexp: {one_line(error)[:200]}\n")
        return command.exit_code or 1
    except KeyboardInterrupt:
        sys.stderr.write("capsexp: interrupted; the same command goes on from here\n")
        return 130
    if command.exit_code is not None:
        return command.exit_code
    code = closing.exit_code(command.ended)
    return _complain(str(command.ended[0].cause).partition(": ")[2]) if code == 2 else code


def execute(arguments: Sequence[str], command: Command) -> None:
    """Run the command, which collects what became of it.

    Raises:
        HydraException, OmegaConfBaseException, ValueError, OSError: the arguments are refused.
        LaunchError: the sweep was given up.
        KeyboardInterrupt: the user stopped it.
    """
    with _hydra_environment(normalise(arguments)):
        hydra.main(version_base="1.3", config_path=str(records.CONF), config_name="config")(command)()
    if command.refused:
        raise command.refused[0]


def normalise(arguments: Sequence[str]) -> list[str]:
    """The arguments in Hydra's form: ``-m`` first, and a plus sign before ``experiment=``."""
    flags = [word for word in arguments if word in ("-m", "--multirun")]
    rest = [word for word in arguments if word not in flags]
    for position, word in enumerate(rest):
        name, equals, value = word.partition("=")
        if name.lstrip("+") == "experiment" and equals:
            if "," in value:
                raise ConfigError("experiment", "be one experiment; start one sweep for each", value)
            rest[position] = f"+experiment={value}"
        _check_group(name.lstrip("+"), value)
    return flags[:1] + rest


def _check_group(key: str, value: str) -> None:
    """Refuse what Hydra would report in a traceback or without its key: options that are no names, values as groups.

    Raises:
        ConfigError: for the group.
    """
    if key in ("hydra.sweeper", "hydra.launcher") and not value.startswith("{"):
        group = key.replace(".", "/")
        require(value != "null", group, "be the name of an option", value)
        raise ConfigError(key, f"be a group of keys (choose one with {group}={value})", value)
    if key.lstrip("~") in ("paths", "sweep") and not value.startswith("{"):  # Hydra would miss what lies in them
        require_mapping(key.lstrip("~"), None if key.startswith("~") else value)
    is_option = (records.CONF / key).is_dir()
    require(not (is_option and value == "null"), key, f"be the name of an option ({options_of(key)})", value)
    if value.startswith("[") and is_option:
        names = [name.strip() for name in value.strip("[]").split(",") if name.strip()]
        fit = all(re.fullmatch(r"[A-Za-z_./-][\w./-]*", name) for name in names)
        require(fit, key, "be the name of an option, or a list of names", value)


@contextlib.contextmanager
def _hydra_environment(arguments: Sequence[str]) -> Iterator[None]:
    """Set ``sys.argv`` for Hydra and make it raise its errors; restore both at the end."""
    before, argv = os.environ.get("HYDRA_FULL_ERROR"), sys.argv
    sys.argv = ["capsexp", *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = argv
        if before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = before


def _complain(line: str) -> int:
    sys.stderr.write(f"capsexp: error: {' '.join(line.split())}\n")
    return 2
