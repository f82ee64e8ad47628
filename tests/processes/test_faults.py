"""What goes wrong with one cell costs that cell."""

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from capsexp import records
from tests.conftest import results
from tests.processes.conftest import ROOT, Sweep

MakeSweep = Callable[..., Sweep]


def test_seven_cells_two_of_them_bad(sweep: MakeSweep) -> None:
    """Time limits are tested with the engine."""
    bad = sweep("Faulty", "+recipe.number=range(0,7)", "trainer.max_epochs=1", "hydra.launcher.max_cells=1")
    code, told = bad.run()
    assert code == 1, told
    assert bad.states() == {"done": 5, "failed": 2}
    failed = {name[:9]: status for name, status in bad.statuses().items() if status.state == "failed"}
    assert {name: status.kind for name, status in failed.items()} == {
        "number-03": "exception",
        "number-05": "signal",
    }
    assert failed["number-03"].cause == "RuntimeError: no such luck"
    assert "SIGKILL" in str(failed["number-05"].cause)
    # Only what another try may mend is tried again, once.
    tries = Counter(execution.name[:9] for execution in bad.executions())
    assert {name for name, count in tries.items() if count == 2} == {"number-05"}
    assert set(tries.values()) == {1, 2}
    assert [len(failed[name].retried) for name in sorted(failed)] == [0, 1]
    # Each failure is printed when it happens and listed at the end, with its cause and its log.
    end = told[told.index("5 of 7 cells done, 2 failed") :]
    for name, status in failed.items():
        (line,) = re.findall(rf"^  {name}.*$", end, re.MULTILINE)
        assert str(status.cause) in line
        log = re.search(r"\(see (.*)\)$", line)
        assert log is not None
        assert (bad.folder / log[1]).is_file()
        assert re.search(rf"^\[\d/7\]  {name}.*{re.escape(str(status.cause))}", told, re.MULTILINE)
    assert "Traceback" in next(bad.directory.glob("number-03*")).joinpath(records.LOG).read_text()
    assert "Traceback" not in told


# The engine's tests have a full disk that ends a sweep, and those of the cell have the errors that mean it.
@pytest.mark.slow
def test_a_full_disk_ends_the_sweep_in_one_line_and_the_same_command_completes_it(sweep: MakeSweep) -> None:
    """With as many threads for what is left as for what was done, and on record."""
    few = ["trainer.max_epochs=1", "threads=auto", "hydra.launcher.cpus_per_cell=2", "hydra.launcher.max_cells=1"]
    full = sweep("SmallDisk", "+recipe.number=range(0,4)", *few)
    code, told = full.run(CAPSEXP_TEST_SMALL_DISK="2")
    assert code == 1, told
    assert "the disk is full: no further cell is started" in told
    assert "failed (disk): OSError: [Errno 27] File too large" in told
    assert "Traceback" not in told
    done = [cell for cell in records.cell_directories(full.directory).values() if records.read_result(cell)]
    assert sorted(cell.name[:9] for cell in done) == ["number-00", "number-01"]
    assert len(full.executions()) == 3
    code, told = full.run()
    assert code == 0, told
    assert full.states() == {"done": 4}
    assert [execution.was_finished for execution in full.executions()] == [False] * 5
    assert [body["environment"]["threads"] for body in results(full.directory).values()] == [2] * 4


def a_copy_that_is_edited(folder: Path) -> tuple[Path, dict[str, str]]:
    """The model's YAML file in a copy of the package, and the environment in which ``EditsYaml`` edits it."""
    for part in ("src", "conf"):
        # With __pycache__, so that nothing is compiled again, but for what another process may be writing there.
        shutil.copytree(ROOT / part, folder / "copy" / part, ignore=shutil.ignore_patterns("*.pyc.*"))
    yaml = folder / "copy" / "conf" / "model" / "cnn.yaml"
    path = os.pathsep.join([str(folder / "copy" / "src"), str(ROOT)])
    return yaml, {"PYTHONPATH": path, "CAPSEXP_TEST_YAML": str(yaml)}


def assert_frozen(frozen: Sweep, yaml: Path) -> None:
    assert "c1: 5" in yaml.read_text()
    plan = records.read_sweep(frozen.directory)
    assert plan is not None
    assert sorted(records.cell_directories(frozen.directory)) == sorted(cell.id for cell in plan.cells)
    for cell in records.cell_directories(frozen.directory).values():
        assert "c1: 6" in (cell / records.CONFIG).read_text()


@pytest.mark.slow
def test_under_a_clusters_launcher_a_cell_fails_alone_and_a_changed_yaml_file_changes_nothing(
    sweep: MakeSweep, tmp_path: Path
) -> None:
    """submitit runs every cell as a job of its own, here as processes of this machine."""
    yaml, variables = a_copy_that_is_edited(tmp_path)
    bad = sweep("EditsYaml", "+recipe.number=4,3", "hydra/launcher=submitit_local")
    code, told = bad.run(**variables)
    assert code == 1, told
    assert {name[:9]: status.state for name, status in bad.statuses().items()} == {
        "number-03": "failed",
        "number-04": "done",
    }
    assert "1 of 2 cells done, 1 failed" in told
    assert "RuntimeError: no such luck" in told
    assert len(bad.executions()) == 2
    assert_frozen(bad, yaml)


@pytest.mark.slow
def test_a_clusters_launcher_loses_a_job_and_the_rest_goes_on(sweep: MakeSweep) -> None:
    """submitit waits long for the word of a process that was killed."""
    bad = sweep("Faulty", "+recipe.number=4,5,3", "hydra/launcher=submitit_local")
    code, told = bad.run()
    assert code == 1, told
    assert "UncompletedJobError" in told
    assert {name[:9]: status.state for name, status in bad.statuses().items()} == {
        "number-03": "failed",
        "number-04": "done",
        "number-05": "interrupted",
    }
    assert "1 of 3 cells done, 1 failed, 1 interrupted" in told
    assert "Traceback" not in told
