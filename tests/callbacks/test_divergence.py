"""A training loss that is no number ends the cell, and what was good before it is kept."""

import csv
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from capsexp import cli, records
from capsexp.analysis.write import write_report
from capsexp.callbacks import divergence
from capsexp.callbacks.divergence import DivergenceGuard
from capsexp.callbacks.history import History
from capsexp.callbacks.peak import Peak
from capsexp.engine.retry_policy import INFRASTRUCTURE
from capsexp.errors import Diverged
from capsexp.lightning_modules.classifier import ClassifierModule
from capsexp.types import Batch, StepOutput
from tests.conftest import quick_words, results, write_tiny_npz

Run = Callable[..., int]

EPOCH = 5
"""Steps in an epoch of the quick cell: 72 images, 16 in a batch."""


@pytest.fixture(params=["read at once", "read at the end of the epoch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The guard's two ways: the second one is that of a GPU."""
    monkeypatch.setattr(divergence, "_reading_waits", lambda device: "end" in request.param)
    return str(request.param)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``poison(8)``: the loss of optimizer step 8 is NaN, and of all later ones."""
    step_of_before = ClassifierModule.shared_step

    def apply(first: int, value: float = math.nan) -> None:
        def shared_step(self: Any, batch: Batch) -> StepOutput:
            output = step_of_before(self, batch)
            trainer = self._trainer
            bad = trainer is not None and trainer.training and trainer.global_step + 1 >= first
            return output._replace(loss=output.loss * value) if bad else output

        monkeypatch.setattr(ClassifierModule, "shared_step", shared_step)

    return apply


def the_cell(folder: Path) -> Path:
    (found,) = records.cell_directories(folder / "multirun" / "adhoc").values()
    return found


def ending(cell: Path) -> tuple[str, str | None, str | None]:
    status = records.read_status(cell)
    assert status is not None
    return status.state, status.kind, status.cause


def weights(cell: Path) -> dict[str, torch.Tensor]:
    saved = torch.load(cell / records.BEST_CHECKPOINT, weights_only=True)
    assert set(saved["hyper_parameters"]["sizes"]) == {"image_shape", "classes"}
    state: dict[str, torch.Tensor] = saved["state_dict"]
    return state


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("way")
def test_before_the_first_peak_nothing_is_kept(
    run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*quick, "optimizer.lr=1e30") == 1
    cell = the_cell(in_tmp)
    assert ending(cell) == ("failed", "diverged", "diverged at step 2")
    assert f"{cell.name}  failed: diverged at step 2\n" in capsys.readouterr().out
    assert not (cell / "checkpoints").exists()
    assert not (cell / records.METRICS).exists()
    log = (cell / records.LOG).read_text()
    assert "no weights are kept" in log
    assert "Traceback" not in log


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cell of one epoch, which nothing went wrong with."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CAPSEXP_CACHE", str(folder / "cache"))
        assert cli.main([*quick_words(write_tiny_npz(folder)), "trainer.max_epochs=1"]) == 0
    return the_cell(folder)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_peak_and_the_finished_epochs_are_kept(
    straight: Path, run: Run, quick: list[str], in_tmp: Path, poison: Callable[..., None], value: float
) -> None:
    poison(EPOCH + 3, value)
    assert run(*quick, "trainer.max_epochs=4") == 1
    cell = the_cell(in_tmp)
    assert ending(cell) == ("failed", "diverged", f"diverged at step {EPOCH + 3}")
    assert same(weights(cell), weights(straight))
    assert (cell / records.METRICS).read_bytes() == (straight / records.METRICS).read_bytes()
    assert [path.name for path in (cell / "checkpoints").iterdir()] == ["best.ckpt"]
    assert "the weights of epoch 1, the peak so far, are kept" in (cell / records.LOG).read_text()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("step", [1, EPOCH, EPOCH + 1, 2 * EPOCH])
def test_the_step_is_told_wherever_it_lies_in_an_epoch(
    run: Run, quick: list[str], in_tmp: Path, poison: Callable[..., None], step: int
) -> None:
    poison(step)
    assert run(*quick, "trainer.max_epochs=4") == 1
    assert ending(the_cell(in_tmp))[2] == f"diverged at step {step}"
    assert (the_cell(in_tmp) / records.BEST_CHECKPOINT).exists() == (step > EPOCH)


@pytest.mark.usefixtures("way")
def test_a_step_of_several_batches_counts_once(
    run: Run, quick: list[str], in_tmp: Path, poison: Callable[..., None]
) -> None:
    poison(5)  # an epoch is 3 steps
    assert run(*quick, "+trainer.accumulate_grad_batches=2", "trainer.precision=bf16-mixed") == 1
    assert ending(the_cell(in_tmp))[2] == "diverged at step 5"


@pytest.mark.usefixtures("way")
def test_an_epoch_without_validation_is_read_as_well(
    run: Run, quick: list[str], in_tmp: Path, poison: Callable[..., None]
) -> None:
    poison(EPOCH + 1)
    assert run(*quick, "trainer.max_epochs=6", "+trainer.check_val_every_n_epoch=3") == 1
    assert ending(the_cell(in_tmp))[2] == f"diverged at step {EPOCH + 1}"


@pytest.mark.usefixtures("way")
def test_a_resumed_fit_counts_on_and_its_checkpoint_stays(
    run: Run, quick: list[str], in_tmp: Path, poison: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object, trainer: Any, module: object) -> None:
        if trainer.current_epoch == 2:
            raise KeyboardInterrupt

    step = 3 * EPOCH + 2
    poison(step)
    arguments = [*quick, "trainer.max_epochs=9", "callbacks.resume.min_interval_s=0"]
    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_start", stop)
        assert run(*arguments) == 130
    assert run(*arguments) == 1
    cell = the_cell(in_tmp)
    assert ending(cell) == ("failed", "diverged", f"diverged at step {step}")
    saved = torch.load(cell / records.RESUME_CHECKPOINT, weights_only=True)
    assert saved["global_step"] == 3 * EPOCH
    assert same(weights(cell), saved["callbacks"]["Peak"]["weights"])
    rows = list(csv.DictReader((cell / records.METRICS).read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


def test_the_other_cells_of_a_sweep_go_on(run: Run, quick: list[str], in_tmp: Path) -> None:
    assert run(*quick, "optimizer.lr=1e30,1e-3,1e-4", "-m") == 1
    assert len(results(in_tmp)) == 2
    endings = {ending(cell) for cell in records.cell_directories(in_tmp / "multirun" / "adhoc").values()}
    assert endings == {("done", None, None), ("failed", "diverged", "diverged at step 2")}
    write_report(in_tmp / "multirun" / "adhoc", in_tmp / "report")
    assert "failed,diverged,diverged at step 2" in (in_tmp / "report" / "cells.csv").read_text()


def test_another_try_would_end_alike() -> None:
    assert "diverged" not in INFRASTRUCTURE


def test_it_can_be_left_out(run: Run, quick: list[str], in_tmp: Path) -> None:
    assert run(*quick, "optimizer.lr=1e30", "callbacks.divergence=null") == 0
    (body,) = results(in_tmp).values()
    assert body["metrics"]["train/loss"] is None


@pytest.mark.usefixtures("way")
def test_finite_losses_pass(run: Run, quick: list[str], in_tmp: Path) -> None:
    assert run(*quick) == 0
    assert run(*quick, "callbacks.divergence=null", "paths.output=without") == 0
    (guarded,), (free,) = (results(in_tmp / name).values() for name in ("multirun", "without"))
    assert guarded | {"clocks": None} == free | {"clocks": None}


def test_on_a_gpu_the_first_bad_step_is_noted_and_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "_reading_waits", lambda device: True)
    guard, module = DivergenceGuard(), SimpleNamespace(device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(global_step=0)
    guard.on_fit_start(trainer, module)  # type: ignore[arg-type]
    with monkeypatch.context() as patched:
        for name in ("item", "__bool__", "__int__", "__float__", "tolist"):  # each would wait for a device
            patched.setattr(torch.Tensor, name, lambda *_: pytest.fail("read"))
        for step, loss in enumerate([1.0, 2.0, math.inf, 1.0, math.nan]):
            trainer.global_step = step
            guard.on_before_backward(trainer, module, torch.tensor(loss, requires_grad=True))  # type: ignore[arg-type]
    with pytest.raises(Diverged, match=r"^diverged at step 3$"):
        guard.on_validation_start(trainer, module)  # type: ignore[arg-type]


def test_other_exceptions_keep_nothing() -> None:
    peak, module = Peak(), nn.Linear(1, 1)
    peak.weights = {"weight": torch.ones(1, 1), "bias": torch.ones(1)}
    trainer: Any = SimpleNamespace(callbacks=[peak])
    DivergenceGuard().on_exception(trainer, module, RuntimeError())  # type: ignore[arg-type]
    assert not torch.equal(module.bias, torch.ones(1))
