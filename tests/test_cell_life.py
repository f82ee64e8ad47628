"""A cell's life: once, resumable, never half written, equal however it was interrupted."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from capsexp import records
from capsexp.build import load_run
from capsexp.callbacks.criterion_scores import CriterionScores
from capsexp.callbacks.history import History
from capsexp.errors import ConfigError
from tests.conftest import ran_in, results

Run = Callable[..., int]


def the_cell(folder: Path) -> Path:
    (found,) = records.cell_directories(folder / "multirun" / "adhoc").values()
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one cell leaves; tests that change something get a copy."""
    return ran_in(tmp_path_factory.mktemp("trained"))


@pytest.fixture
def finished(trained: Path, in_tmp: Path) -> Path:
    """The cell that the command of :func:`quick` has made."""
    shutil.copytree(trained / "multirun", in_tmp / "multirun")
    return the_cell(in_tmp)


def without_clocks(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != "clocks"}


def test_a_cell_leaves_everything_about_it_in_its_directory(trained: Path) -> None:
    cell = the_cell(trained)
    wanted = {"config.yaml", "status.json", "result.json", "metrics.csv", "arrays.npz", "log.txt", "checkpoints"}
    assert wanted <= {path.name for path in cell.iterdir()}
    assert [path.name for path in (cell / "checkpoints").iterdir()] == ["best.ckpt"]
    status = records.read_status(cell)
    assert status is not None
    assert (status.state, status.id) == ("done", cell.name[-10:])
    (body,) = results(trained).values()
    means = {f"{split}/{name}" for split in ("train", "val", "test") for name in ("loss", "acc")}
    assert means <= body["metrics"].keys()


def test_a_finished_cell_is_not_run_again(run: Run, quick: list[str], in_tmp: Path, finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert run(*quick) == 0
    assert the_cell(in_tmp) == finished
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}


def test_a_cell_that_was_killed_between_its_result_and_its_status_is_tidied(
    run: Run, quick: list[str], finished: Path
) -> None:
    before = (finished / records.RESULT).stat().st_mtime_ns
    records.write_status(finished, records.Status("interrupted", finished.name[-10:]))
    (finished / records.RESUME_CHECKPOINT).touch()
    assert run(*quick) == 0
    assert not (finished / records.RESUME_CHECKPOINT).exists()
    assert (finished / records.RESULT).stat().st_mtime_ns == before


@pytest.mark.usefixtures("finished")
def test_a_changed_config_is_a_new_cell_and_a_volatile_key_is_not(run: Run, quick: list[str], in_tmp: Path) -> None:
    assert run(*quick, "optimizer.lr=1e-3") == 0
    assert run(*quick, "callbacks.resume.min_interval_s=5") == 0
    assert len(results(in_tmp)) == 2


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_result_is_made_again(run: Run, quick: list[str], in_tmp: Path, finished: Path, damage: str) -> None:
    path = finished / records.RESULT
    first, text = results(in_tmp), path.read_text()
    if damage == "delete":
        path.unlink()
    else:
        path.write_text(text[: len(text) // 2] if damage == "truncate" else text.replace('"epochs": 2', '"epochs": 3'))
    assert run(*quick) == 0
    assert records.read_result(finished) is not None
    again = results(in_tmp)
    assert {name: without_clocks(body) for name, body in again.items()} == {
        name: without_clocks(body) for name, body in first.items()
    }


def test_a_failed_cell_says_why_and_is_run_again(
    run: Run, quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(History, "on_fit_end", _raise(RuntimeError("disk on\nfire")))
        assert run(*quick) == 1
    status = records.read_status(the_cell(in_tmp))
    assert status is not None
    assert (status.state, status.cause) == ("failed", "RuntimeError: disk on fire")
    assert "Traceback" in (the_cell(in_tmp) / records.LOG).read_text()
    assert run(*quick) == 0


def test_one_failed_cell_does_not_stop_the_others(run: Run, quick: list[str], in_tmp: Path) -> None:
    assert run(*quick, "model.c2=2,0,3", "-m") == 1
    assert len(results(in_tmp)) == 2
    assert run(*quick, "model.c2=0,-1", "-m") == 2  # not one of the cells can work


def test_a_locked_cell_is_left_to_the_one_who_holds_it(
    run: Run, quick: list[str], in_tmp: Path, finished: Path
) -> None:
    (finished / records.RESULT).unlink()
    with FileLock(finished / ".lock"):
        run(*quick, "-m")
    assert the_cell(in_tmp) == finished
    assert not (finished / records.RESULT).exists()


def test_resumed_equals_uninterrupted(
    run: Run, quick: list[str], in_tmp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*quick, "trainer.max_epochs=6", "callbacks.resume.min_interval_s=0", "seed=7"]
    assert run(*arguments, "paths.output=straight") == 0
    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_start", _raise(KeyboardInterrupt(), when_epoch=3))
        assert run(*arguments, "paths.output=broken") == 130
    (cell,) = records.cell_directories(in_tmp / "broken" / "adhoc").values()
    status = records.read_status(cell)
    assert status is not None
    assert status.state == "interrupted"
    assert (cell / records.RESUME_CHECKPOINT).exists()
    torch.manual_seed(99)  # whatever another process would have drawn
    assert run(*arguments, "paths.output=broken") == 0
    assert not (cell / records.RESUME_CHECKPOINT).exists()
    straight, broken = in_tmp / "straight" / "adhoc" / cell.name, cell
    assert without_clocks(results(straight)[cell.name]) == without_clocks(results(broken)[cell.name])
    assert (straight / records.METRICS).read_bytes() == (broken / records.METRICS).read_bytes()
    saved = [torch.load(folder / records.BEST_CHECKPOINT)["state_dict"] for folder in (straight, broken)]
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


def test_stopped_behind_the_last_epoch_equals_uninterrupted(
    run: Run, quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*quick, "callbacks.resume.min_interval_s=0"]
    assert run(*arguments, "paths.output=straight") == 0

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(CriterionScores, "result_arrays", stop)
        assert run(*arguments, "paths.output=broken") == 130
    assert run(*arguments, "paths.output=broken") == 0
    (straight,), (broken,) = (results(in_tmp / name).values() for name in ("straight", "broken"))
    assert without_clocks(straight) == without_clocks(broken)


def test_a_checkpoint_that_cannot_be_read_costs_only_itself(
    run: Run, quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*quick, "callbacks.resume.min_interval_s=0", "trainer.max_epochs=4"]
    assert run(*arguments, "paths.output=straight") == 0
    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_start", _raise(KeyboardInterrupt(), when_epoch=2))
        assert run(*arguments, "paths.output=broken") == 130
    (cell,) = records.cell_directories(in_tmp / "broken" / "adhoc").values()
    (cell / records.RESUME_CHECKPOINT).write_bytes(b"garbage")
    assert run(*arguments, "paths.output=broken") == 0
    (straight,), (broken,) = (results(in_tmp / name).values() for name in ("straight", "broken"))
    assert without_clocks(straight) == without_clocks(broken)


def test_without_the_resume_callback_a_cell_starts_over(
    run: Run, quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*quick, "trainer.max_epochs=4"]
    assert run(*arguments, "paths.output=straight") == 0
    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_start", _raise(KeyboardInterrupt(), when_epoch=2))
        assert run(*arguments, "callbacks.resume.min_interval_s=0", "paths.output=broken") == 130
    assert run(*arguments, "callbacks.resume=null", "paths.output=broken") == 0
    (straight,), (broken,) = (results(in_tmp / name).values() for name in ("straight", "broken"))
    assert without_clocks(straight) == without_clocks(broken)


def test_a_loaded_run_refuses_other_images(run: Run, quick: list[str], in_tmp: Path, tiny_npz: Path) -> None:
    assert run(*quick) == 0
    loaded = load_run(the_cell(in_tmp))
    assert len(loaded.data().test_dataloader()) == 1
    with np.load(tiny_npz) as arrays:
        np.savez(tiny_npz, **{name: values[::-1] for name, values in arrays.items()})
    with pytest.raises(ConfigError, match=r"data\.path must hold the images that the cell was trained on"):
        loaded.data()
    (the_cell(in_tmp) / records.BEST_CHECKPOINT).unlink()
    with pytest.raises(ConfigError, match="run_dir must hold the finished cell's weights"):
        load_run(the_cell(in_tmp))


def _raise(error: BaseException, when_epoch: int | None = None) -> Callable[..., None]:
    def hook(_self: object, trainer: Any, _module: object) -> None:
        if when_epoch is None or trainer.current_epoch == when_epoch:
            raise error

    return hook


def test_same_seed_same_metrics_other_seed_others(run: Run, quick: list[str], in_tmp: Path) -> None:
    assert run(*quick, "seed=0,1", "-m") == 0
    assert run(*quick, "seed=0", "paths.output=again") == 0
    zero, one = (body["metrics"] for body in results(in_tmp / "multirun").values())
    (repeated,) = (body["metrics"] for body in results(in_tmp / "again").values())
    assert zero == repeated
    assert zero["test/loss"] != one["test/loss"]
    assert zero["similarity/conv1/max"] != one["similarity/conv1/max"]
