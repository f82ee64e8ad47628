"""Every file of a cell, a stage and a sweep, damaged in eight ways: no traceback, no wrong number, work goes on."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from capsexp import records, report
from capsexp.build import load_run
from capsexp.errors import ConfigError
from capsexp.status.__main__ import main as status
from tests.conftest import quick_words, ran_in, results
from tests.test_cell_life import without_clocks
from tests.test_checksums import flip

STAGED = ("recipe=prune_and_retrain", "pruning=magnitude", "pruning.ratio=0.5", "recipe.inherit=true", "seed=0,1", "-m")
FILES = (
    *(records.STATUS, records.RESULT, records.CONFIG, records.METRICS, records.ARRAYS, records.BEST_CHECKPOINT),
    *(records.SWEEP, records.CONFIGS, records.STAGE, f"stage {records.METRICS}", f"stage {records.BEST_CHECKPOINT}"),
)
WAYS = ("empty", "cut", "bit", "text", "folder", "loop", "missing", "another")


def damage(path: Path, way: str, other: Path) -> None:
    content = path.read_bytes()
    if way == "bit":
        return flip(path, len(content) // 2)
    path.unlink()
    if way == "folder":
        (path / "deep").mkdir(parents=True)
    elif way == "loop":
        path.symlink_to(path.name)
    elif way == "another":
        shutil.copyfile(other, path)
    elif way != "missing":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"hello"}[way])
    return None


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ran_in(tmp_path_factory.mktemp("trained"), *STAGED)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("file", FILES)
def test_damage_is_found_and_the_work_goes_on(
    trained: Path, in_tmp: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str], file: str, way: str
) -> None:
    shutil.copytree(trained / "multirun", in_tmp / "multirun")
    sweep = in_tmp / "multirun" / "adhoc"
    stages = sorted(path for path in sweep.parent.glob(".stages/*-*") if (path / records.METRICS).is_file())
    first, second = sorted(records.cell_directories(sweep).values())
    name = file.removeprefix("stage ")
    if name in (records.SWEEP, records.CONFIGS):
        path, other = sweep / name, sweep / ({records.SWEEP, records.CONFIGS} - {name}).pop()
    elif file != name or name == records.STAGE:
        path, other = stages[0] / name, stages[1] / name
        shutil.rmtree(first)  # so that the stage is taken again
    else:
        path, other = first / name, second / name
    wanted = {cell: without_clocks(body) for cell, body in results(trained).items()}
    damage(path, way, other)

    for command in (status, report.main):
        assert command([str(sweep)]) in (0, 2)
    if first.is_dir():
        with contextlib.suppress(ConfigError):
            found = load_run(first)
            assert without_clocks(found.result) == wanted[first.name]
    assert run(*quick_words(trained / "tiny.npz"), *STAGED) == 0
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert {cell: without_clocks(body) for cell, body in results(in_tmp).items()} == wanted
    if file != records.METRICS and path.is_relative_to(first) and name in (records.ARRAYS, records.BEST_CHECKPOINT):
        with pytest.raises(ConfigError) if name == records.BEST_CHECKPOINT else contextlib.nullcontext():
            load_run(first)
