from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from capsexp import fit_progress, records
from capsexp.callbacks import progress
from capsexp.callbacks.history import History
from capsexp.callbacks.progress import ProgressFile
from capsexp.trainers import make_trainer
from tests.contracts.test_meta_contract import composed

MODULE: Any = nn.Linear(1, 1)


def trainer(folder: Path, max_epochs: int = 30) -> Any:
    return SimpleNamespace(default_root_dir=folder, max_epochs=max_epochs)


def test_what_is_written_of_a_fit_in_a_stages_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.0)
    cell, stage = tmp_path / "w" / "cell", tmp_path / ".stages" / "base-0123456789"
    cell.mkdir(parents=True)
    history = History()
    file, of_stage = ProgressFile(cell, "base", history), trainer(stage)
    file.on_train_start(of_stage, MODULE)
    begun = fit_progress.read(cell)
    assert begun is not None
    assert (begun.line(), begun.left_s()) == ("base: epoch 0/30", None)
    history.rows = [{"epoch": 1, "val/loss": 2.0, "val/acc": 0.25}, {"epoch": 2, "val/loss": 1.0, "val/acc": 0.5}]
    history.seconds = [9.0, 0.25]
    file.on_train_epoch_end(of_stage, MODULE)
    found = fit_progress.read(cell)
    assert found is not None
    assert found.line(found.updated) == "base: epoch 2/30  val/acc 0.5000  4.6 s per epoch  at most 2 min 10 s left"
    assert found.left_s(found.updated + 30) == pytest.approx(28 * 4.625 - 30)
    assert (cell / found.folder).resolve() == stage.resolve()
    assert found.line(found.updated + 1e6).endswith("  at most 1.0 s left"), "an epoch may take longer than the others"
    file.on_fit_end(of_stage, MODULE)
    ended = fit_progress.read(cell)
    assert ended is not None
    assert (ended.line(), ended.left_s()) == ("base: trained for 2 epochs  val/acc 0.5000", 0.0)


@pytest.mark.parametrize(("stage", "prefix", "fit"), [(None, "", ""), ("base", "", "base"), ("deep", "deep4", "deep4")])
def test_the_name_of_a_fit(tmp_path: Path, stage: str | None, prefix: str, fit: str) -> None:
    directory = None if stage is None else tmp_path / f"{stage}-0123456789"
    made = make_trainer(composed(), tmp_path, False, True, directory=directory, prefix=prefix)
    (file,) = (each for each in made.callbacks if isinstance(each, ProgressFile))  # type: ignore[attr-defined]
    assert file.fit == fit
    evaluation = make_trainer(composed(), tmp_path, False, True, in_run=False)
    assert not any(isinstance(each, ProgressFile) for each in evaluation.callbacks)  # type: ignore[attr-defined]


def test_the_loss_is_shown_where_nothing_is_classified(tmp_path: Path) -> None:
    history = History()
    history.rows, history.seconds = [{"epoch": 1, "val/loss": 0.125}], [0.05]
    now = ProgressFile(tmp_path, "", history).now(trainer(tmp_path, -1))
    assert now.line() == "epoch 1  val/loss 0.1250  50 ms per epoch", "without a limit there is no end to foretell"


def test_at_most_one_write_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments, written = [100.0], []
    monkeypatch.setattr("capsexp.callbacks.progress.time.monotonic", lambda: moments[0])
    monkeypatch.setattr(fit_progress, "write", lambda *_: written.append(moments[0]))
    file = ProgressFile(tmp_path, "", History())
    file.on_train_start(trainer(tmp_path), MODULE)
    for moment in (100.4, 101.0, 101.5, 102.1):
        moments[0] = moment
        file.on_train_epoch_end(trainer(tmp_path), MODULE)
    file.on_fit_end(trainer(tmp_path), MODULE)
    assert written == [100.0, 101.0, 102.1, 102.1]


def test_a_file_that_cannot_be_written_does_not_disturb_the_fit(tmp_path: Path) -> None:
    (tmp_path / "cell").write_text("a file")
    ProgressFile(tmp_path / "cell", "", History()).on_train_start(trainer(tmp_path), MODULE)


WHOLE = {
    **{"fit": "", "folder": ".", "epoch": 1, "max_epochs": 3, "metric": "val/acc", "value": 0.5},
    **{"epoch_s": 1.0, "ended": False, "updated": 1000.0},
}


@pytest.mark.parametrize(
    "change",
    [{"epoch": "one"}, {"epoch": None}, {"updated": None}, {"value": [1]}, {"ended": 1}, {"fit": 3}, {"more": 1}],
)
def test_a_damaged_file_shows_nothing(tmp_path: Path, change: dict[str, Any]) -> None:
    records.write_json(tmp_path / records.PROGRESS, WHOLE)
    assert fit_progress.read(tmp_path) is not None
    assert fit_progress.read(tmp_path, since=1001.0) is None, "it is of an earlier attempt"
    records.write_json(tmp_path / records.PROGRESS, WHOLE | change)
    assert fit_progress.read(tmp_path) is None
    (tmp_path / records.PROGRESS).write_text('{"fit": ')
    assert fit_progress.read(tmp_path) is None
