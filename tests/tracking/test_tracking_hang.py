"""A Weights & Biases that never answers costs a bounded time, never the cell, and not again for every cell."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch.loggers  # noqa: F401 - so that no test's time has its import
import pytest
import wandb  # noqa: F401

from capsexp import tracking
from capsexp.tracking import guard
from capsexp.tracking.deadline import Budget, Call, HungError

STAGES = ("init", "config", "log", "summary", "finish")
LIMIT = 0.8
SLACK = 10.0  # a bound beyond the limit that also a busy machine keeps
BODY: dict[str, Any] = {"metrics": {"test/acc": 0.5}, "params": 1, "params_paper": 1, "training": {"epochs": 1}}


class Fake:
    """A run whose stages do as they are told: nothing, raise, or never return."""

    def __init__(self, where: dict[str, str], folder: Path) -> None:
        self.where, self.calls, self.id, self.dir = where, list[str](), "id", str(folder / "run-1" / "files")
        Path(self.dir).mkdir(parents=True, exist_ok=True)
        self.config, self.summary = Part(self, "config"), Part(self, "summary")

    def act(self, stage: str) -> None:
        self.calls.append(stage)
        how = self.where.get(stage, "")
        if how == "hang and be stopped":
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        if how.startswith("hang"):
            threading.Event().wait()
        if how == "raise":
            raise ConnectionError(f"no {stage}")
        if how == "interrupt":
            raise KeyboardInterrupt
        if how == "exit":
            sys.exit(-9)

    def log(self, *_: Any, **__: Any) -> None:
        self.act("log")

    def finish(self, **_: Any) -> None:
        self.act("finish")
        if "slow" in self.where:  # as wandb itself gives up
            time.sleep(float(self.where["slow"]))
            raise TimeoutError("timed out")


class Part:
    """The config or the summary of a run."""

    def __init__(self, run: Fake, stage: str) -> None:
        self.run, self.stage = run, stage

    def update(self, *_: Any, **__: Any) -> None:
        self.run.act(self.stage)


class Cells:
    """Cells in a row, each with a fake run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.runs = folder, list[str](), list[Fake]()
        self.where: dict[str, str] = {}
        self.mode = "online"
        self.limit = LIMIT
        self.hung = 0
        """How often a call was waited for in vain."""

    def init(self, about: Any, options: Any, mode: str, seconds: float) -> Fake:
        self.asked.append(mode)
        run = Fake(self.where if mode == self.mode else {}, self.folder / f"{len(self.runs)}")
        run.act("init")
        self.runs.append(run)
        return run

    def cell(self) -> float:
        """The seconds that one cell takes."""
        began = time.monotonic()
        with self.opened() as logger:
            if logger is not None:
                logger.log_hyperparams({"a": 1})
                for step in range(3):
                    logger.log_metrics({"a": step}, step)
            tracking.summarise(logger, BODY, {"a": 1})
        return time.monotonic() - began

    def opened(self) -> AbstractContextManager[Any]:
        options = {"mode": self.mode, "timeout_s": self.limit, "project": "p", "entity": None}
        config = {"logger": {"wandb": options}, "sweep": {"name": "s"}}
        return tracking.wandb_run(tracking.About(config, self.folder, "0123456789", {"a": 1}))

    def together(self, count: int) -> float:
        """The seconds for cells that are trained as a stack: their runs are open at the same time."""
        began = time.monotonic()
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(self.opened())
        return time.monotonic() - began


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cells]:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(guard, "process", guard.Process())
    monkeypatch.setattr("capsexp.tracking.run.process", guard.process)
    # a user's must be 1 at least
    monkeypatch.setattr("capsexp.tracking.options.require_number", lambda _key, seconds, _least: seconds)
    made, answer = Cells(tmp_path), Call.answer

    def counted(call: Call[Any], seconds: float) -> Any:
        try:
            return answer(call, seconds)
        except HungError:
            made.hung += 1
            raise

    monkeypatch.setattr(Call, "answer", counted)
    monkeypatch.setattr(guard, "_init", made.init)
    return made


def mark_of(run: Fake) -> str | None:
    """What marks a run for ``sync``."""
    mark = Path(run.dir).parent / guard.UNSENT
    return mark.read_text() if mark.exists() else None


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_healthy_run_gets_everything(cells: Cells, caplog: pytest.LogCaptureFixture) -> None:
    cells.limit = 60.0
    cells.cell()
    assert cells.runs[0].calls == ["init", "config", "log", "log", "log", "summary", "finish"]
    assert mark_of(cells.runs[0]) is None
    assert warnings(caplog) == []


@pytest.mark.parametrize("stage", STAGES)
def test_a_hang_costs_the_limit_once_and_then_cells_go_on_offline(
    cells: Cells, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cells.where = {stage: "hang"}
    assert cells.cell() < LIMIT + SLACK
    cells.limit = 60.0
    for _ in range(3):
        assert cells.cell() < SLACK
    assert cells.hung == 1
    assert cells.asked == ["online"] + ["offline"] * (4 if stage == "init" else 3)
    (said,) = warnings(caplog)
    assert said.startswith(f"Weights & Biases cannot be reached ({stage}: no answer within ")
    assert (stage == "init") or mark_of(cells.runs[0]) == ""


def test_members_of_a_stack_wait_once_for_a_server_that_takes_nothing(
    cells: Cells, caplog: pytest.LogCaptureFixture
) -> None:
    cells.where, cells.limit = {"slow": "0.5"}, 4.0
    assert 0.5 < cells.together(30) < 4.0, "30 waits would be 15 s"
    assert [mark_of(run) for run in cells.runs] == [""] * 30
    assert [run.calls for run in cells.runs] == [["init", "finish"]] * 30
    assert len(warnings(caplog)) == 1
    assert cells.cell() < SLACK
    assert cells.asked == ["online"] * 30 + ["offline"]


def test_a_wandb_that_hangs_is_waited_for_once_by_a_stack(cells: Cells) -> None:
    cells.where = {"finish": "hang"}
    assert cells.together(20) < 2 * LIMIT + SLACK, "twice: the first, and the others together"
    assert len(cells.runs) == 20
    assert guard.process.ending == []


def test_members_of_a_stack_share_the_limit_for_slow_answers(
    cells: Cells, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    init = cells.init

    def slow(about: Any, options: Any, mode: str, seconds: float) -> Fake:
        time.sleep(0.3 if mode == "online" else 0)
        return init(about, options, mode, seconds)

    monkeypatch.setattr(guard, "_init", slow)
    cells.limit = 2.0
    cells.together(20)
    online = cells.asked.count("online")
    assert cells.asked == ["online"] * online + ["offline"] * (20 - online)
    assert 2 <= online <= 6, "half of the limit, in answers that take 0.2 s longer than a prompt one"
    assert [mark_of(run) for run in cells.runs] == [None] * 20, "all ended well"
    assert "its answers took 1 s" in "".join(warnings(caplog))


def test_cells_in_a_row_do_not_share_it(cells: Cells, monkeypatch: pytest.MonkeyPatch) -> None:
    init = cells.init

    def slow(*words: Any) -> Fake:
        time.sleep(0.7)
        return init(*words)

    monkeypatch.setattr(guard, "_init", slow)
    monkeypatch.setattr(Fake, "finish", lambda *_, **__: time.sleep(0.5))
    cells.limit = 2.0
    for _ in range(2):
        cells.cell()
    assert cells.asked == ["online"] * 2
    assert guard.process.most == "online"


def test_a_run_is_marked_until_it_has_ended_well(cells: Cells) -> None:
    """So that ``sync`` finds the run of a process that was killed, and one whose wandb-core was."""
    cells.limit = 60.0
    with cells.opened():
        assert mark_of(cells.runs[0]) == guard.OPEN
    assert mark_of(cells.runs[0]) is None
    cells.where = {"log": "raise", "finish": "raise"}
    cells.cell()
    assert mark_of(cells.runs[1]) == ""
    cells.mode, cells.where = "offline", {}
    cells.cell()
    assert mark_of(cells.runs[2]) is None


@pytest.mark.parametrize("stage", STAGES)
def test_one_that_hangs_offline_is_done_without(cells: Cells, stage: str, caplog: pytest.LogCaptureFixture) -> None:
    cells.mode, cells.where = "offline", {stage: "hang"}
    assert cells.cell() < LIMIT + SLACK
    cells.limit = 60.0
    assert cells.cell() < SLACK
    assert cells.hung == 1
    assert cells.asked == ["offline"]
    (said,) = warnings(caplog)
    assert said.startswith(f"Weights & Biases hangs even offline ({stage}: ")


def test_hangs_of_one_cell_share_one_limit(cells: Cells) -> None:
    cells.where = {"init": "hang"}
    init = cells.init

    def both(*words: Any) -> Fake:
        run = init(*words)
        run.where = {"finish": "hang"}
        return run

    guard._init = both  # type: ignore[assignment]  # put back by the fixture
    assert cells.cell() < LIMIT + SLACK
    assert cells.hung == 2
    assert cells.asked == ["online", "offline"]
    assert guard.process.most == "disabled"


@pytest.mark.parametrize("how", ["raise", "exit"])
@pytest.mark.parametrize("stage", STAGES[1:])
def test_one_that_raises_costs_one_warning_a_process(
    cells: Cells, stage: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    cells.where, cells.limit = {stage: how, "finish": how}, 60.0
    cells.cell()
    cells.cell()
    assert cells.asked == ["online", "online"]
    assert cells.runs[1].calls.count(stage) == 1
    (said,) = warnings(caplog)
    assert said.startswith(f"Weights & Biases failed in {stage}: ")


def test_one_that_cannot_even_begin_offline_is_done_without(cells: Cells, caplog: pytest.LogCaptureFixture) -> None:
    cells.mode, cells.where, cells.limit = "offline", {"init": "raise"}, 60.0
    cells.cell()
    cells.cell()
    assert [said.partition(" (")[0] for said in warnings(caplog)] == ["Weights & Biases failed in init: no init"]


def test_without_a_login_nobody_is_asked_for_one(
    cells: Cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    cells.limit = 60.0
    cells.cell()
    cells.cell()
    assert cells.asked == ["offline", "offline"]
    assert ["there is no login" in said for said in warnings(caplog)] == [True]


@pytest.mark.parametrize("stage", STAGES)
def test_an_interrupt_passes_through(cells: Cells, stage: str) -> None:
    cells.where, cells.limit = {stage: "interrupt"}, 60.0
    with pytest.raises(KeyboardInterrupt):
        cells.cell()


def test_an_interrupt_while_wandb_hangs_does_not_wait(cells: Cells) -> None:
    cells.where, cells.limit = {"log": "hang and be stopped"}, 60.0
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        cells.cell()
    assert time.monotonic() - began < 30
    assert cells.runs[0].calls[-1] == "finish"


def test_a_budget_is_spent_by_what_it_waits_for() -> None:
    budget = Budget(2.0, kept=1.5)
    assert budget.spend(lambda: 7) == 7
    with pytest.raises(HungError, match="no answer"):
        budget.spend(lambda: time.sleep(5))
    with pytest.raises(HungError, match="no time left"):
        budget.spend(lambda: 7)
    assert budget.spend_all(lambda: 8) == 8
