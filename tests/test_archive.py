"""A sweep carried to another machine: ``python -m capsexp.archive``."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from capsexp import records
from capsexp.analysis.write import write_report
from capsexp.archive import main
from tests.conftest import results

Run = Callable[..., int]


@pytest.fixture
def words(quick: list[str]) -> list[str]:
    return [word for word in quick if not word.startswith("sweep.name")] + ["sweep.name=own", "trainer.max_epochs=1"]


@pytest.fixture
def folder(in_tmp: Path) -> Path:
    return in_tmp / "multirun" / "own"


def reported(folder: Path, out: Path) -> dict[str, bytes]:
    write_report(folder, out)
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_a_restored_sweep_is_complete_and_reports_the_same(
    run: Run, words: list[str], folder: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "model.c2=2,3", "-m") == 0
    before, bodies = reported(folder, in_tmp / "before"), results(folder)
    assert main([str(folder), "kept/own.tar.xz"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("kept/own.tar.xz: 2 finished cells, 0.")
    shutil.rmtree(folder)
    assert main([str(folder), "kept/own.tar.xz", "--restore"]) == 0
    assert capsys.readouterr().out == f"{folder}: 2 cells restored\n"
    assert results(folder) == bodies
    assert not list(folder.rglob("*.ckpt"))
    assert run(*words, "model.c2=2,3", "-m") == 0
    assert capsys.readouterr().out.count("already done, not run again") == 2
    assert reported(folder, in_tmp / "after") == before
    assert not list(folder.parent.glob(".restore-*"))


def test_the_same_results_give_the_same_bytes(run: Run, words: list[str], folder: Path, in_tmp: Path) -> None:
    assert run(*words, "model.c2=2", "-m") == 0
    for name in ("one", "other"):
        assert main([str(folder), name]) == 0
    assert Path("one").read_bytes() == Path("other").read_bytes()


def test_two_halves_are_joined(
    run: Run, words: list[str], folder: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for half, values in (("one", "2,3"), ("other", "3,4")):
        assert run(*words, f"model.c2={values}", "-m") == 0
        assert main([str(folder), half]) == 0
        shutil.rmtree(folder)
    assert main([str(folder), "one", "--restore"]) == 0
    capsys.readouterr()
    assert main([str(folder), "other", "--restore"]) == 0
    assert capsys.readouterr().out == f"{folder}: 1 cell restored, 1 cell there already\n"
    plan = records.read_sweep(folder)
    assert plan is not None
    assert plan.axes == {"model.c2": [2, 3, 4]}
    assert [cell.axes["model.c2"] for cell in plan.cells] == [2, 3, 4]
    assert set(records.read_configs(folder)) == {cell.id for cell in plan.cells}
    assert run(*words, "model.c2=2,3,4", "-m") == 0
    assert capsys.readouterr().out.count("already done, not run again") == 3


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    capsys.readouterr()
    assert main([str(each) for each in arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("capsexp.archive: error: ")
    assert captured.err.count("\n") == 1
    return captured.err


def test_the_same_cell_with_other_numbers_is_refused_by_name(
    run: Run, words: list[str], folder: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "model.c2=2,3", "-m") == 0
    assert main([str(folder), "own.tar.xz"]) == 0
    first, second = records.cell_directories(folder).values()
    body = records.read_result(second)
    assert body is not None
    records.write_result(second, {**body, "clocks": {}})
    shutil.rmtree(first)
    assert main([str(folder), "own.tar.xz", "--restore"]) == 0, "clocks may differ"
    records.write_result(second, {**body, "metrics": {**body["metrics"], "test/acc": 0.125}})
    shutil.rmtree(first)
    error = refused(capsys, folder, "own.tar.xz", "--restore")
    assert second.name in error
    assert "metrics.test/acc is 0.125 there and " in error
    assert not first.exists(), "nothing is restored"


def test_an_unfinished_cell_is_left_out_and_overwritten(
    run: Run, words: list[str], folder: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "model.c2=2,3", "-m") == 0
    assert main([str(folder), "whole"]) == 0
    first, _ = records.cell_directories(folder).values()
    (first / records.RESULT).unlink()
    capsys.readouterr()
    assert main([str(folder), "part"]) == 0
    assert "1 finished cell, 1 unfinished cell left out" in capsys.readouterr().out
    with FileLock(first / records.LOCK):
        assert "is being run by another process" in refused(capsys, folder, "whole", "--restore")
    assert main([str(folder), "whole", "--restore"]) == 0
    assert len(results(folder)) == 2


def test_files_that_are_no_archive(
    run: Run, words: list[str], folder: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not a folder" in refused(capsys, "nowhere", "x")
    Path("empty").mkdir()
    assert "has no finished cell" in refused(capsys, "empty", "x")
    assert "is not a file" in refused(capsys, folder, "x", "--restore")
    assert run(*words, "model.c2=2", "-m") == 0
    assert main([str(folder), "own"]) == 0
    whole = Path("own").read_bytes()
    Path("half").write_bytes(whole[: len(whole) // 2])
    assert "is not a whole archive" in refused(capsys, "new", "half", "--restore")
    Path("words").write_text("hello")
    assert "is not a whole archive" in refused(capsys, "new", "words", "--restore")
    with tarfile.open("bad", "w:xz") as archive:
        archive.add("words", "../../outside/result.json")
    assert "'../../outside/result.json'" in refused(capsys, "new", "bad", "--restore")
    (cell,) = records.cell_directories(folder).values()
    assert "a single cell" in refused(capsys, cell, "own", "--restore")
    assert not Path("new").exists()


def test_a_file_with_other_content_is_found(
    run: Run, words: list[str], folder: Path, in_tmp: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "model.c2=2", "-m") == 0
    assert main([str(folder), "own"]) == 0
    with tarfile.open("own") as archive:
        archive.extractall("unpacked", filter="data")
    (table,) = Path("unpacked").glob(f"*/{records.METRICS}")
    table.write_text(table.read_text().replace("0.", "1.", 1))
    with tarfile.open("changed", "w:xz") as archive:
        for path in sorted(path for path in Path("unpacked").rglob("*") if path.is_file()):
            archive.add(path, path.relative_to("unpacked").as_posix())
    assert f"{records.METRICS} is missing or has other content" in refused(capsys, folder, "changed", "--restore")
