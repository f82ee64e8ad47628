"""How long cells take, from a few training steps of some of them."""

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch

from capsexp import records
from capsexp.build import factories, set_threads
from capsexp.lightning_modules.quiet import quiet_lightning
from capsexp.making import class_of
from capsexp.recipes.networks import Networks
from capsexp.recipes.train import Train
from capsexp.sweep.estimate import Measured

SAMPLE = 5
"""Cells that are measured, evenly spread over those that are left."""

WARM, STEPS, EVALUATED = 2, 5, 2
"""Training steps before the clock starts, training steps that are measured, and batches of the validation."""


def measure(
    frozen: Mapping[str, records.FrozenCell], left: Sequence[records.PlannedCell], threads: int | None
) -> list[Measured]:
    """The first fits of some of the cells that are left, each measured alone on this machine.

    Nothing is written, unless a callback of one's own writes something.

    Args:
        frozen: the configs of all cells, by id.
        left: the cells that are left.
        threads: CPU threads of a cell; None for those that its config says.

    Raises:
        ConfigError: a value breaks a rule.
    """
    chosen = min(SAMPLE, len(left))
    places = dict.fromkeys(round(each * (len(left) - 1) / max(1, chosen - 1)) for each in range(chosen))
    return [_measured(left[place].name, frozen[left[place].id].config, threads) for place in places]


def _measured(name: str, config: dict[str, Any], threads: int | None) -> Measured:
    before = torch.get_num_threads()
    set_threads(threads or config["threads"])
    try:
        with tempfile.TemporaryDirectory() as folder, quiet_lightning():
            make, clock = factories(config, Path(folder), in_sweep=True), _Clock()
            few: dict[str, Any] = {"limit_train_batches": WARM + STEPS, "limit_val_batches": EVALUATED, "max_epochs": 1}
            module, data = Networks(make).new(), make.make_data()
            trainer = make.make_trainer(callbacks=[clock], without=("history", "resume", "peak"), in_run=False, **few)
            trainer.fit(module, data)
            steps = _share(len(data.train_dataloader()), config["trainer"].get("limit_train_batches"))
            batches = _share(len(data.val_dataloader()), config["trainer"].get("limit_val_batches"))
    finally:
        torch.set_num_threads(before)
    alone = class_of(config["recipe"]) is Train
    return Measured(name, clock.step_s, steps, batches * clock.batch_s, _epochs(config["trainer"], steps), alone)


def _epochs(settings: dict[str, Any], steps: int) -> int:
    """The largest number of epochs, of so many steps each."""
    most = settings.get("max_steps") or -1
    return int(settings["max_epochs"] if most < 0 else min(settings["max_epochs"], math.ceil(most / max(1, steps))))


def _share(batches: int, limit: float | None) -> int:
    """The batches of an epoch under a limit, a count or a share of them."""
    return batches if limit is None else min(batches, limit) if isinstance(limit, int) else int(batches * limit)


class _Clock(L.Callback):
    """Notes when steps end.

    Attributes:
        step_s: seconds of a training step, with the loading of its batch.
        batch_s: seconds of a batch of the validation.
    """

    def __init__(self) -> None:
        self.step_s = self.batch_s = 0.0
        self._ended: list[float] = []
        self._begun = 0.0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Note the end of a step."""
        self._ended.append(_now(pl_module))
        first = min(WARM, len(self._ended)) - 1  # of few batches, one may be all there is
        steps = len(self._ended) - 1 - first
        self.step_s = (self._ended[-1] - self._ended[first]) / steps if steps else self._ended[0] - self._begun

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._begun = _now(pl_module)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of the validation."""
        self._begun = _now(pl_module)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Note the end of a batch."""
        self.batch_s = (_now(pl_module) - self._begun) / (batch_idx + 1)


def _now(module: L.LightningModule) -> float:
    """The time at which the device has done what it was given."""
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return time.perf_counter()
