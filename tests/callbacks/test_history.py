import csv
import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from capsexp.callbacks.history import BLOCK, GrowingFile, History, Row, write_rows

MODULE: Any = nn.Linear(1, 1)


def fit(history: History, folder: Path, losses: list[float], first: int = 0) -> None:
    for number, loss in enumerate(losses, first):
        metrics = {"val/acc": torch.tensor(0.5), "train/loss": torch.tensor(loss, dtype=torch.float64)}
        trainer: Any = SimpleNamespace(current_epoch=number, callback_metrics=metrics, default_root_dir=folder)
        history.on_train_epoch_start(trainer, MODULE)
        history.on_train_epoch_end(trainer, MODULE)
        assert read(folder) == [row["train/loss"] for row in history.rows], "every epoch is in the file at once"
    history.on_fit_end(trainer, MODULE)


def read(folder: Path) -> list[float]:
    return [float(row["train/loss"]) for row in csv.DictReader((folder / "metrics.csv").read_text().splitlines())]


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


def test_epochs_after_the_checkpoint_are_not_in_the_file_twice(tmp_path: Path) -> None:
    """A fit is killed after its third epoch, and goes on from a checkpoint of its first."""
    killed, after = History(), History()
    fit(killed, tmp_path, [3.0])
    saved = killed.state_dict() | {"rows": list(killed.rows), "seconds": list(killed.seconds)}
    fit(killed, tmp_path, [9.0, 9.0], first=1)
    after.load_state_dict(saved)
    fit(after, tmp_path, [2.0, 1.0], first=1)
    assert read(tmp_path) == [3.0, 2.0, 1.0]


def whole(rows: list[Row]) -> str:
    """The text of a file that is written at once."""
    names = ["epoch", *sorted({name for row in rows for name in row} - {"epoch"})]
    return "".join(
        ",".join([*map(str, line)]) + "\n" for line in [names, *([r.get(n, "") for n in names] for r in rows)]
    )


def test_a_growing_file_equals_one_that_is_written_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: pytest.fail("an epoch waits for the disk"))
    path, rows, replaced, before = tmp_path / "growing.csv", list[Row](), list[int](), 0
    growing = GrowingFile(path)
    for epoch in range(1, 200):
        rows.append({"epoch": epoch, "loss": 1 / epoch} | ({"acc": epoch / 7} if epoch > 50 and epoch % 3 else {}))
        growing.update(rows)
        assert path.read_text() == whole(rows)
        replaced += [epoch] if path.stat().st_ino != before else []
        before = path.stat().st_ino
    across = next(n for n in range(1, 200) if len(whole(rows[:n])) > BLOCK)
    assert replaced == [1, 52, across], "at first, for a new column, and for a row that lies in two blocks"


@pytest.mark.parametrize("content", [None, b"", b"something else\n", b"epoch,loss\n1,1.0\n2,0."])
def test_a_file_that_was_changed_is_replaced(tmp_path: Path, content: bytes | None) -> None:
    growing, rows = GrowingFile(tmp_path / "rows.csv"), [{"epoch": 1.0, "loss": 1.0}]
    growing.update(rows)
    (tmp_path / "rows.csv").unlink()
    if content is not None:
        (tmp_path / "rows.csv").write_bytes(content)
    rows.append({"epoch": 2, "loss": 0.5})
    growing.update(rows)
    assert (tmp_path / "rows.csv").read_text() == "epoch,loss\n1.0,1.0\n2,0.5\n"


def test_a_full_disk_does_not_end_the_fit_before_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    growing, rows = GrowingFile(tmp_path / "rows.csv"), [{"epoch": 1, "loss": 1.0}]
    growing.update(rows)
    opened = Path.open

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    rows.append({"epoch": 2, "loss": 0.5})
    growing.update(rows)
    monkeypatch.setattr(Path, "open", opened)
    rows.append({"epoch": 3, "loss": 0.25})
    growing.update(rows)
    assert (tmp_path / "rows.csv").read_text() == "epoch,loss\n1,1.0\n2,0.5\n3,0.25\n"


def test_a_reader_never_sees_a_part_of_a_row(tmp_path: Path) -> None:
    path, rows, ended = tmp_path / "rows.csv", [{"epoch": 1, "loss": 1 / 3}], threading.Event()
    growing = GrowingFile(path)
    growing.update(rows)

    def write() -> None:
        for epoch in range(2, 1500):
            rows.append({"epoch": epoch, "loss": epoch / 3})
            growing.update(rows)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not ended.is_set():
        content = path.read_bytes()
        seen += 1
        assert content.endswith(b"\n")
        assert all(line.count(b",") == 1 for line in content.splitlines())
    writer.join()
    assert seen > 10
