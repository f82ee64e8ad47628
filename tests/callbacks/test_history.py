from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from capsexp.callbacks.history import History, write_rows

MODULE: Any = nn.Linear(1, 1)


def fit(history: History, folder: Path, losses: list[float], first: int = 0) -> None:
    for number, loss in enumerate(losses, first):
        metrics = {"val/acc": torch.tensor(0.5), "train/loss": torch.tensor(loss, dtype=torch.float64)}
        trainer: Any = SimpleNamespace(current_epoch=number, callback_metrics=metrics, default_root_dir=folder)
        history.on_train_epoch_start(trainer, MODULE)
        history.on_train_epoch_end(trainer, MODULE)
    history.on_fit_end(trainer, MODULE)


def test_one_row_an_epoch_from_one(tmp_path: Path) -> None:
    history = History()
    fit(history, tmp_path, [2.0, 0.1])
    assert history.rows == [
        {"epoch": 1, "train/loss": 2.0, "val/acc": 0.5},
        {"epoch": 2, "train/loss": 0.1, "val/acc": 0.5},
    ]
    assert (tmp_path / "metrics.csv").read_bytes() == b"epoch,train/loss,val/acc\n1,2.0,0.5\n2,0.1,0.5\n"
    assert len(history.seconds) == 2
    assert all(0 <= seconds < 1 for seconds in history.seconds)


def test_goes_on_behind_its_state(tmp_path: Path) -> None:
    whole, before, after = History(), History(), History()
    for folder in ("whole", "part"):
        (tmp_path / folder).mkdir()
    fit(whole, tmp_path / "whole", [3.0, 2.0, 1.0])
    fit(before, tmp_path / "part", [3.0])
    after.load_state_dict(before.state_dict())
    fit(after, tmp_path / "part", [2.0, 1.0], first=1)
    assert after.rows == whole.rows
    assert len(after.seconds) == 3
    texts = [(tmp_path / folder / "metrics.csv").read_bytes() for folder in ("whole", "part")]
    assert texts[0] == texts[1]


def test_columns_are_all_names_that_occur(tmp_path: Path) -> None:
    rows = [{"epoch": 1, "b": 1.0}, {"epoch": 2, "a": 0.25, "b": float("nan")}]
    write_rows(tmp_path / "rows.csv", rows)
    assert (tmp_path / "rows.csv").read_text() == "epoch,a,b\n1,,1.0\n2,0.25,nan\n"


def test_numbers_come_back_as_they_were(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.csv", [{"epoch": 1, "a": 1 / 3}])
    assert float((tmp_path / "rows.csv").read_text().split(",")[-1]) == 1 / 3
