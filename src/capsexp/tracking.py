"""Weights & Biases: one run a cell, opened and closed here, and never able to hurt the cell."""

import contextlib
import logging
import netrc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capsexp.errors import require_choice, require_number

log = logging.getLogger(__name__)

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
    if mode == "disabled":
        yield None
        return
    require_number("logger.wandb.timeout_s", options["timeout_s"], 1)
    run = _open(about, options, ("online" if _has_login() else "offline") if mode == "auto" else mode)
    failed = True
    try:
        yield _logger(run)
        failed = False
    finally:
        if run is not None:
            _guarded("finish", lambda: run.finish(exit_code=int(failed)))


def summarise(logger: Any, body: dict[str, Any], axes: dict[str, Any]) -> None:
    """Put the result and the swept values into the run's summary."""
    if logger is None:
        return
    facts = {key: body[key] for key in ("params", "params_paper")}
    training = {f"training/{key}": value for key, value in body["training"].items()}
    _guarded("summary", lambda: logger.experiment.summary.update({**body["metrics"], **facts, **training, **axes}))


def _open(about: About, options: dict[str, Any], mode: str) -> Any:
    run = _guarded("init", lambda: _init(about, options, mode))
    if run is None and mode == "online":
        log.warning("Weights & Biases cannot be reached; the run is kept offline")
        run = _guarded("init", lambda: _init(about, options, "offline"))
    return run


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
        id=f"{sweep}-{about.cell_id}"[-64:],
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

    return WandbLogger(experiment=run, log_model=False)


def _has_login() -> bool:
    """Whether a key is at hand, without asking anybody for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    try:
        return netrc.netrc(path).authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def _guarded(what: str, action: Any) -> Any:
    """Do something with Weights & Biases; if that fails, say so once and go on without it."""
    try:
        return action()
    except Exception as error:
        log.warning("Weights & Biases failed in %s: %s", what, " ".join(str(error).split())[:200])
        return None
