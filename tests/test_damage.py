"""Damaged files of cells and stages: found when they are read, made again where that is possible."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from capsexp import records
from capsexp.analysis.arrays import ArrayError, read, read_all
from capsexp.analysis.history import read_history
from capsexp.build import load_run
from capsexp.callbacks.history import History
from capsexp.errors import ConfigError
from tests.conftest import results
from tests.test_cell_life import _raise, the_cell, without_clocks
from tests.test_checksums import flip

Run = Callable[..., int]

STAGED = ("model=cnn", "recipe=prune_and_retrain", "pruning=magnitude", "pruning.ratio=0.5")


def in_the_middle(path: Path) -> None:
    """Flip a bit of a number in a file."""
    flip(path, path.stat().st_size // 2)


def bodies(folder: Path) -> list[dict[str, Any]]:
    return [without_clocks(body) for body in results(folder).values()]


@pytest.fixture
def interrupted(run: Run, quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The checkpoint of a cell that was stopped in its third epoch; ``straight`` holds the same cell, not stopped."""
    quick[:] = [*quick, "trainer.max_epochs=4", "callbacks.resume.min_interval_s=0"]
    assert run(*quick, "paths.output=straight") == 0
    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_epoch_start", _raise(KeyboardInterrupt(), when_epoch=2))
        assert run(*quick) == 130
    path = the_cell(in_tmp) / records.RESUME_CHECKPOINT
    assert path.is_file()
    return path


def _edit(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        saved = torch.load(path, weights_only=True)
        change(saved)
        torch.save(saved, path)

    return edit


def _reshape(saved: dict[str, Any]) -> None:
    saved["state_dict"] = {name: value[..., :1] for name, value in saved["state_dict"].items()}


def _folder(path: Path) -> None:
    path.unlink()
    (path / "deep").mkdir(parents=True)


def rarely(*values: object) -> Any:
    """A case that goes the same way through the code as another one."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (in_the_middle, "its checksum does not match"),
        (_edit(lambda saved: saved["callbacks"].pop("Peak")), "it has no callbacks.Peak"),
        (_edit(_reshape), "RuntimeError"),
        rarely(lambda path: path.write_text("hello"), "its checksum does not match"),
        rarely(_folder, "it cannot be read: Is a directory"),
        rarely(_edit(lambda saved: saved.pop("loops")), "it has no loops"),
        rarely(_edit(lambda saved: saved.update(optimizer_states=[])), "it has no optimizer_states"),
        rarely(_edit(lambda saved: saved["callbacks"].update(ResumeCheckpoint={"torch": 1})), "KeyError"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_lets_the_cell_start_over(
    run: Run,
    quick: list[str],
    in_tmp: Path,
    interrupted: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    cause: str,
) -> None:
    damage(interrupted)
    assert run(*quick) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "starts over" in line)
    assert line.startswith(f"{interrupted}: the checkpoint to go on from cannot be used ({cause}")
    assert bodies(in_tmp / "multirun") == bodies(in_tmp / "straight")
    assert not interrupted.exists()


def test_a_checkpoint_without_a_checksum_is_still_gone_on_from(
    run: Run, quick: list[str], in_tmp: Path, interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _edit(lambda saved: None)(interrupted)
    assert run(*quick) == 0
    said = capsys.readouterr().out
    assert "goes on from its checkpoint" in said
    assert "starts over" not in said
    assert bodies(in_tmp / "multirun") == bodies(in_tmp / "straight")


def test_a_fit_that_fails_for_another_reason_keeps_its_checkpoint(
    run: Run, quick: list[str], in_tmp: Path, interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(History, "on_train_start", _raise(RuntimeError("CUDA error: out of memory")), raising=False)
        assert run(*quick) == 1
    assert interrupted.is_file()
    assert run(*quick) == 0
    assert bodies(in_tmp / "multirun") == bodies(in_tmp / "straight")


@pytest.mark.parametrize(
    ("damage", "older"),
    [
        (in_the_middle, False),
        (Path.unlink, True),
        *(rarely(*each) for each in ((in_the_middle, True), (Path.unlink, False), (_folder, False), (_folder, True))),
    ],
)
def test_a_finished_stage_with_a_damaged_checkpoint_is_computed_again(
    run: Run,
    quick: list[str],
    in_tmp: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    older: bool,
) -> None:
    assert run(*quick, *STAGED) == 0
    first = bodies(in_tmp / "multirun")
    (stage,) = (in_tmp / "multirun" / ".stages").glob("base-*")
    if older:
        raw = records.read_json(stage / records.STAGE) or {}
        records.write_json(stage / records.STAGE, {key: raw[key] for key in ("schema", "checksum", "body")})
    damage(stage / records.BEST_CHECKPOINT)
    shutil.rmtree(in_tmp / "multirun" / "adhoc")
    for path in (in_tmp / "multirun" / ".stages").glob("[!b]*"):
        shutil.rmtree(path)
    assert run(*quick, *STAGED) == 0
    assert (
        f"stage base: its files in {stage.relative_to(in_tmp)} are damaged; it is computed again"
        in capsys.readouterr().out
    )
    assert bodies(in_tmp / "multirun") == first


def test_the_history_of_a_finished_stage_is_made_again(run: Run, quick: list[str], in_tmp: Path) -> None:
    assert run(*quick, *STAGED) == 0
    for path in (in_tmp / "multirun" / ".stages").glob(f"*/{records.METRICS}"):
        in_the_middle(path)
    kept = (the_cell(in_tmp) / records.METRICS).read_bytes()
    shutil.rmtree(in_tmp / "multirun" / "adhoc")
    assert run(*quick, *STAGED) == 0
    assert (the_cell(in_tmp) / records.METRICS).read_bytes() == kept


def test_a_finished_cell_with_a_flipped_bit_is_not_loaded(run: Run, quick: list[str], in_tmp: Path) -> None:
    assert run(*quick) == 0
    path = the_cell(in_tmp) / records.BEST_CHECKPOINT
    load_run(path.parents[1])
    in_the_middle(path)
    with pytest.raises(ConfigError, match=r"best\.ckpt is damaged: its checksum does not match"):
        load_run(path.parents[1])


def test_a_cell_whose_log_cannot_be_opened_has_its_cause_on_record(run: Run, quick: list[str], in_tmp: Path) -> None:
    assert run(*quick) == 0
    cell = the_cell(in_tmp)
    (cell / records.RESULT).unlink()
    (cell / records.LOG).unlink()
    (cell / records.LOG).mkdir()
    assert run(*quick) == 1
    status = records.read_status(cell)
    assert status is not None
    assert (status.state, status.kind) == ("failed", "exception")
    assert status.cause is not None
    assert status.cause.startswith("IsADirectoryError: ")
    (cell / records.LOG).rmdir()
    assert run(*quick) == 0


@pytest.mark.parametrize(
    "name",
    [records.STATUS, "checkpoints", *(rarely(name) for name in (records.RESULT, records.CONFIG, records.METRICS))],
)
def test_a_folder_in_place_of_a_file_is_replaced(run: Run, quick: list[str], in_tmp: Path, name: str) -> None:
    assert run(*quick) == 0
    cell, first = the_cell(in_tmp), bodies(in_tmp)
    (cell / records.RESULT).unlink()
    records.remove(cell / name)
    (cell / name / "deep").mkdir(parents=True)
    assert run(*quick) == 0
    assert bodies(in_tmp) == first


def test_damaged_tables_and_arrays_are_not_drawn(run: Run, quick: list[str], in_tmp: Path) -> None:
    assert run(*quick) == 0
    cell = the_cell(in_tmp)
    name = next(iter(read_all(cell)))
    assert read(cell, name).size > 0
    assert read_history(cell, ["train/loss"])
    for file in (records.ARRAYS, records.METRICS):
        in_the_middle(cell / file)
    readers: list[Callable[[], Any]] = [
        lambda: read(cell, name),
        lambda: read_all(cell),
        lambda: read_history(cell, ["train/loss"]),
    ]
    for reader in readers:
        with pytest.raises(ArrayError, match="is damaged: its checksum does not match"):
            reader()
