"""A Weights & Biases run that may raise, hang or be offline without an effect on its cell."""

import contextlib
import functools
import importlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capsexp.tracking import names
from capsexp.tracking.deadline import Budget, HungError
from capsexp.tracking.login import has_login
from capsexp.tracking.service import kill_service

log = logging.getLogger(__name__)

UNSENT = "unsent"
"""Empty file in the directory of an online run that was abandoned; ``sync`` uploads such runs too."""

KEPT = 0.1
"""Share of the time that is reserved for the cleanup after a hang."""

INIT_ONLINE = 0.5
"""Share of the time for the start of an online run; the rest is needed if an offline run replaces it."""

FINISH_ONLINE = 0.3
"""Share of the time after which wandb itself stops uploading: its file on disk is then complete."""


@dataclass(frozen=True)
class About:
    """The data of a cell for its run: resolved config, directory, id, and swept values."""

    config: dict[str, Any]
    directory: Path
    cell_id: str
    axes: dict[str, Any]


@dataclass
class Process:
    """The state of Weights & Biases in this process.

    Attributes:
        most: the best mode that is still tried: online, offline or disabled.
        warned: the warnings that were logged, so that a sweep does not repeat them for every cell.
        open: number of open runs; the cells of a stack have theirs at the same time, on one wandb-core.
    """

    most: str = "online"
    warned: set[str] = field(default_factory=set)
    open: int = 0

    def allows(self, mode: str) -> str:
        """``mode``, or a lower mode if it has failed before."""
        return mode if self.most == "online" or mode == "disabled" else self.most

    def step_down(self, mode: str, why: str) -> None:
        """Use a lower mode from now on: the server does not answer, or wandb hangs even offline."""
        if mode == "offline":
            self.most = "disabled"
            log.warning("Weights & Biases hangs even offline (%s); this process goes on without it", why)
        else:
            self.most = "offline"
            log.warning("Weights & Biases cannot be reached (%s); the runs of this process are kept offline", why)

    def warn_once(self, text: str) -> None:
        """Log a warning, unless another cell of the process has logged it."""
        if text not in self.warned:
            self.warned.add(text)
            log.warning("%s (logged once for all cells of this process, which continue)", text)


process = Process()


OF_ONE_RUN = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_RESUME", "WANDB_NAME", "WANDB_RUN_GROUP")
"""Variables that W&B's agent or a script sets for a single run; all cells would become that run."""


def importable() -> bool:
    """True if wandb can be imported; it is imported here, since an abandoned thread might hold the import lock.

    Its own messages and its error reports are switched off: if the server is silent, sending them delays the exit of
    the process by ten seconds, even after an offline run.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    for name in OF_ONE_RUN:
        if os.environ.pop(name, None) is not None:
            process.warn_once(f"{name} is not used: each cell has a run of its own")
    try:
        importlib.import_module("wandb")
    except Exception as error:
        process.warn_once(f"Weights & Biases cannot be imported: {_line(error)}")
        return False
    return True


class GuardedRun:
    """The run of one cell, with its time budget and its failures."""

    def __init__(self, seconds: float) -> None:
        self.budget = Budget(seconds, seconds * KEPT)
        self.mode = ""
        self.run: Any = None
        self.failed: set[str] = set()
        self._counted = False

    def open(self, about: About, options: dict[str, Any], mode: str) -> None:
        """Start the run: online if requested and possible, else offline, else not at all."""
        if mode != "offline":
            if has_login():
                self._begin(about, options, mode, self.budget.total * INIT_ONLINE)
            else:
                process.step_down(mode, "there is no login")  # wandb would ask the terminal for one
        if self.run is None and process.most != "disabled":
            self._begin(about, options, "offline", float("inf"))

    def do(self, what: str, action: Callable[[], Any]) -> None:
        """Call ``action`` on the run, unless ``what`` failed before."""
        if self.run is None or what in self.failed:
            return
        try:
            self.budget.spend(action)
        except HungError as error:
            self._give_up(what, error)
        except Exception as error:
            self._failed(what, error)

    def close(self, exit_code: int) -> None:
        """Finish the run; data that an online run could not upload stay on disk."""
        if self.run is None:
            return
        self._count(is_open=False)
        try:
            self.budget.spend(lambda: self.run.finish(exit_code=exit_code))
        except (HungError, TimeoutError) as error:
            self._give_up("finish", error)
        except Exception as error:
            self._failed("finish", error)
            self._clear_up(kill=False)
        except BaseException:
            self._clear_up(kill=True)
            raise

    def _begin(self, about: About, options: dict[str, Any], mode: str, at_most: float) -> None:
        self.mode = mode
        try:
            self.run = self.budget.spend(functools.partial(_init, about, options, mode, self.budget.total), at_most)
            self._count(is_open=True)
        except HungError as error:
            self._give_up("init", error)
        except Exception as error:
            self._clear_up(kill=False)  # a run that failed to start keeps its id in use
            if mode == "offline":
                self._failed("init", error)
            else:
                process.step_down(mode, f"init: {_line(error)}")
        except BaseException:
            self._clear_up(kill=True)
            raise

    def _count(self, *, is_open: bool) -> None:
        process.open += is_open - self._counted
        self._counted = is_open

    def _failed(self, what: str, error: Exception) -> None:
        if not self.failed:  # one warning per cell
            process.warn_once(f"Weights & Biases failed in {what}: {_line(error)}")
        self.failed.add(what)

    def _give_up(self, what: str, error: Exception) -> None:
        """Abandon the run, and make sure that nothing waits for it."""
        self._count(is_open=False)
        self._clear_up(kill=not isinstance(error, TimeoutError))
        if self.run is not None and self.mode != "offline":
            with contextlib.suppress(OSError, TypeError):
                (Path(self.run.dir).parent / UNSENT).touch()
        self.run = None
        process.step_down(self.mode, f"{what}: {_line(error)}")

    def _clear_up(self, *, kill: bool) -> None:
        """End the run's wandb-core, so that the next run starts its own and the process's exit does not wait.

        While it answers and other cells' runs are open on it, it stays, since these runs need it.
        """
        import wandb

        if process.open and not kill:
            return

        if not kill:
            try:
                self.budget.spend(wandb.teardown, self.budget.total * KEPT)
            except HungError:
                kill = True
            except Exception as error:
                log.debug("teardown: %s", _line(error))
        if kill:
            kill_service()
            with contextlib.suppress(Exception):  # wandb reports that its process has ended
                self.budget.spend_all(wandb.teardown)


def _init(about: About, options: dict[str, Any], mode: str, seconds: float) -> Any:
    import wandb

    sweep = about.config["sweep"]["name"]
    limits: dict[str, Any] = {"init_timeout": seconds * INIT_ONLINE * 0.9}
    if "finish_timeout" in wandb.Settings.model_fields and mode != "offline":
        limits |= {"finish_timeout": seconds * FINISH_ONLINE, "finish_timeout_raises": True}
    settings = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        x_disable_meta=True,
        x_save_requirements=False,
        x_disable_stats=True,
        **limits,
    )
    return wandb.init(
        project=options["project"],
        entity=options["entity"],
        group=names.group(sweep),
        name=names.display_name(about.directory.name, about.cell_id, about.axes),
        id=names.run_id(sweep, about.cell_id),
        dir=about.directory,
        mode=mode,  # type: ignore[arg-type]
        resume="allow" if mode == "online" else None,
        reinit="create_new",  # independent of an abandoned run
        config={key: value for key, value in about.config.items() if key != "report"},
        settings=settings,
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
