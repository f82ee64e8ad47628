"""What the files of a running cell say of the fit in progress, and what is left of them when it has ended."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from capsexp import records
from capsexp.callbacks import progress
from capsexp.callbacks.progress import ProgressFile
from capsexp.callbacks.resume import ResumeCheckpoint
from capsexp.stacking.grouping import Settings
from capsexp.stacking.stack import Stack
from capsexp.status.facts import facts
from capsexp.status.read import read
from capsexp.sweep.preview import plan_command
from tests.stacking.together import together
from tests.test_autoencoder_cells import words

Run = Callable[..., int]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """After each epoch of a running cell: name, fit, epochs, metric, and the rows of its ``metrics.csv``."""
    found: list[tuple[Any, ...]] = []
    real = ProgressFile.on_train_epoch_end

    def look(self: ProgressFile, trainer: Any, module: Any) -> None:
        real(self, trainer, module)
        for cell in facts(read(self._directory.parent)).running:
            if cell.name == self._directory.name and cell.history is not None:
                assert 0 < (cell.epoch_s or 0) < 60
                rows = len(Path(cell.history).read_text().splitlines()) - 1
                found.append((cell.name, cell.fit, cell.epoch, cell.max_epochs, cell.metric, rows))

    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    monkeypatch.setattr(ProgressFile, "on_train_epoch_end", look)
    return found


def left(folder: Path) -> list[Path]:
    """Progress files below a folder."""
    return list(folder.rglob(records.PROGRESS))


def test_two_fits_one_of_them_in_a_stage(
    run: Run, tiny_npz: Path, in_tmp: Path, seen: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words(tiny_npz), "trainer.max_epochs=2", "trainer.progress=true") == 0
    assert [each[1:] for each in seen] == [
        ("autoencode", 1, 2, "val/loss", 1),
        ("autoencode", 2, 2, "val/loss", 2),
        ("", 1, 2, "val/acc", 1),
        ("", 2, 2, "val/acc", 2),
    ]
    assert left(in_tmp) == []
    bars = capsys.readouterr().out
    for shown in ("autoencode: epoch 2/2 ", "\nepoch 2/2 ", "val/loss: ", "val/acc: ", "s/epoch: ", "left: "):
        assert shown in bars


def test_the_members_of_a_stack(quick: list[str], in_tmp: Path, seen: list[Any]) -> None:
    plan = plan_command([word for word in [*quick, "seed=0,1"] if "launcher" not in word], multirun=True)
    plan.freeze()
    folder = Path("multirun/stacked")
    records.write_sweep(folder, replace(plan.sweep, name="stacked"))
    together(folder, plan.directory)
    names = [cell.name for cell in plan.sweep.cells]
    assert sorted(seen) == sorted((name, "", epoch, 2, "val/acc", epoch) for name in names for epoch in (1, 2))
    assert left(in_tmp) == []


def test_the_members_of_two_buckets(quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first bucket is slow, as wide networks are: the other one waits for it, and does not count the waiting."""
    pace_s, stacks, lines = 0.3, list[Stack](), list[str]()
    step, look = Stack.training_step, ProgressFile.on_train_epoch_end

    def slow_step(self: Stack, batch: Any, batch_idx: int) -> torch.Tensor:
        stacks.extend([self] if self not in stacks else [])
        time.sleep(pace_s if self is stacks[0] else 0.0)
        return step(self, batch, batch_idx)

    def say(self: ProgressFile, trainer: Any, module: Any) -> None:
        look(self, trainer, module)
        lines.extend(cell.line for cell in facts(read(self._directory.parent)).running)

    monkeypatch.setattr(Stack, "training_step", slow_step)
    monkeypatch.setattr(ProgressFile, "on_train_epoch_end", say)
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    words = [word for word in [*quick, "model.c2=2,6", "trainer.max_epochs=3"] if "launcher" not in word]
    plan = plan_command(words, multirun=True)
    plan.freeze()
    folder = Path("multirun/stacked")
    records.write_sweep(folder, replace(plan.sweep, name="stacked"))
    together(folder, plan.directory, settings=Settings("grouped", 2))
    results = [records.read_result(folder / cell.name) for cell in plan.sweep.cells]
    quicker, slower = sorted(result["clocks"]["fit_s"] for result in results if result)
    assert slower >= 3 * pace_s
    assert slower - quicker >= 2 * pace_s, "also on a machine that is busy"
    assert 3 * pace_s <= sorted(result["clocks"]["total_s"] for result in results if result)[0]
    assert len([line for line in lines if line == "epoch 0/3  waits for another stack"]) == 3
    assert len([line for line in lines if "waits" in line]) == 3, "only while the other bucket is trained"


def test_epochs_do_not_count_what_others_do_after_their_fits(
    quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of four end after an epoch, and take long for what follows, before the others end theirs."""
    end = ProgressFile.on_fit_end

    def end_slowly(self: ProgressFile, trainer: Any, module: Any) -> None:
        time.sleep(0.5)
        end(self, trainer, module)

    monkeypatch.setattr(ProgressFile, "on_fit_end", end_slowly)
    words = [word for word in [*quick, "trainer.max_epochs=1,2", "seed=0,1"] if "launcher" not in word]
    plan = plan_command(words, multirun=True)
    plan.freeze()
    together(Path("multirun/stacked"), plan.directory)
    for cell in plan.sweep.cells:
        result = records.read_result(Path("multirun/stacked") / cell.name)
        assert result is not None
        assert result["environment"]["stack"]["members"] == 4
        what_follows = 0.5 if result["training"]["epochs"] == 1 else 1.5  # of the cell and of those that end before it
        assert result["clocks"]["total_s"] - result["clocks"]["fit_s"] >= what_follows


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_fit_that_breaks_off_leaves_its_epochs_and_ends_equal(
    run: Run, quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """It breaks off in its third epoch; its checkpoint is of its first."""
    words = [*quick, "trainer.max_epochs=4", "callbacks.resume.min_interval_s=0"]
    assert run(*words, "sweep.name=straight") == 0
    real, save = ProgressFile.on_train_epoch_end, ResumeCheckpoint.on_train_epoch_end

    def fail(self: ProgressFile, trainer: Any, module: Any) -> None:
        real(self, trainer, module)
        if trainer.current_epoch == 2:
            raise error

    def save_once(self: ResumeCheckpoint, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 0:
            save(self, trainer, module)

    with monkeypatch.context() as patch:
        patch.setattr(ProgressFile, "on_train_epoch_end", fail)
        patch.setattr(ResumeCheckpoint, "on_train_epoch_end", save_once)
        assert run(*words) in (1, 130)
    (broken,) = records.cell_directories(Path("multirun/adhoc")).values()
    (straight,) = records.cell_directories(Path("multirun/straight")).values()
    assert left(in_tmp) == []
    assert len((broken / records.METRICS).read_text().splitlines()) == 4
    assert (broken / records.RESUME_CHECKPOINT).is_file()
    assert run(*words) == 0
    assert (broken / records.METRICS).read_bytes() == (straight / records.METRICS).read_bytes()
