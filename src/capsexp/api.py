"""Sweeps and cells run from scripts and notebooks: the same plan, engine and files as those of the command."""

from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from capsexp import cli
from capsexp.errors import CommandError, config_error
from capsexp.sweep.messages import of_command


class CellError(CommandError):
    """A cell that was run is not done; the message has its directory and the cause."""

    exit_code = 1


def run_sweep(overrides: Sequence[str]) -> Path:
    """Run every cell of a sweep that is not finished, as ``python -m capsexp ... -m`` does.

    A cell that fails does not raise an error: the table of :func:`capsexp.load_sweep` has its state and cause.  Worker
    processes import the script that calls this function, so the call stands below ``if __name__ == "__main__":``.

    Args:
        overrides: the arguments of the command: ``["+experiment=cnn_prune", "model.c2=4,8"]``.

    Returns:
        The path of the sweep's folder.

    Raises:
        ConfigError: a value breaks a rule.
        CommandError: the arguments are refused by Hydra.
        LaunchError: the sweep was given up.
    """
    command = _execute([*overrides, "-m"])
    assert command.folder is not None, "Hydra ran neither a sweeper nor a job"
    return command.folder.absolute()


def run_cell(overrides: Sequence[str]) -> Path:
    """Run one cell in this process unless it is finished, as ``python -m capsexp`` does.

    Args:
        overrides: the arguments of the command: ``["model=capsnet", "seed=1"]``.

    Returns:
        The cell's directory, which :func:`capsexp.load_run` reads.

    Raises:
        CellError: the cell failed or was interrupted.
        ConfigError: a value breaks a rule.
        CommandError: the arguments are refused by Hydra.
    """
    if any(word in ("-m", "--multirun") for word in overrides):
        raise CommandError("run_cell() runs one cell; run_sweep() takes a grid")
    command = _execute(overrides)
    if command.directory is None or not command.ended:
        raise CommandError("run_cell() runs one cell, but the experiment sets hydra.mode=MULTIRUN: use run_sweep()")
    status = command.ended[0]
    if status.state != "done":
        raise CellError(f"{command.directory}: {status.state}: {status.cause}")
    return command.directory


def _execute(arguments: Sequence[str]) -> cli.Command:
    command = cli.Command()
    try:
        cli.execute([str(word) for word in arguments], command)
    except (HydraException, OmegaConfBaseException) as error:
        raise config_error(error) or CommandError(of_command(error, arguments)) from error
    return command
