"""Which cells the same command runs again, and which it leaves."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from capsexp import cli, records
from capsexp.callbacks.history import History
from tests.conftest import quick_words, results, write_tiny_npz

Run = Callable[..., int]
CellOutcome = Callable[..., list[Path]]

SWEEP = ("model.c2=2,3,4", "trainer.max_epochs=1", "-m")


@pytest.fixture(scope="module")
def all_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a sweep of four cells leaves; every test gets a copy."""
    folder = tmp_path_factory.mktemp("all_done")
    words = quick_words(write_tiny_npz(folder))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CAPSEXP_CACHE", str(folder / "cache"))
        assert cli.main([*words, "model.c2=2,3,4,5", "trainer.max_epochs=1", "-m"]) == 0
    return folder / "multirun"


@pytest.fixture
def ended(all_done: Path, in_tmp: Path) -> CellOutcome:
    """``ended(2, 3)``: the sweep's folder with the ended cells of these c2, which are given back."""

    def make(*wanted: int) -> list[Path]:
        shutil.copytree(all_done, in_tmp / "multirun")
        for cell in cells(in_tmp):
            if int(cell.name[3:5]) not in wanted:
                shutil.rmtree(cell)
        return cells(in_tmp)

    return make


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cells that were trained, in order: ``c2-02``, ..."""
    names: list[str] = []
    original = History.on_fit_start

    def note(self: History, trainer: object, module: object) -> None:
        names.append(Path(trainer.default_root_dir).name[:5])  # type: ignore[attr-defined]
        original(self, trainer, module)  # type: ignore[arg-type]

    monkeypatch.setattr(History, "on_fit_start", note)
    return names


def cells(folder: Path) -> list[Path]:
    return sorted(records.cell_directories(folder / "multirun" / "adhoc").values())


def make_stale(cell: Path) -> None:
    body = records.read_result(cell)
    assert body is not None
    records.write_result(cell, {**body, "numerics": 0})


def make_failed(cell: Path) -> None:
    (cell / records.RESULT).unlink()
    status = records.read_status(cell)
    assert status is not None
    records.write_status(cell, status.now("failed", "RuntimeError: x", "exception"))


def test_by_default_what_failed_or_is_missing_and_nothing_else(
    run: Run, quick: list[str], ended: CellOutcome, begun: list[str]
) -> None:
    first, second, third = ended(2, 3, 4)
    make_stale(first)
    make_failed(second)
    (third / records.RESULT).unlink()
    assert run(*quick, *SWEEP) == 0
    assert begun == ["c2-03", "c2-04"]
    body = records.read_result(first)
    assert body is not None
    assert records.is_stale(body)


RERUNS = {
    "null": ("null", ["c2-04"], 1),
    "stale": ("stale", ["c2-02", "c2-04"], 1),
    "failed": ("failed", ["c2-03", "c2-04"], 0),
    "failed and stale": ("[failed,stale]", ["c2-02", "c2-03", "c2-04"], 0),
    "all": ("all", ["c2-02", "c2-03", "c2-04", "c2-05"], 0),
    "ids": ("[{first},{last}]", ["c2-02", "c2-04", "c2-05"], 1),
    "one id": ("{second}", ["c2-03", "c2-04"], 0),
}


LONG = ("stale", "failed", "one id")
"""What the others have, too, with more."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in RERUNS]
)
def test_what_is_asked_for(name: str, run: Run, quick: list[str], ended: CellOutcome, begun: list[str]) -> None:
    """c2=2 is stale, 3 failed, 4 missing, 5 done."""
    rerun, expected, code = RERUNS[name]
    sweep = ("model.c2=2,3,4,5", "trainer.max_epochs=1", "-m")
    first, second, third, last = ended(2, 3, 4, 5)
    make_stale(first)
    make_failed(second)
    (third / records.RESULT).unlink()
    asked = rerun.format(first=first.name[-10:], second=second.name[-10:], last=last.name[-10:])
    assert run(*quick, *sweep, f"sweep.rerun={asked}") == code
    assert begun == expected
    again = [cell for cell in (first, last) if cell.name[:5] in expected]
    assert all((cell / records.PREVIOUS_RESULT).exists() for cell in again)


def test_a_rerun_that_is_cut_short_goes_on_without_the_word(
    run: Run, quick: list[str], in_tmp: Path, ended: CellOutcome, begun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(2, 3, 4)
    before = results(in_tmp)
    with monkeypatch.context() as patched:
        patched.setattr(History, "on_fit_end", _interrupt_at("c2-03"))
        assert run(*quick, *SWEEP, "sweep.rerun=all") == 130
    assert begun == ["c2-02", "c2-03"]
    assert run(*quick, *SWEEP) == 0
    assert begun == ["c2-02", "c2-03", "c2-03", "c2-04"]
    assert {name: {**body, "clocks": None} for name, body in results(in_tmp).items()} == {
        name: {**body, "clocks": None} for name, body in before.items()
    }


def _interrupt_at(name: str) -> Callable[..., None]:
    def hook(_self: object, trainer: object, _module: object) -> None:
        if Path(trainer.default_root_dir).name.startswith(name):  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    return hook


def test_a_single_cell_too(run: Run, quick: list[str], in_tmp: Path, begun: list[str]) -> None:
    for more in ((), (), ("sweep.rerun=all",), ()):
        assert run(*quick, "trainer.max_epochs=1", *more) == 0
    assert len(begun) == 2


@pytest.mark.parametrize("word", ["everything", "0123456789", "[failed,none]"])
def test_other_words_are_refused(
    word: str, run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*quick, *SWEEP, f"sweep.rerun={word}") == 2
    told = capsys.readouterr().err
    assert told.startswith("capsexp: error: sweep.rerun must be failed, stale, all, ids of planned cells")
    assert results(in_tmp) == {}


REFUSED = (
    ["hydra.launcher.max_cells=0"],
    ["hydra.launcher.gpus=[97]", "trainer.accelerator=auto"],
    ["hydra.sweeper.max_batch_size=2"],
    ["sweep.rerun=[all,some]"],
)


@pytest.mark.parametrize("words", REFUSED)
def test_a_refused_command_changes_nothing(
    words: list[str], run: Run, quick: list[str], in_tmp: Path, ended: CellOutcome, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(2, 3, 4)
    before = {path: path.read_bytes() for path in in_tmp.rglob("*") if path.is_file()}
    more = words if words[0].startswith("sweep.rerun") else [*words, "sweep.rerun=all"]
    capsys.readouterr()
    assert run(*quick, "model.c2=2,9", "trainer.max_epochs=1", "-m", "hydra/launcher=capsexp", *more) == 2
    assert words[0].partition("=")[0] in capsys.readouterr().err
    assert {path: path.read_bytes() for path in in_tmp.rglob("*") if path.is_file()} == before


def test_cells_that_failed_and_are_left_alone_start_no_worker(
    run: Run, quick: list[str], ended: CellOutcome, capsys: pytest.CaptureFixture[str]
) -> None:
    for cell in ended(2, 3, 4):
        make_failed(cell)
    capsys.readouterr()
    assert run(*quick, *SWEEP, "hydra/launcher=capsexp", "sweep.rerun=null") == 1
    told = capsys.readouterr().out
    assert "3 cells, 3 failed before, not tried again (sweep.rerun=failed does)" in told
    assert "running" not in told
