"""The Weights & Biases run of a cell, whose failures never stop the cell."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from capsexp.tracking.guard import About, GuardedRun, importable, process
from capsexp.tracking.login import has_login
from capsexp.tracking.options import wandb_options

OTHER_WORDS = {"dryrun": "offline", "run": "online"}
"""Further values of WANDB_MODE, and their modes."""


@contextlib.contextmanager
def wandb_run(about: About) -> Iterator[Any]:
    """A Lightning logger for a Weights & Biases run, or None if the mode is disabled.

    The run belongs to the group of its sweep, is named by its swept values, and is always closed.  All calls of Weights
    & Biases for the cell share the time limit ``logger.wandb.timeout_s``.  If the server does not answer in that time,
    the cell and all later cells of the process get offline runs; if wandb hangs even offline, they get none.
    """
    options = wandb_options(about.config)
    mode = _mode(options["mode"])
    if mode == "disabled":
        yield None
        return
    run = GuardedRun(options["timeout_s"])
    run.open(about, options, mode)
    failed = True
    try:
        yield _logger(run)
        failed = False
    finally:
        run.close(int(failed))


def summarise(logger: Any, body: dict[str, Any], axes: dict[str, Any]) -> None:
    """Write the result and the swept values into the run's summary."""
    if logger is None:
        return
    facts = {key: body[key] for key in ("params", "params_paper")}
    training = {f"training/{key}": value for key, value in body["training"].items()}
    values = {**body["metrics"], **facts, **training, **axes}
    logger.guarded.do("summary", lambda: logger.experiment.summary.update(values))


def log_images(about: About, pictures: Mapping[str, Path]) -> bool:
    """Log pictures to a finished cell's run, by their displayed names; returns whether there was a run."""
    with wandb_run(about) as logger:
        if logger is None:
            return False
        import wandb

        images = {name: wandb.Image(str(path)) for name, path in pictures.items()}
        logger.guarded.do("images", lambda: logger.experiment.log(images))
        return True


def _mode(wanted: str) -> str:
    if wanted == "disabled" or not importable():
        return "disabled"
    if wanted == "auto":
        setting = os.environ.get("WANDB_MODE")
        wanted = OTHER_WORDS.get(setting, setting) if setting else "online" if has_login() else "offline"
    return process.allows(wanted)


def _logger(run: GuardedRun) -> Any:
    if run.run is None:
        return None
    from lightning.pytorch.loggers import WandbLogger

    class Guarded(WandbLogger):
        """A logger whose failures stop only the run and not the cell."""

        guarded = run

        def of_stage(self, stage: str) -> "Guarded":
            """A logger for the same run with the name of a stage as prefix."""
            return Guarded(experiment=self.guarded.run, log_model=False, prefix=stage)

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            self.guarded.do("log", lambda: super(Guarded, self).log_metrics(metrics, step))

        def log_hyperparams(self, params: Any) -> None:
            self.guarded.do("config", lambda: super(Guarded, self).log_hyperparams(params))

    return Guarded(experiment=run.run, log_model=False)
