import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from capsexp import records
from capsexp.callbacks.resume import ResumeCheckpoint
from capsexp.errors import ConfigError

MODULE: Any = nn.Linear(1, 1)


def trainer(folder: Path, **changes: Any) -> Any:
    def save(path: Path) -> None:
        path.write_text("saved")

    return SimpleNamespace(**{"default_root_dir": folder, "should_stop": False, "save_checkpoint": save} | changes)


def draws() -> list[Any]:
    return [torch.rand(3).tolist(), np.random.normal(), np.random.rand(), random.random()]


def test_random_states_come_back_before_the_first_epoch(tmp_path: Path) -> None:
    np.random.normal()  # leaves a second normal number waiting in the state
    torch.save(ResumeCheckpoint().state_dict(), tmp_path / "state.pt")
    expected = draws()
    callback = ResumeCheckpoint()
    callback.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws() != expected
    callback.on_train_epoch_start(trainer(tmp_path), MODULE)
    assert draws() == expected
    callback.on_train_epoch_start(trainer(tmp_path), MODULE)
    assert draws() != expected


@pytest.mark.parametrize(("interval", "stops", "saved"), [(0, False, True), (1000, False, False), (0, True, False)])
def test_saves_when_it_is_time_to(tmp_path: Path, interval: float, stops: bool, saved: bool) -> None:
    callback, fake = ResumeCheckpoint(interval), trainer(tmp_path, should_stop=stops)
    callback.on_fit_start(fake, MODULE)
    callback.on_train_epoch_end(fake, MODULE)
    assert (tmp_path / records.RESUME_CHECKPOINT).exists() == saved


def test_the_clock_starts_with_the_fit_and_anew_with_each_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, times = [100.0], []
    monkeypatch.setattr("capsexp.callbacks.resume.time.monotonic", lambda: now[0])
    callback = ResumeCheckpoint(60)
    fake = trainer(tmp_path, save_checkpoint=lambda path: times.append(now[0]))
    callback.on_fit_start(fake, MODULE)
    for moment in (130.0, 160.0, 190.0, 221.0):
        now[0] = moment
        callback.on_train_epoch_end(fake, MODULE)
    assert times == [160.0, 221.0]


def test_a_save_that_fails_keeps_the_one_before(tmp_path: Path) -> None:
    callback = ResumeCheckpoint(0)
    callback.on_train_epoch_end(trainer(tmp_path), MODULE)

    def fail(path: Path) -> None:
        path.write_text("ha")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        callback.on_train_epoch_end(trainer(tmp_path, save_checkpoint=fail), MODULE)
    file = tmp_path / records.RESUME_CHECKPOINT
    assert file.read_text() == "saved"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("interval", [-1, "60", None])
def test_the_interval_is_checked(interval: Any) -> None:
    with pytest.raises(ConfigError, match=r"^min_interval_s must be a number in \[0, inf\], got"):
        ResumeCheckpoint(interval)
