"""Weights & Biases: one run a cell, opened and closed here, and never able to hurt the cell."""

import contextlib
import logging
import netrc
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from capsexp.errors import require_choice, require_number

log = logging.getLogger(__name__)

_unreachable = threading.Event()
"""Set once an online run could not be started: the later cells of this process do not wait for it again."""

MODES = ("auto", "online", "offline", "disabled")


@dataclass(frozen=True)
class About:
    """What a run is told about its cell: resolved config, directory, id, and swept values."""

    config: dict[str, Any]
    directory: Path
    cell_id: str
    axes: dict[str, Any]


@contextlib.contextmanager
def wandb_run(about: About) -> Iterator[Any]:
    """A Lightning logger around a Weights & Biases run, or None where there is to be none.

    The run belongs to the group of its sweep, is named by its swept values and closed whatever happens.  A server that
    cannot be reached costs ``logger.wandb.timeout_s`` at most; the run then goes on offline.
    """
    options = (about.config.get("logger") or {}).get("wandb") or {"mode": "disabled"}
    mode = require_choice("logger.wandb.mode", options["mode"], MODES)
    if mode == "auto":
        mode = os.environ.get("WANDB_MODE") or ("online" if _has_login() else "offline")
    if mode == "disabled":
        yield None
        return
    require_number("logger.wandb.timeout_s", options["timeout_s"], 1)
    run = _open(about, options, mode)
    failed = True
    try:
        yield _logger(run)
        failed = False
    finally:
        if run is not None and not _guarded("finish", lambda: (run.finish(exit_code=int(failed)), True)):
            _guarded("teardown", _teardown)


def summarise(logger: Any, body: dict[str, Any], axes: dict[str, Any]) -> None:
    """Put the result and the swept values into the run's summary."""
    if logger is None:
        return
    facts = {key: body[key] for key in ("params", "params_paper")}
    training = {f"training/{key}": value for key, value in body["training"].items()}
    _guarded("summary", lambda: logger.experiment.summary.update({**body["metrics"], **facts, **training, **axes}))


def _open(about: About, options: dict[str, Any], mode: str) -> Any:
    mode = "offline" if _unreachable.is_set() else mode
    run = _guarded("init", lambda: _init(about, options, mode))
    if run is None:
        _guarded("teardown", _teardown)  # a run that failed to start keeps its id in use
        if mode == "online":
            log.warning("Weights & Biases cannot be reached; the runs of this process are kept offline")
            _unreachable.set()
        run = _guarded("init", lambda: _init(about, options, "offline"))
    return run


def _teardown() -> None:
    import wandb

    wandb.teardown()


def _init(about: About, options: dict[str, Any], mode: str) -> Any:
    import wandb

    os.environ.setdefault("WANDB_SILENT", "true")
    sweep = about.config["sweep"]["name"]
    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=options["timeout_s"],
        disable_git=True,
        x_disable_meta=True,
        x_save_requirements=False,
        x_disable_stats=True,
    )
    return wandb.init(
        project=options["project"],
        entity=options["entity"],
        group=sweep[:128],
        name=about.directory.name.removesuffix(f"-{about.cell_id}")[:128],
        id=re.sub(r"[^\w.-]", "-", f"{sweep}-{about.cell_id}")[-64:],
        dir=about.directory,
        mode=mode,  # type: ignore[arg-type]
        resume="allow" if mode == "online" else None,
        config={key: value for key, value in about.config.items() if key != "report"},
        settings=settings,
    )


def _logger(run: Any) -> Any:
    if run is None:
        return None
    from lightning.pytorch.loggers import WandbLogger

    class Guarded(WandbLogger):
        """One whose first failure ends the copy and not the cell."""

        working = True

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            if self.working:
                self.working = bool(_guarded("log", lambda: (super(Guarded, self).log_metrics(metrics, step), True)))

    return Guarded(experiment=run, log_model=False)


def _has_login() -> bool:
    """Whether a key is at hand, without asking anybody for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    import wandb

    server = os.environ.get("WANDB_BASE_URL") or wandb.Settings().base_url
    hosts = {urlsplit(server).netloc, "api.wandb.ai"}  # `wandb login` writes the first; older ones wrote the second
    try:
        logins = netrc.netrc(os.environ.get("NETRC") or Path.home() / ".netrc")
    except (OSError, RuntimeError, UnicodeDecodeError, netrc.NetrcParseError):
        return False
    return any(logins.authenticators(host) for host in hosts)


def _guarded(what: str, action: Any) -> Any:
    """Do something with Weights & Biases; if that fails, say so once and go on without it."""
    try:
        return action()
    except Exception as error:
        log.warning("Weights & Biases failed in %s: %s", what, " ".join(str(error).split())[:200])
        return None
