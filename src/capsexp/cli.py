"""The command: arguments in, one line and exit code 2 for what the user got wrong.

Exit codes: 0 all cells are done, 1 a cell failed, 2 the command or a config is wrong, 130 interrupted.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from capsexp import plan, records
from capsexp.errors import ConfigError, require

PACKAGE = Path(__file__).parent
CONF = PACKAGE / "conf" if (PACKAGE / "conf" / "config.yaml").exists() else PACKAGE.parents[1] / "conf"

_ended: list[records.Status] = []
_refused: list[Exception] = []


def entry() -> None:
    """The console script ``capsexp``."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run the command and give its exit code."""
    _ended.clear()
    _refused.clear()
    plan.launched.clear()
    plan.register_resolvers()
    try:
        with _hydra_environment(normalise(arguments)):
            _run()
        code = _exit_code()
        if _refused:
            raise _refused[0]
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        # OSError: a folder that cannot be written, a full disk.  ValueError: ours, or a word that Hydra refuses.
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        return _complain(str(plan.config_error(error) or _one_line(error)))
    except KeyboardInterrupt:
        sys.stderr.write("capsexp: interrupted; the same command goes on from here\n")
        return 130
    return code


def _run() -> None:
    """Let Hydra run the command; raise what stopped it."""
    try:
        _job()
    except plan.PlanError as error:
        carried = error.__cause__ or error
    else:
        return
    raise carried  # out here, where its own cause and context stay as they were


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(config: DictConfig) -> float | None:
    """One cell, as Hydra calls it; the score lets optimising sweepers work."""
    try:
        return _cell(config)
    except Exception as error:  # Hydra would print the overrides, and end the sweep with the first one
        _refused.append(error)
        return None


def _cell(config: DictConfig) -> float | None:
    from capsexp import cell  # torch and Lightning are imported by the first cell, not by --help

    hydra_config = HydraConfig.get()
    directory = Path(hydra_config.runtime.output_dir)
    identifier = directory.name.rpartition("-")[2]
    swept = hydra_config.mode == RunMode.MULTIRUN
    home = Path(hydra_config.runtime.cwd, config.paths.sweep).resolve()
    require(
        directory.parent.resolve() == home,
        "hydra.run.dir",
        "be left as it is (say where with paths.output)",
        str(directory),
    )
    job = cell.Cell(
        directory, identifier, plan.axes_of(config, hydra_config, identifier), plan.resolved(config), in_sweep=swept
    )
    status, score = cell.run(job)
    _ended.append(status)
    return score


def normalise(arguments: Sequence[str]) -> list[str]:
    """The arguments as Hydra wants them: ``-m`` first wherever it was written, ``experiment=`` with its plus."""
    flags = [word for word in arguments if word in ("-m", "--multirun")]
    rest = [word for word in arguments if word not in flags]
    for position, word in enumerate(rest):
        name, equals, value = word.partition("=")
        if name.lstrip("+") == "experiment" and equals:
            if "," in value:
                raise ConfigError("experiment", "be one experiment; start one sweep for each", value)
            rest[position] = f"+experiment={value}"
    return flags[:1] + rest


@contextlib.contextmanager
def _hydra_environment(arguments: Sequence[str]) -> Iterator[None]:
    """Let Hydra see ``arguments`` and raise its errors to us; give back what was there before."""
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


def _one_line(error: Exception) -> str:
    """Hydra's message without its line breaks, search paths and hints for developers."""
    text = str(error) or str(error.__cause__ or type(error).__name__)
    text = re.split(r"\nConfig search path|\n\s*full_key:|\nSet the environment", text)[0]
    return re.sub(r"\s+", " ", text).strip()


def _complain(line: str) -> int:
    sys.stderr.write(f"capsexp: error: {' '.join(line.split())}\n")
    return 2


def _exit_code() -> int:
    """By what the cells' own files say, since a sweep's cells may have run in other processes."""
    statuses = list(_ended)
    for directory, sweep in plan.launched:
        statuses = _say_how_sweep_ended(directory, sweep)
    failed = [status for status in statuses if status.state != "done"]
    if any(status.state == "interrupted" for status in failed):
        return 130
    if failed and all(records.is_user_error(status) for status in failed):
        return 2 if plan.launched else _complain(str(failed[0].cause).partition(": ")[2])
    return 1 if failed else 0


def _say_how_sweep_ended(directory: Path, sweep: records.Sweep) -> list[records.Status]:
    statuses = {
        cell.name: records.read_status(directory / cell.name) or records.Status("pending", cell.id, cause="never ran")
        for cell in sweep.cells
    }
    bad = {name: status for name, status in statuses.items() if status.state != "done"}
    stale = sum(records.is_stale(records.read_result(directory / name) or {}) for name in statuses.keys() - bad.keys())
    done = f"{len(statuses) - len(bad)} of {len(statuses)} cells done" + (f", {stale} of them stale" if stale else "")
    sys.stdout.write(f"{done}; report: python -m capsexp.report {directory}\n")
    for name, status in bad.items():
        running = f"being run by process {status.pid} on {status.host}"
        cause = running if status.state == "running" else status.cause or status.state
        sys.stdout.write(f"  {name}: {cause} (see {directory / name / records.LOG})\n")
    return list(statuses.values())
