"""Modules of one's own that a config names: their sources count, and a cell whose sources have changed is stale."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import capsexp
from capsexp import records
from capsexp.callbacks.history import History
from capsexp.records import sources
from capsexp.status.__main__ import main as status
from tests.conftest import results

Run = Callable[..., int]

CALLBACK = """
from lightning.pytorch import Callback
from project.tools import steps

class Mine(Callback):
    pass
"""


@pytest.fixture
def project(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of one's own in the folder of the command; each command below stands for a process of its own."""
    folder = in_tmp / "project"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "mine.py").write_text(CALLBACK)
    (folder / "tools.py").write_text("steps = 3\n")
    (folder / "unused.py").write_text("other = 3\n")
    monkeypatch.syspath_prepend("")
    yield folder
    forget()


def forget() -> None:
    sources._read_once.cache_clear()
    sources._module_of.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "project"]:
        del sys.modules[name]


def words(quick: list[str]) -> list[str]:
    return [*quick, "+callbacks.mine._target_=project.mine.Mine"]


ROUTINGS = """
from capsexp.routing.base import AgreementRouting

class Lacks(AgreementRouting):
    def couple(self, logits_BJI):
        return logits_BJI.sigmoid()

class Slope(Lacks):
    first_coupling = 0.5

    def __init__(self, *, slope=1.0, **sizes):
        super().__init__(**sizes)

class Broken(Slope):
    def __init__(self, **sizes):
        self.nothing.there()

def none(**sizes):
    return 3
"""

OF_ROUTING = "routing must be arguments that project.mine."
IMPORTED = "routing._target_ must name something that can be imported"
FAULTS = {
    "Lacks": "routing._target_ must name a class that has all methods of its base (Lacks lacks first_coupling)",
    "Absent": f"{IMPORTED} (project.mine has no Absent; it has Mine, Lacks, Slope, Broken), got 'project.mine.Absent'",
    "X routing._target_=project.mien.Mine": f"{IMPORTED} (project has no mien; mine is the most like it), got ",
    "X routing._target_=project.faulty.X": f"{IMPORTED} (project.faulty raises ValueError: too soon), got ",
    "Slop": f"{IMPORTED} (project.mine has no Slop; Slope is the most like it), got 'project.mine.Slop'",
    "Mine": "routing._target_ must name a subclass of capsexp.routing.base.Routing",
    "none": "routing._target_ must give a capsexp.routing.base.Routing",
    "Slope +routing.slop=2": f"{OF_ROUTING}Slope takes (Routing.__init__() got an unexpected keyword argument 'slop'; "
    "slope is the most like it)",
    "Broken": f"{OF_ROUTING}Broken takes (AttributeError(\"'Broken' object has no attribute 'nothing'\")",
}
"""Faults of a part of one's own, and the line that names the part's key, class and cause."""


def test_a_fault_of_a_part_of_ones_own_is_not_blamed_on_the_model(
    run: Run, quick: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "mine.py").write_text(CALLBACK + ROUTINGS)
    (project / "faulty.py").write_text("raise ValueError('too soon')")
    common = [word for word in quick if not word.startswith("model.")]
    common += ["model=capsnet", "model.c1=8", "model.c2=16", "~routing.iterations", "~routing.gradient"]
    for fault, said in FAULTS.items():
        target, *more = fault.split()
        capsys.readouterr()
        assert run(*common, f"routing._target_=project.mine.{target}", *more) == 2
        assert capsys.readouterr().err.startswith(f"capsexp: error: {said}"), fault
    logs = [path.read_text() for path in project.parent.glob("multirun/adhoc/*/log.txt")]
    assert len(logs) == len(FAULTS)
    assert all("Traceback" in log and "ConfigError: routing" in log for log in logs)


def test_a_finished_cell_is_stale_once_its_code_has_changed(
    run: Run, quick: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words(quick)) == 0
    (body,) = results(project.parent).values()
    assert list(body["code"]) == ["project.mine"]
    (project / "unused.py").write_text("other = 4\n")
    forget()
    capsys.readouterr()
    assert run(*words(quick)) == 0
    assert "already done" in capsys.readouterr().out
    (project / "tools.py").write_text("steps = 4\n")  # what the named module imports counts as well
    forget()
    capsys.readouterr()
    assert run(*words(quick)) == 0
    assert (
        "stale (the code of project.mine has changed since), not run again without sweep.rerun=stale"
        in capsys.readouterr().out
    )
    assert run(*words(quick), "sweep.rerun=stale") == 0
    capsys.readouterr()
    assert run(*words(quick)) == 0
    assert "already done" in capsys.readouterr().out


def test_commands_see_it_and_a_plan_lists_the_code(
    run: Run, quick: list[str], project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [word for word in words(quick) if not word.startswith(("sweep.name", "hydra/launcher"))]
    assert run(*named, "sweep.name=mine", "hydra/launcher=basic", "seed=0", "-m") == 0
    sweep = records.read_sweep(Path("multirun/mine"))
    assert sweep is not None
    assert list(sweep.launch["code"]) == ["project.mine"]
    (project / "mine.py").write_text(CALLBACK.replace("pass", "state = 1"))
    assert capsexp.load_sweep("multirun/mine").state.tolist() == ["stale"]
    capsys.readouterr()
    assert status(["multirun/mine"]) == 0
    assert "1 stale" in capsys.readouterr().out
    (project / "mine.py").unlink()  # elsewhere, without the code, it cannot be judged
    assert capsexp.load_sweep("multirun/mine").state.tolist() == ["done"]


def test_a_half_done_cell_does_not_go_on_with_other_code(
    run: Run, quick: list[str], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []

    def stop(self: History, trainer: object, pl_module: object) -> None:
        begun.append(trainer.current_epoch)  # type: ignore[attr-defined]
        if len(begun) in (2, 3):
            raise KeyboardInterrupt

    monkeypatch.setattr(History, "on_train_epoch_start", stop)
    often = [*words(quick), "callbacks.resume.min_interval_s=0"]
    assert run(*often) == 130
    assert run(*often) == 130
    (project / "mine.py").write_text(CALLBACK.replace("pass", "state = 1"))
    forget()
    assert run(*often) == 0
    assert begun == [0, 1, 1, 0, 1]


def test_a_package_may_be_a_plain_folder_in_another(run: Run, quick: list[str], project: Path) -> None:
    (project / "__init__.py").unlink()
    (project / "deep").mkdir()
    (project / "deep" / "mine.py").write_text(CALLBACK + "from project import deep\n")
    assert run(*quick, "+callbacks.mine._target_=project.deep.mine.Mine") == 0
    (body,) = results(project.parent).values()
    assert list(body["code"]) == ["project.deep.mine"]


def test_a_stage_of_other_code_is_another_stage(project: Path) -> None:
    from capsexp.build import _work_key

    config = {"data": {"path": None, "source": {"_target_": "project.mine.Mine"}}, "seed": 0}
    first = _work_key(config, ["seed"])
    assert _work_key({**config, "seed": 1}, ["seed"]) == first
    own = {**config, "pruning": {"_target_": "project.unused.Criterion"}}
    assert _work_key(own, ["seed", "pruning"]) == first, "code of what the stage does not depend on does not count"
    assert _work_key(own, ["seed"]) != _work_key({**config, "pruning": {"_target_": "x.Y"}}, ["seed"])
    (project / "tools.py").write_text("steps = 5\n")
    forget()
    assert _work_key(config, ["seed"]) != first


def test_installed_modules_and_ours_are_not_ones_own(project: Path) -> None:
    names = ["torch.optim.Adam", "capsexp.models.cnn.CNN", "json.loads", "nowhere.Thing", "project.Thing"]
    found = sources.own_code(
        [{"_target_": name} for name in [*names, "project.mine.Mine.method", "project.tools.steps"]]
    )
    assert list(found) == ["project", "project.mine", "project.tools"]
