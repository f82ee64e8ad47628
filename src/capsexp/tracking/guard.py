"""A Weights & Biases run that may raise, hang or be offline without an effect on its cell."""

import contextlib
import functools
import importlib
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.tracking import names
from capsexp.tracking.deadline import Budget, Call, HungError
from capsexp.tracking.login import has_login
from capsexp.tracking.service import kill_service

log = logging.getLogger(__name__)

UNSENT = "unsent"
"""File in the directory of an online run that has not ended well; ``sync`` uploads such runs too."""

OPEN, ABANDONED = "open\n", ""
"""Its content until the run ends, which is what a killed process leaves, and after the run was given up."""

KEPT = 0.1
"""Share of the time that is reserved for the cleanup after a hang."""

INIT_ONLINE = 0.5
"""Share of the time for the start of an online run; the rest is needed if an offline run replaces it."""

FINISH_ONLINE = 0.3
"""Share of the time after which wandb itself stops uploading: its file on disk is then complete."""

PROMPT = 0.05
"""Share of the time within which an answer is prompt; only what it takes longer counts as waiting for the server."""


@dataclass(frozen=True)
class About:
    """The data of a cell for its run: resolved config, directory, id, and swept values."""

    config: dict[str, Any]
    directory: Path
    cell_id: str
    axes: dict[str, Any]


MOST = "CAPSEXP_WANDB_MOST"
"""Environment variable of a worker: the best mode that is still tried, as earlier workers of its sweep have found."""


@dataclass
class Process:
    """The state of Weights & Biases in this process.

    Attributes:
        most: the best mode that is still tried: online, offline or disabled.
        warned: the warnings that were logged, so that a sweep does not repeat them for every cell.
        open: number of open runs; the cells of a stack have theirs at the same time, on one wandb-core.
        together: number of runs that have been open at the same time; 0 once all have ended.
        waited: seconds for which they have waited for the server.
        ending: the ends of online runs that are under way after the server has failed; they are waited for together.
    """

    most: str = field(default_factory=lambda: os.environ.get(MOST, "online"))
    warned: set[str] = field(default_factory=set)
    open: int = 0
    together: int = 0
    waited: float = 0.0
    ending: "list[tuple[GuardedRun, Call[Any]]]" = field(default_factory=list)

    def allows(self, mode: str) -> str:
        """``mode``, or a lower mode if it has failed before."""
        return mode if self.most == "online" or mode == "disabled" else self.most

    def step_down(self, mode: str, why: str) -> None:
        """Use a lower mode from now on: the server does not answer, or wandb hangs even offline."""
        if self.most != "online" and mode != "offline":  # another run of a stack, with the same server
            return
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

    def wait(self, seconds: float, total: float) -> None:
        """Count an answer of the server that took ``seconds``, and step down if a stack has waited too long.

        Args:
            seconds: how long it took.
            total: the time limit of a run.
        """
        self.waited += max(0.0, seconds - total * PROMPT)
        if self.together > 1 and self.waited >= total * INIT_ONLINE:
            self.step_down("online", f"its answers took {self.waited:.0f} s for {self.together} runs")

    def end_all(self, total: float) -> None:
        """Wait for the ends that are under way, once the last open run has ended.

        Args:
            total: the time limit of a run; what is left of it is for all together, but they get at least the time after
                which wandb itself stops uploading, since it then writes their files.
        """
        until = time.monotonic() + max(total - self.waited, total * (FINISH_ONLINE + KEPT))
        self.waited, self.together = 0.0, 0
        while self.ending:
            run, call = self.ending.pop(0)
            run.wait_for_end(call, until - time.monotonic())


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
        with records.in_process_folder():  # it makes folders that only a process that is not killed removes
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
        """Finish the run; data that an online run could not upload stay on disk.

        Once the server has failed, online runs that are still open end without being waited for, until the last of them
        does: the members of a stack wait once, and not each.
        """
        if self.run is not None:
            self._count(is_open=False)
            call = Call(functools.partial(self.run.finish, exit_code=exit_code))
            if self.mode != "offline" and process.most != "online":
                process.ending.append((self, call))
            else:
                self.wait_for_end(call)
        if not process.open:
            process.end_all(self.budget.total)

    def wait_for_end(self, call: Call[Any], at_most: float = float("inf")) -> None:
        """Wait until the run is finished."""
        began = time.monotonic()
        try:
            self.budget.spend_on(call, at_most)
            self._mark(None)
        except (HungError, TimeoutError) as error:
            self._give_up("finish", error)
        except Exception as error:
            self._failed("finish", error)
            self._mark(ABANDONED)
            self._clear_up(kill=False)
        except BaseException:
            self._clear_up(kill=True)
            raise
        if self.mode != "offline":
            process.wait(time.monotonic() - began, self.budget.total)

    def _begin(self, about: About, options: dict[str, Any], mode: str, at_most: float) -> None:
        self.mode = mode
        began = time.monotonic()
        try:
            with records.in_process_folder():  # of what wandb-core writes while it starts
                self.run = self.budget.spend(functools.partial(_init, about, options, mode, self.budget.total), at_most)
            self._mark(OPEN)
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
        if mode != "offline":
            process.wait(time.monotonic() - began, self.budget.total)

    def _mark(self, content: str | None) -> None:
        """Mark the directory of an online run as not sent; None removes the mark."""
        if self.mode == "offline":
            return
        with contextlib.suppress(OSError, TypeError):
            mark = Path(self.run.dir).parent / UNSENT
            if content is None:
                mark.unlink(missing_ok=True)
            else:
                mark.write_text(content)

    def _count(self, *, is_open: bool) -> None:
        process.open += is_open - self._counted
        process.together += is_open and not self._counted
        self._counted = is_open

    def _failed(self, what: str, error: Exception) -> None:
        if not self.failed:  # one warning per cell
            process.warn_once(f"Weights & Biases failed in {what}: {_line(error)}")
        self.failed.add(what)

    def _give_up(self, what: str, error: Exception) -> None:
        """Abandon the run, and make sure that nothing waits for it."""
        self._count(is_open=False)
        self._clear_up(kill=not isinstance(error, TimeoutError))
        if self.run is not None:
            self._mark(ABANDONED)
        self.run = None
        process.step_down(self.mode, f"{what}: {_line(error)}")

    def _clear_up(self, *, kill: bool) -> None:
        """End the run's wandb-core, so that the next run starts its own and the process's exit does not wait.

        While it answers and other cells' runs are open on it, or are ending, it stays, since these runs need it.
        """
        import wandb

        if (process.open or process.ending) and not kill:
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
