"""The command: arguments in, one line and exit code 2 for what the user got wrong.

Exit codes: 0 all cells are done, 1 a cell failed, 2 the command or a config is wrong, 130 interrupted.
"""

import contextlib
import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from capsexp import plan, records
from capsexp.errors import ConfigError
from capsexp.words import count

CONF = records.CONF

log = logging.getLogger(__name__)

plan.register_resolvers()  # here, because a cluster's job imports this module and never calls main

_ended: list[records.Status] = []
_refused: list[Exception] = []


def entry() -> None:
    """The console script ``capsexp``."""
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str], *, preview: bool = False) -> int:
    """Run the command, or only tell its plan, and give its exit code."""
    _ended.clear()
    _refused.clear()
    plan.current.launch, plan.current.preview = None, preview
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
    except RuntimeError as error:  # a launcher that lost a job, such as submitit's
        if plan.current.launch is None or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        sys.stderr.write(f"capsexp: {type(error).__name__}: {_one_line(error)[:200]}\n")
        _exit_code()
        return 1
    except KeyboardInterrupt:
        _exit_code()
        sys.stderr.write("capsexp: interrupted; the same command goes on from here\n")
        return 130
    return code


def _run() -> None:
    """Let Hydra run the command; raise what stopped it."""
    try:
        _job()
    except plan.PlanError as error:
        carried = error.__cause__ or error
    except plan.Planned as planned:
        sys.stdout.write(plan.text_of(planned.launch))
        return
    else:
        return
    raise carried  # out here, where its own cause and context stay as they were


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _job(config: DictConfig) -> float | None:
    """One cell, as Hydra calls it; the score lets optimising sweepers work."""
    try:
        from capsexp import job  # torch and Lightning are imported by the first cell, not by --help

        ended = job.run(config)
    except Exception as error:  # Hydra would print the overrides, and end the sweep with the first one
        _refused.append(error)
        log.debug("refused", exc_info=True)  # for a job of a cluster, whose list nobody reads
        return None
    _ended.append(ended.status)
    return ended.score


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
    if text.startswith("Could not override 'routing'"):  # Hydra's own advice, +routing=..., would change nothing
        return "routing must be given with a model of capsules, such as model=capsnet"
    return re.sub(r"\s+", " ", text).strip()


def _complain(line: str) -> int:
    sys.stderr.write(f"capsexp: error: {' '.join(line.split())}\n")
    return 2


def _exit_code() -> int:
    """By what the cells' own files say, since a sweep's cells may have run in other processes."""
    launch = plan.current.launch
    statuses = _say_how_sweep_ended(launch.directory, launch.sweep) if launch else list(_ended)
    failed = [status for status in statuses if status.state != "done"]
    if failed and all(records.is_user_error(status) for status in statuses):  # not one cell has worked
        return 2 if launch else _complain(str(failed[0].cause).partition(": ")[2])
    return 1 if failed else 0


def _say_how_sweep_ended(directory: Path, sweep: records.Sweep) -> list[records.Status]:
    statuses = {
        cell.name: records.read_status(directory / cell.name) or records.Status("pending", cell.id)
        for cell in sweep.cells
    }
    done = [name for name, status in statuses.items() if status.state == "done"]
    stale = sum(records.is_stale(records.read_result(directory / name) or {}) for name in done)
    facts = [f"{len(done)} of {count(len(statuses), 'cell')} done" + (f", {stale} of them stale" if stale else "")]
    states = Counter(status.state for status in statuses.values())
    facts += [f"{states[state]} {state}" for state in ("failed", "interrupted", "running", "pending") if states[state]]
    lines = [f"{', '.join(facts)}; report: python -m capsexp.report {directory}"]
    for name, status in statuses.items():
        if status.state in ("failed", "interrupted", "running"):
            lines.append(f"  {name}: {_why(status)} (see {directory / name / records.LOG})")
    _say("\n".join(lines) + "\n")
    return list(statuses.values())


def _say(text: str) -> None:
    """Write to the terminal or pipe; that it is gone changes nothing in what was done."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains of it once more at its end


def _why(status: records.Status) -> str:
    if status.state == "running":
        return f"being run by process {status.pid} on {status.host}"
    again = f" (tried {len(status.retried) + 1} times)" if status.retried else ""
    return f"{status.cause or status.state}{again}"
