"""What costs disk and no result needs: ``python -m capsexp.clean``."""

from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from capsexp import records
from capsexp.clean import main
from tests.conftest import results

Run = Callable[..., int]


@pytest.fixture
def sweep(run: Run, quick: list[str], in_tmp: Path) -> Path:
    """A sweep of two finished cells whose recipe shares a stage, and an unfinished one of an earlier plan."""
    words = [word for word in quick if not word.startswith(("sweep.name", "model."))]
    small = ["model=autoencoder", "model.c1=2", "model.c2=2", "model.latent=2", "recipe=autoencode_then_classify"]
    more = [*words, *small, "sweep.name=own", "trainer.max_epochs=1"]
    assert run(*more, "optimizer.lr=1e-3,1e-2,1e-1", "-m") == 0
    folder = in_tmp / "multirun" / "own"
    assert run(*more, "optimizer.lr=1e-3,1e-2", "-m") == 0
    planned = {cell.id for cell in records.read_sweep(folder).cells}  # type: ignore[union-attr]
    (orphan,) = (path for key, path in records.cell_directories(folder).items() if key not in planned)
    (orphan / records.RESULT).unlink()
    return folder


def lines(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[list[str]]:
    capsys.readouterr()
    assert main([str(each) for each in arguments]) == 0
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_without_a_request_nothing_is_removed(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(sweep.parent.rglob("*"))
    said = lines(capsys, sweep.parent)
    assert [(line[0], line[1]) for line in said if line[0] in ("checkpoints", "orphans", "stages")] == [
        ("checkpoints", "2"),
        ("orphans", "1"),
        ("stages", str(len(list((sweep.parent / ".stages").iterdir())))),
    ]
    assert " ".join(said[-1]) == "nothing is removed without --remove KIND"
    assert sorted(sweep.parent.rglob("*")) == before


def test_what_is_asked_for_is_removed_and_every_result_stays(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = results(sweep)
    assert lines(capsys, sweep.parent, "--remove", "checkpoints")[-1][:3] == ["removed", "2", "folders,"]
    orphan = next(cell for cell in records.cell_directories(sweep).values() if cell.name not in before)
    assert not [path for path in sweep.rglob("*.ckpt") if orphan not in path.parents]
    assert orphan.exists()
    assert (sweep.parent / ".stages").exists()
    assert lines(capsys, sweep.parent, "--remove", "orphans", "--remove", "stages")[-1][0] == "removed"
    assert not orphan.exists()
    assert list((sweep.parent / ".stages").iterdir()) == []
    assert results(sweep) == before


def test_stages_stay_while_a_planned_cell_may_need_them(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned = records.read_sweep(sweep).cells[0]  # type: ignore[union-attr]
    (sweep / planned.name / records.RESULT).unlink()
    assert ["stages", "0", "folders", "0.0", "MB"] in lines(capsys, sweep.parent)
    assert ["stages", "0", "folders", "0.0", "MB"] in lines(capsys, sweep)


def test_what_a_process_uses_stays(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = next(cell for cell in records.cell_directories(sweep).values() if (cell / records.RESULT).exists())
    with FileLock(cell / records.LOCK):
        said = " ".join(lines(capsys, sweep, "--remove", "checkpoints")[-1])
    assert said.startswith("removed 1 folder, ")
    assert said.endswith(", 1 folder in use")
    assert (cell / "checkpoints").is_dir()


def test_a_damaged_or_an_earlier_result_is_a_result(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    orphan = next(cell for cell in records.cell_directories(sweep).values() if not (cell / records.RESULT).exists())
    (orphan / records.PREVIOUS_RESULT).write_text("{")
    assert ["orphans", "0", "folders", "0.0", "MB"] in lines(capsys, sweep, "--remove", "orphans")
    assert orphan.exists()


def test_a_folder_of_something_else_is_refused(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["."]) == 2
    assert capsys.readouterr().err == (
        "capsexp.clean: error: . is neither the folder of a sweep nor a folder of sweeps\n"
    )
    assert main(["nowhere"]) == 2
