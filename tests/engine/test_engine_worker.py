"""Inside a worker: where its output goes, which warnings come out, and how the process is left."""

import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from capsexp import interruption, records
from capsexp.cell import Cell, Ended
from capsexp.engine import worker
from capsexp.engine.options import Layout, Options
from capsexp.engine.progress import Progress
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
    heard.said = progress.said  # type: ignore[method-assign]
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

    def does(_: Cell) -> Ended:
        os.write(1, b"to the log\n")
        raise ValueError("unexpected")

    with pytest.raises(ValueError, match="unexpected"):
        worker.run(does, cell)
    assert _descriptors() == before
    assert logging.getLogger().handlers == handlers
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    os.write(1, b"to the terminal\n")
    assert capfd.readouterr().out == ("to the log\n" if blocked else "") + "to the terminal\n"
    if not blocked:
        assert (cell.directory / records.LOG).read_text() == "to the log\n"


def test_the_report_of_a_cell(cell: Cell) -> None:
    def does(_: Cell) -> Ended:
        for name in ("capsexp.data", "capsexp", "elsewhere", "capsexp.trace", "capsexp.data"):
            logging.getLogger(name).warning("from %s", name)
        logging.getLogger("capsexp").info("no warning")
        return Ended(records.Status("done", cell.id), "done")

    report = worker.run(does, cell)
    assert report.ended.words == "done"
    assert report.warnings == ("from capsexp.data", "from capsexp")


def test_an_interrupted_cell_is_reported_as_one(cell: Cell) -> None:
    def stopped(_: Cell) -> Ended:
        records.write_status(cell.directory, records.Status("interrupted", cell.id, cause="stopped by the user"))
        raise KeyboardInterrupt

    assert worker.run(stopped, cell).ended.status.cause == "stopped by the user"
    (cell.directory / records.STATUS).unlink()
    assert worker.run(stopped, cell).ended.status.state == "interrupted"


def test_the_wish_to_stop_is_asked_of_the_last_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_sources", [])
    assert not interruption.requested()
    flag = {"up": False}
    interruption.listen(lambda: flag["up"])
    assert not interruption.requested()
    flag["up"] = True
    assert interruption.requested()
    interruption.listen(lambda: False)
    assert not interruption.requested()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread watches")
def test_a_worker_whose_parent_is_gone_already_does_not_begin() -> None:
    script = "from capsexp.engine.worker import start; start(1, {}, None, False); raise SystemExit(5)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 1


def test_a_worker_is_prepared_before_torch() -> None:
    """What torch reads when it is imported must be there by then."""
    script = (
        "import os, sys, ctypes; from capsexp.engine.worker import start;"
        "start(os.getppid(), {'CUDA_VISIBLE_DEVICES': '6', 'OMP_NUM_THREADS': '3'}, ctypes.c_byte(1), False);"
        "from capsexp import interruption;"
        "assert 'torch' not in sys.modules and interruption.requested();"
        "assert (os.environ['CUDA_VISIBLE_DEVICES'], os.environ['OMP_NUM_THREADS']) == ('6', '3');"
        "from types import SimpleNamespace as Fake;"
        "sys.modules['torch'] = Fake(cuda=Fake(is_initialized=lambda: False));"
        "start(os.getppid(), {}, ctypes.c_byte(0), False);"  # the user's script has imported it
        "sys.modules['torch'] = Fake(cuda=Fake(is_initialized=lambda: True));"
        "start(os.getppid(), {}, ctypes.c_byte(0), False)"
    )
    ended = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert ended.stderr.splitlines()[-1].startswith("AssertionError: a worker's environment must be set before CUDA")


def test_only_the_real_cells_make_workers_import_torch_early(monkeypatch: pytest.MonkeyPatch) -> None:
    from capsexp import cell as cell_life
    from capsexp.engine import crew

    warm = [crew.Crew(None, 1, 1, None, does, None)._make.args[3][3] for does in (cell_life.run, work.run)]
    assert warm == [True, False]
