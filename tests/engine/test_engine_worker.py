"""Inside a worker: where its output goes, which warnings come out, and how the process is left."""

import io
import logging
import os
import pickle
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from capsexp import cell as cell_life
from capsexp import records, stop_request
from capsexp.cell import Cell, CellOutcome
from capsexp.engine import worker
from capsexp.engine.options import Layout, Options
from capsexp.engine.progress import Progress
from capsexp.stacking.grouping import Settings
from tests.engine import work
from tests.engine.sweeps import Heard, cells_in, run_sweep, status_of

ONE = Layout((None,), 1, 1, 1)


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Cell]:
    """A cell to be done in this process, which is left as it was."""
    handler = signal.getsignal(signal.SIGINT)
    yield cells_in(tmp_path, 1)[0]
    signal.signal(signal.SIGINT, handler)


def test_output_goes_into_the_log_and_warnings_come_out_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cells, lines = cells_in(tmp_path, 4, faults=["noisy"]), io.StringIO()
    progress = Progress(4, 0, 1, lines)
    heard = Heard()
    heard.message = progress.message  # type: ignore[method-assign]
    run_sweep(cells, ONE, heard)
    assert capfd.readouterr() == ("", "")
    assert lines.getvalue() == "the cache is\tslow\n"
    for each in cells:
        log = (each.directory / records.LOG).read_text()
        for said in ("said by print", "said to stderr", "written to fd 1", "written to fd 2", "a Python warning"):
            assert log.count(f"{said}\n") == 1, said
        assert "WARNING capsexp.data: the cache is\tslow" in log
        assert "INFO capsexp.data: of no interest" in log
        assert "ERROR capsexp.trace: a traceback" in log
        assert "WARNING elsewhere: not ours" in log


def test_a_crash_leaves_its_trace_in_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (crashing,) = cells_in(tmp_path, 1, faults=["segfault"])
    run_sweep([crashing], ONE, Heard(), Options(retries=0))
    status = status_of(crashing)
    assert (status.state, status.kind) == ("failed", "signal")
    assert status.cause == "its process was killed by SIGSEGV"
    assert "Fatal Python error: Segmentation fault" in (crashing.directory / records.LOG).read_text()
    assert capfd.readouterr() == ("", "")


def _descriptors() -> dict[str, str]:
    folder, found = Path("/proc/self/fd"), {}
    for entry in os.listdir(folder):  # noqa: PTH208 - a Path for each would open more
        try:
            found[entry] = str((folder / entry).readlink())
        except OSError:
            continue
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("blocked", [False, True])
def test_the_process_is_left_as_it_was(cell: Cell, capfd: pytest.CaptureFixture[str], blocked: bool) -> None:
    """Also where the log cannot be written: then the output stays where it was."""
    if blocked:
        cell.directory.write_text("a file in the way")
    before, handlers = _descriptors(), list(logging.getLogger().handlers)

    def does(_: Cell) -> CellOutcome:
        os.write(1, b"to the log\n")
        raise ValueError("unexpected")

    with pytest.raises(ValueError, match="unexpected"):
        worker.CellWork(run_cell=does)((cell,))
    assert _descriptors() == before
    assert logging.getLogger().handlers == handlers
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    os.write(1, b"to the terminal\n")
    assert capfd.readouterr().out == ("to the log\n" if blocked else "") + "to the terminal\n"
    if not blocked:
        assert (cell.directory / records.LOG).read_text() == "to the log\n"


def test_the_report_of_a_cell(cell: Cell) -> None:
    def does(_: Cell) -> CellOutcome:
        for name in ("capsexp.data", "capsexp", "elsewhere", "capsexp.trace", "capsexp.data"):
            logging.getLogger(name).warning("from %s", name)
        logging.getLogger("capsexp").info("no warning")
        return CellOutcome(records.Status("done", cell.id), "done")

    report = worker.CellWork(run_cell=does)((cell,))
    assert report.outcomes[cell.id].words == "done"
    assert report.warnings == ("from capsexp.data", "from capsexp")


def test_an_interrupted_cell_is_reported_as_one(cell: Cell) -> None:
    def stopped(_: Cell) -> CellOutcome:
        records.write_status(cell.directory, records.Status("interrupted", cell.id, cause="stopped by the user"))
        raise KeyboardInterrupt

    assert worker.CellWork(run_cell=stopped)((cell,)).outcomes[cell.id].status.cause == "stopped by the user"
    (cell.directory / records.STATUS).unlink()
    assert worker.CellWork(run_cell=stopped)((cell,)).outcomes[cell.id].status.state == "interrupted"


def test_the_report_of_a_group(tmp_path: Path, cell: Cell, capfd: pytest.CaptureFixture[str]) -> None:
    group, given = tuple(cells_in(tmp_path, 3)), Settings("loop", 2)

    def together(cells: Sequence[Cell], ended: Callable[[Cell, CellOutcome], None], settings: Settings) -> None:
        assert (cells, settings) == (group, given)
        logging.getLogger("capsexp.data").warning("heard")
        os.write(1, b"printed\n")
        for each in reversed(cells):
            ended(each, CellOutcome(records.Status("done", each.id), f"done {each.id}"))

    report = worker.CellWork(given, run_stack=together)(group)
    assert {key: ended.words for key, ended in report.outcomes.items()} == {
        each.id: f"done {each.id}" for each in group
    }
    assert report.warnings == ("heard",)
    assert (group[0].directory / records.LOG).read_text() == "printed\n"
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("error", [RuntimeError("no\nroom"), KeyboardInterrupt(), SystemExit(1)])
def test_the_report_of_a_group_that_was_left(tmp_path: Path, cell: Cell, error: BaseException) -> None:
    """By an error of nobody's own: the others are to run again.  By a wish to stop: they are interrupted."""
    group = tuple(cells_in(tmp_path, 2))

    def together(cells: Sequence[Cell], ended: Callable[[Cell, CellOutcome], None], _: Settings) -> None:
        ended(cells[0], CellOutcome(records.Status("done", cells[0].id), "done"))
        raise error

    report = worker.CellWork(run_stack=together)(group)
    states = {key: ended.status.state for key, ended in report.outcomes.items()}
    if isinstance(error, RuntimeError):
        assert states == {group[0].id: "done"}
        log = group[0].directory / records.LOG
        assert report.warnings == (f"a stack broke (RuntimeError: no room; see {log})",)
    else:
        assert states == {group[0].id: "done", group[1].id: "interrupted"}


def test_a_stack_lives_its_cells_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interrupted one raises ends no other."""
    group, ended, fake = cells_in(tmp_path, 3), dict[str, CellOutcome](), types.ModuleType("capsexp.stacking.scheduler")

    def live(each: Cell) -> CellOutcome:
        if each is group[1]:
            raise KeyboardInterrupt
        return CellOutcome(records.Status("done", each.id), "done")

    def stacked(
        cells: Sequence[Cell],
        tell: Callable[[Cell, CellOutcome], None],
        given: Settings,
        work: Callable[[Cell], CellOutcome],
    ) -> None:
        assert given == Settings("vmap")
        for each in cells:
            tell(each, work(each))

    fake.run = stacked  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "capsexp.stacking.scheduler", fake)
    monkeypatch.setattr(cell_life, "run", live)
    worker.run_stack(group, lambda each, how: ended.__setitem__(each.id, how), Settings("vmap"))
    assert [ended[each.id].status.state for each in group] == ["done", "interrupted", "done"]


def test_the_wish_to_stop_is_asked_of_the_last_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stop_request, "_sources", [])
    assert not stop_request.requested()
    flag = {"up": False}
    stop_request.listen(lambda: flag["up"])
    assert not stop_request.requested()
    flag["up"] = True
    assert stop_request.requested()
    stop_request.listen(lambda: False)
    assert not stop_request.requested()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread watches")
def test_a_worker_whose_parent_is_gone_already_does_not_begin() -> None:
    script = "from capsexp.engine.worker import start; start(1, {}, None, b''); raise SystemExit(5)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 1


def test_a_worker_is_prepared_before_torch() -> None:
    """What torch reads when it is imported must be there by then."""
    script = (
        "import os, sys, ctypes, pickle; from capsexp.engine.worker import start;"
        "from tests.engine.work import FakeWork; WORK = pickle.dumps(FakeWork());"
        "start(os.getppid(), {'CUDA_VISIBLE_DEVICES': '6', 'OMP_NUM_THREADS': '3'}, ctypes.c_byte(1), WORK);"
        "from capsexp import stop_request;"
        "assert 'torch' not in sys.modules and stop_request.requested();"
        "assert (os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS']) == ('6', '3');"
        "from types import SimpleNamespace as Fake;"
        "sys.modules['torch'] = Fake(cuda=Fake(is_initialized=lambda: False));"
        "start(os.getppid(), {}, ctypes.c_byte(0), WORK);"  # the user's script has imported it
        "sys.modules['torch'] = Fake(cuda=Fake(is_initialized=lambda: True));"
        "start(os.getppid(), {}, ctypes.c_byte(0), WORK)"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert ended.stderr.splitlines()[-1].startswith("AssertionError: a worker's environment must be set before CUDA")


@pytest.mark.slow
def test_the_real_work_imports_torch_before_it_is_asked_for() -> None:
    script = (
        "import os, sys, pickle, ctypes; from capsexp.engine import worker;"
        "worker.start(os.getppid(), {'CAPSEXP_TEST': 'set'}, ctypes.c_byte(0), pickle.dumps(worker.CellWork()));"
        "print('torch' in sys.modules, os.environ['CAPSEXP_TEST'])"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "set"]


def test_work_is_unpickled_in_the_workers_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it imports may read the environment."""
    seen: list[str | None] = []
    monkeypatch.setattr(worker, "_die_with", lambda _: None)
    monkeypatch.setattr(worker.gc, "freeze", lambda: None)
    monkeypatch.setenv("CAPSEXP_TEST", "before")
    monkeypatch.setattr(pickle, "loads", lambda _: seen.append(os.environ["CAPSEXP_TEST"]) or work.FakeWork())
    worker.start(0, {"CAPSEXP_TEST": "after"}, None, b"")
    stop_request._sources.clear()
    assert seen == ["after"]
