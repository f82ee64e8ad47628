"""Stages that cells share: computed once, never mistaken, never half."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from capsexp import records
from capsexp.errors import StageBusy
from capsexp.recipes.stages import Stage, StageMemo, StageResult


class Work:
    """Counts how often it is done."""

    def __init__(self, **facts: Any) -> None:
        self.facts, self.done = facts or {"metrics": {"val/acc": 0.1 + 0.2}}, 0

    def __call__(self, directory: Path) -> dict[str, Any]:
        self.done += 1
        (directory / "made.txt").write_text(f"{self.done}")
        return self.facts


class Keys:
    """The digest of a config, as the factories make it."""

    def __init__(self, **config: Any) -> None:
        self.config = {"model": 1, "recipe": 2, "filter": 3} | config

    def __call__(self, without: Collection[str]) -> str:
        return json.dumps({name: value for name, value in self.config.items() if name not in without})


STAGE = Stage("train", irrelevant=("recipe", "filter"))


def memo(folder: Path, **config: Any) -> StageMemo:
    return StageMemo(folder / ".stages", Keys(**config))


def test_a_stage_is_computed_once_and_then_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    work = Work()
    first = memo(tmp_path).get(STAGE, work)
    assert f"stage train: being computed in {first.directory.name}" in caplog.text
    assert "taken" not in caplog.text
    resume = first.directory / records.RESUME_CHECKPOINT
    resume.parent.mkdir()
    resume.touch()
    second = memo(tmp_path).get(STAGE, work)  # another cell has a memo of its own
    assert work.done == 1
    assert not resume.exists(), "it was killed between its result and the removal"
    assert first == second == StageResult(memo(tmp_path).directory(STAGE), {"metrics": {"val/acc": 0.1 + 0.2}})
    assert f"stage train: taken from {first.directory.name}" in caplog.text
    assert (first.directory / "made.txt").read_text() == "1"
    assert first.directory.parent == tmp_path / ".stages"


def test_computed_facts_are_what_a_later_cell_reads(tmp_path: Path) -> None:
    """So that a number is the same whether a stage was computed or taken: JSON has no tuples and no infinity."""
    work = Work(pair=(1, 2), many={3: 4}, endless=float("inf"), exact=1 / 3)
    first, second = (memo(tmp_path).get(STAGE, work).facts for _ in range(2))
    assert first == second == {"pair": [1, 2], "many": {"3": 4}, "endless": None, "exact": 1 / 3}


OTHERS = {
    "model": ({"model": 9}, STAGE),
    "recipe": ({"recipe": 9}, replace(STAGE, irrelevant=("filter",))),
    "groups": ({}, replace(STAGE, irrelevant=("filter",))),
    "name": ({}, replace(STAGE, name="warm")),
    "settings": ({}, replace(STAGE, settings=(("epochs", 2),))),
    "value": ({}, replace(STAGE, settings=(("epochs", 3),))),
    "setting": ({}, replace(STAGE, settings=(("share", 3),))),
    "none": ({}, replace(STAGE, settings=(("epochs", None),))),
    "parent": ({}, replace(STAGE, parent=Stage("base"))),
    "parent's settings": ({}, replace(STAGE, parent=Stage("base", settings=(("epochs", 2),)))),
    "parent's irrelevant keys": ({}, replace(STAGE, parent=Stage("base", irrelevant=("recipe",)))),
    "grandparent": ({}, replace(STAGE, parent=Stage("base", Stage("first")))),
}


def test_another_key_or_another_stage_is_another_folder(tmp_path: Path) -> None:
    folders = {memo(tmp_path).directory(STAGE)}
    for config, stage in OTHERS.values():
        folders.add(memo(tmp_path, **config).directory(stage))
    assert len(folders) == len(OTHERS) + 1
    assert not (tmp_path / ".stages").exists(), "asking costs nothing"


@pytest.mark.parametrize("other", OTHERS)
def test_what_differs_is_not_taken(tmp_path: Path, other: str) -> None:
    config, stage = OTHERS[other]
    memo(tmp_path).get(STAGE, Work(a=1))
    work = Work(a=2)
    assert memo(tmp_path, **config).get(stage, work).facts == {"a": 2}
    assert memo(tmp_path).get(STAGE, Work()).facts == {"a": 1}
    assert work.done == 1


def test_what_a_stage_does_not_depend_on_does_not_change_its_folder(tmp_path: Path) -> None:
    folders = [memo(tmp_path, recipe=value, filter=value).directory(STAGE) for value in (1, 2)]
    assert folders[0] == folders[1]
    assert folders[0].name.startswith("train-")
    assert len(folders[0].name) == len("train-") + records.ID_LENGTH


def test_a_stage_depends_on_what_its_parent_depends_on(tmp_path: Path) -> None:
    child = Stage("retrain", Stage("train", irrelevant=("filter",)), irrelevant=("recipe", "filter"))
    folders = [memo(tmp_path, **config).directory(child) for config in ({}, {"recipe": 9}, {"filter": 9})]
    assert folders[0] == folders[2] != folders[1]


def test_a_setting_takes_the_place_of_the_configs(tmp_path: Path) -> None:
    deeper = Stage("base", settings=(("model", 3),))
    assert len({memo(tmp_path, model=depth).directory(deeper) for depth in (1, 2, 3)}) == 1
    assert memo(tmp_path).directory(deeper) != memo(tmp_path).directory(Stage("base", settings=(("model", 4),)))


# -- one at a time -----------------------------------------------------------------------------------------------------


@pytest.fixture
def held_by_a_thread(tmp_path: Path) -> Iterator[Path]:
    directory = memo(tmp_path).directory(STAGE)
    directory.mkdir(parents=True)
    lock, taken, enough = FileLock(directory / records.LOCK, thread_local=False), threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            enough.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(60)
    yield directory
    enough.set()
    thread.join()


def test_a_stage_that_is_being_computed_is_busy(tmp_path: Path, held_by_a_thread: Path) -> None:
    work, message = Work(), rf"^train \({held_by_a_thread.name}\) is being computed by another cell$"
    with pytest.raises(StageBusy, match=message):
        memo(tmp_path).get(STAGE, work)
    with pytest.raises(StageBusy, match=message):
        memo(tmp_path).check(STAGE)
    assert work.done == 0
    memo(tmp_path, model=5).check(STAGE)
    assert memo(tmp_path, model=5).get(STAGE, work).facts == work.facts


def test_a_finished_stage_is_taken_whoever_holds_its_lock(tmp_path: Path) -> None:
    memo(tmp_path).get(STAGE, Work(a=1))
    with FileLock(memo(tmp_path).directory(STAGE) / records.LOCK):
        memo(tmp_path).check(STAGE)
        assert memo(tmp_path).get(STAGE, Work(a=2)).facts == {"a": 1}


HOLD = """
import sys
from filelock import FileLock
with FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_another_process_counts_until_it_is_gone(tmp_path: Path) -> None:
    directory = memo(tmp_path).directory(STAGE)
    directory.mkdir(parents=True)
    line = [sys.executable, "-c", HOLD, str(directory / records.LOCK)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(StageBusy):
            memo(tmp_path).get(STAGE, Work())
        with pytest.raises(StageBusy):
            memo(tmp_path).check(STAGE)
        process.kill()
        process.wait()
    memo(tmp_path).check(STAGE)
    assert memo(tmp_path).get(STAGE, Work(a=1)).facts == {"a": 1}


def test_while_a_stage_is_computed_others_wait(tmp_path: Path) -> None:
    def work(directory: Path) -> dict[str, Any]:
        for ask in (lambda: memo(tmp_path).get(STAGE, Work()), lambda: memo(tmp_path).check(STAGE)):
            with pytest.raises(StageBusy):
                ask()
        return {"a": 1}

    assert memo(tmp_path).get(STAGE, work).facts == {"a": 1}
    memo(tmp_path).check(STAGE)


def test_one_that_ends_between_two_looks_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may finish after the result was found missing and before the lock is free."""
    real, looks = records.read_result, []

    def read(directory: Path, name: str) -> dict[str, Any] | None:
        looks.append(directory)
        found = real(directory, name)
        if len(looks) == 1:
            records.write_result(directory, {"a": 1}, name)
        return found

    monkeypatch.setattr(records, "read_result", read)
    work = Work()
    assert memo(tmp_path).get(STAGE, work).facts == {"a": 1}
    assert work.done == 0


def test_looking_leaves_the_lock_free_and_makes_nothing(tmp_path: Path) -> None:
    memo(tmp_path).check(STAGE)
    assert not (tmp_path / ".stages").exists()
    memo(tmp_path).directory(STAGE).mkdir(parents=True)
    for _ in range(2):
        memo(tmp_path).check(STAGE)
    with FileLock(memo(tmp_path).directory(STAGE) / records.LOCK, blocking=False):
        pass


# -- never half --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["truncate", "flip", "delete", "empty"])
def test_a_damaged_result_is_computed_again(tmp_path: Path, damage: str) -> None:
    path = memo(tmp_path).get(STAGE, Work(a=1)).directory / records.STAGE
    text = path.read_text()
    if damage == "delete":
        path.unlink()
    else:
        path.write_text({"truncate": text[:20], "flip": text.replace('"a": 1', '"a": 7'), "empty": ""}[damage])
    work = Work(a=2)
    assert memo(tmp_path).get(STAGE, work).facts == {"a": 2}
    assert memo(tmp_path).get(STAGE, work).facts == {"a": 2}
    assert work.done == 1


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
def test_work_that_breaks_off_leaves_no_result_and_no_lock(tmp_path: Path, error: BaseException) -> None:
    def work(directory: Path) -> dict[str, Any]:
        (directory / records.RESUME_CHECKPOINT).parent.mkdir()
        (directory / records.RESUME_CHECKPOINT).write_text("half")
        raise error

    with pytest.raises(type(error)):
        memo(tmp_path).get(STAGE, work)
    directory = memo(tmp_path).directory(STAGE)
    assert not (directory / records.STAGE).exists()
    assert (directory / records.RESUME_CHECKPOINT).exists(), "the work goes on from there"
    memo(tmp_path).check(STAGE)
    done = Work(a=1)
    assert memo(tmp_path).get(STAGE, done).facts == {"a": 1}
    assert done.done == 1
    assert not (directory / records.RESUME_CHECKPOINT).exists()


def test_a_finished_stage_leaves_its_lock_free(tmp_path: Path) -> None:
    directory = memo(tmp_path).get(STAGE, Work()).directory
    with FileLock(directory / records.LOCK, blocking=False):
        pass
