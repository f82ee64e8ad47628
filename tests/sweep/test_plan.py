"""The planned cells are those that Hydra makes."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from capsexp import cell, cli, records, resolvers
from capsexp.errors import ConfigError, config_error
from capsexp.resolvers import data_file
from capsexp.sweep.cells import cell_id, resolved
from capsexp.sweep.plan import plan_sweep

CONF = Path(__file__).parents[2] / "conf"
Run = Callable[..., int]

# An error that is its own cause, followed for ever, would hang the command.
pytestmark = pytest.mark.timeout(30)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[cell.Cell]:
    """The cells that Hydra makes, kept instead of being run."""
    cells: list[cell.Cell] = []

    def keep(job: cell.Cell) -> cell.CellOutcome:
        cells.append(job)
        status = records.Status("done", job.id)
        records.write_status(job.directory, status)
        return cell.CellOutcome(status, "done")

    monkeypatch.setattr(cell, "run", keep)
    return cells


@pytest.fixture
def loader() -> Any:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield GlobalHydra.instance().config_loader()


def planned(loader: ConfigLoader, *overrides: str) -> records.Sweep:
    config = loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)
    return plan_sweep(config, loader).sweep


def composed_id(*overrides: str) -> str:
    return cell_id(compose("config", list(overrides), return_hydra_config=True))


SWEEPS: dict[str, tuple[list[str], int]] = {
    "one value": (["model.c2=4"], 1),
    "two axes": (["model.c2=4,3", "model.c3=2,5"], 4),
    "a range": (["model.c2=range(5,2,-1)"], 3),
    "a choice": (["model.c2=choice(5,2)"], 2),
    "floats": (["optimizer.lr=1e-3,0.5,2"], 3),
    "booleans and null": (["trainer.deterministic=true,false", "trainer.gradient_clip_val=null,0.5"], 4),
    "quoted strings": (["""sweep.name='a b'""", """trainer.precision='32-true',"16-mixed",bf16-mixed"""], 3),
    "quoted strings in a new key": (["+recipe.note='1',1,'a, b','c=d'"], 4),
    "lists": (["model.kernels=[7,5,3],[5,5,3]"], 2),
    "two groups": (["augment=crop28,none", "model=cnn,baseline_cnn"], 4),
    "a group and a value": (["model=cnn,baseline_cnn", "model.c2=4,3"], 4),
    "a new key and a group": (["+new.key=1,2", "augment=none,crop28"], 4),
    "a new or old key": (["++model.c2=1,2", "++recipe.fresh=a"], 2),
    "a removed key": (["~trainer.deterministic", "model.c2=3"], 1),
    "an interpolated key": (["seed=1,2", "pruning=random"], 2),
    "an experiment": (["+experiment=cnn_prune", "model.c2=4", "model.c3=2,3"], 2),
    "an experiment and a seed": (["+experiment=cnn_prune", "model.c2=4", "model.c3=2", "seed=0,1"], 2),
    "duplicates": (["model.c2=4,4,3"], 2),
    "a later override": (["model.c2=4,3", "model.c2=5,6,7"], 3),
    "an axis that decides nothing": (["threads=1,2"], 1),
}


WITHIN = ("one value", "a range", "a choice", "a group and a value", "a new key and a group", "an experiment")
"""What others have, too, with more."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in WITHIN else []) for name in SWEEPS]
)
def test_the_plan_is_what_hydra_makes(name: str, run: Run, in_tmp: Path, made: list[cell.Cell]) -> None:
    overrides, count = SWEEPS[name]
    assert run(*overrides, "hydra/launcher=basic", "-m") == 0
    (file,) = in_tmp.glob(f"multirun/*/{records.SWEEP}")
    sweep = records.read_sweep(file.parent)
    assert sweep is not None
    assert len(sweep.cells) == count
    unique = {job.id: job for job in reversed(made)}
    assert [cell.id for cell in sweep.cells] == list(dict.fromkeys(job.id for job in made))
    assert [cell.name for cell in sweep.cells] == list(dict.fromkeys(job.directory.name for job in made))
    assert [cell.axes for cell in sweep.cells] == [unique[cell.id].axes for cell in sweep.cells]
    assert {job.directory.parent for job in made} == {file.parent}
    for job in made:
        assert records.cell_id(job.config) == job.id


def test_order_axes_and_names(loader: ConfigLoader, in_tmp: Path) -> None:
    sweep = planned(loader, "model.c2=4,3", "model.c3=2,5", "seed=7")
    assert sweep.axes == {"model.c2": [4, 3], "model.c3": [2, 5]}
    assert [tuple(cell.axes.values()) for cell in sweep.cells] == [(4, 2), (4, 5), (3, 2), (3, 5)]
    assert sweep.overrides == ["model.c2=4,3", "model.c3=2,5", "seed=7"]
    first = sweep.cells[0]
    assert first.id == composed_id("model.c2=4", "model.c3=2", "seed=7")
    assert first.name == f"c2-04_c3-02-{first.id}"


def test_axes_keep_their_types(loader: ConfigLoader, in_tmp: Path) -> None:
    sweep = planned(loader, "+recipe.a='1',1,1.5,true,null,x", "model.kernels=[7,5,3],[3,3,3]")
    assert [(type(value), value) for value in sweep.axes["recipe.a"]] == [
        (str, "1"),
        (int, 1),
        (float, 1.5),
        (bool, True),
        (type(None), None),
        (str, "x"),
    ]
    assert sweep.axes["model.kernels"] == [[7, 5, 3], [3, 3, 3]]
    assert len(sweep.cells) == 12


@pytest.mark.parametrize(
    ("words", "times"),
    [
        (["+experiment=cnn_prune"], 1),
        (["model=baseline_cnn", "model.c2=1,2,3", "seed=range(0,9)"], 1),
        (["data=digits,mnist", "model=cnn", "model.c2=4,5,6", "optimizer.lr=0.1,1"], 2),
        (["optimizer={lr:1},{lr:2}", "optimizer.weight_decay=0,1", "seed=0,1"], 4),
        (["model.c3=${model.c2},7", "model.c2=4,5,6"], 2),
    ],
)
def test_a_grid_is_composed_as_rarely_as_can_be(
    words: list[str], times: int, loader: ConfigLoader, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Composing takes tens of milliseconds: once per combination of values that decide what is composed or merged."""
    config = loader.load_configuration("config", ["hydra.mode=MULTIRUN", *words], run_mode=RunMode.MULTIRUN)
    compose_job, composed = loader.load_sweep_config, []
    monkeypatch.setattr(loader, "load_sweep_config", lambda *given: composed.append(given) or compose_job(*given))
    plan_sweep(config, loader)
    assert len(composed) == times


def test_cnn_prune_is_the_papers_grid(loader: ConfigLoader, in_tmp: Path) -> None:
    sweep = planned(loader, "+experiment=cnn_prune")
    assert sweep.name == "cnn_prune"
    assert sweep.axes == {"model.c2": list(range(16, 1, -1)), "model.c3": list(range(16, 1, -1))}
    assert len(sweep.cells) == len({cell.id for cell in sweep.cells}) == 225
    last = composed_id("+experiment=cnn_prune", "model.c2=2", "model.c3=2")
    assert sweep.cells[-1] == records.PlannedCell(last, f"c2-02_c3-02-{last}", {"model.c2": 2, "model.c3": 2})
    assert sweep.overrides == ["+experiment=cnn_prune"]
    assert sweep.report["title"]


def test_the_same_work_has_the_same_id_however_it_is_asked_for(loader: ConfigLoader, in_tmp: Path) -> None:
    default = composed_id()
    assert composed_id("model=cnn", "model.c2=16", "seed=0", "sweep.name=other", "paths.output=/x") == default
    (cell,) = planned(loader, "model.c2=16").cells
    assert cell.id == default
    assert composed_id("model.c2=15") != default


def test_a_directory_with_the_id_keeps_its_name(loader: ConfigLoader, in_tmp: Path) -> None:
    identifier = composed_id("model.c2=4")
    (in_tmp / "multirun" / "adhoc" / f"old-{identifier}").mkdir(parents=True)
    sweep = planned(loader, "model.c2=4,3")
    assert sweep.cells[0].name == f"old-{identifier}"
    assert sweep.cells[1].name.startswith("c2-03-")


def test_a_later_plan_leaves_the_configs_of_an_earlier_one(loader: ConfigLoader, in_tmp: Path) -> None:
    """Jobs of the earlier command may still wait in a cluster's queue."""
    for values in ("2,3", "3,4"):
        config = loader.load_configuration("config", [f"model.c2={values}", "sweep.name=x"], run_mode=RunMode.MULTIRUN)
        plan = plan_sweep(config, loader)
        plan.freeze()
    frozen, sweep = records.read_configs(plan.directory), records.read_sweep(plan.directory)
    assert sweep is not None
    assert [cell.axes["model.c2"] for cell in sweep.cells] == [3, 4]
    assert sorted(cell.config["model"]["c2"] for cell in frozen.values()) == [2, 3, 4]


def test_an_experiments_axis_pinned_to_one_value_stays_an_axis(loader: ConfigLoader) -> None:
    sweep = planned(loader, "+experiment=cnn_prune", "model.c2=4", "model.c3=2,3", "seed=1")
    assert sweep.axes == {"model.c2": [4], "model.c3": [2, 3]}
    assert [cell.name.rpartition("-")[0] for cell in sweep.cells] == ["c2-04_c3-02", "c2-04_c3-03"]
    assert sweep.overrides == ["+experiment=cnn_prune", "model.c2=4", "model.c3=2,3", "seed=1"]


def test_a_single_cell_is_named_by_its_experiments_axes(run: Run, in_tmp: Path, made: list[cell.Cell]) -> None:
    assert run("+experiment=cnn_prune", "model.c2=4") == 0
    assert run("model.c2=4") == 0
    first, second = made
    assert first.directory.name == f"c2-04_c3-16-{first.id}"
    assert (first.axes, first.in_sweep) == ({"model.c2": 4, "model.c3": 16}, False)
    assert second.directory.name == f"cell-{second.id}"


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model=cnn,nothing"], "model must be one of attention_capsnet, autoencoder, "),
        (["model.c9=1,2"], "'model.c9'"),
        (["model.c2=1,2", "+recipe.a=${nowhere}"], "'nowhere' not found"),
        (["model.c2=interval(1,3)"], "model.c2 must be swept over listed values (a,b,c or range(...))"),
        (["data=dhcd", "data.path=nowhere.npz", "model.c2=1,2"], "data.path must name an existing .npz file"),
        (["data=dhcd", "data.path=.", "model.c2=1,2"], "data.path must name a file, not a folder"),
        (["data=dhcd", "data.path=3", "model.c2=1,2"], "data.path must be the path of an .npz file, got 3"),
        (["model.c2=range(3,3)"], "sweep must have at least one cell"),
    ],
)
def test_an_impossible_sweep_ends_in_one_line_before_its_first_cell(
    overrides: list[str],
    words: str,
    run: Run,
    in_tmp: Path,
    made: list[cell.Cell],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(*overrides, "-m") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("capsexp: error: ")
    assert words in line
    assert made == []
    assert list(in_tmp.glob(f"multirun/*/{records.SWEEP}")) == []


def test_config_error_finds_the_cause() -> None:
    inner, outer = ConfigError("c2", "be odd", 4), RuntimeError("outer")
    outer.__cause__ = RuntimeError("between")
    outer.__cause__.__context__ = inner
    assert config_error(outer) is inner
    assert config_error(inner) is inner
    assert config_error(RuntimeError()) is None


# -- the data file ----------------------------------------------------------------------------------------------------


def data_id(path: Path | str, *more: str) -> str:
    return composed_id("data=dhcd", f"data.path={path}", *more)


def test_a_moved_file_keeps_the_id_and_a_changed_one_does_not(loader: ConfigLoader, tiny_npz: Path) -> None:
    before = data_id(tiny_npz)
    moved = tiny_npz.rename(tiny_npz.with_name("moved.npz"))
    assert data_id(moved) == before != composed_id("data=dhcd")
    with np.load(moved) as stored:
        arrays = dict(stored)
    arrays["x_train"][0, 0, 0] ^= 1
    np.savez(moved, **arrays)
    assert data_id(moved) != before


def test_relative_absolute_and_home_paths_are_one(
    loader: ConfigLoader, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_npz.parent)
    monkeypatch.setenv("HOME", str(tiny_npz.parent))
    config = compose("config", ["data=dhcd", "data.path='~/tiny.npz'"])
    assert resolved(config)["data"]["path"] == str(tiny_npz)
    assert data_id("tiny.npz") == data_id("'~/tiny.npz'") == data_id(tiny_npz)


def test_a_missing_file_is_refused(loader: ConfigLoader, in_tmp: Path) -> None:
    with pytest.raises(ConfigError, match=r"data.path must name an existing .npz file, got '/nowhere.npz'"):
        data_id("/nowhere.npz")
    with pytest.raises(ConfigError, match=r"data.path must name a file, not a folder"):
        data_id(in_tmp)


def test_capsexp_data_names_the_folder_of_all_files(
    loader: ConfigLoader, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = data_id(tiny_npz)
    tiny_npz.rename(tiny_npz.with_name("dhcd.npz"))
    monkeypatch.setenv("CAPSEXP_DATA", str(tiny_npz.parent))
    assert composed_id("data=dhcd") == expected
    assert data_file("mnist") is None
    monkeypatch.delenv("CAPSEXP_DATA")
    assert data_file("dhcd") is None


def base_id(*more: str) -> str:
    return composed_id("data=rmnist", *more)


def test_the_base_of_a_generated_data_set_counts_by_its_content(
    loader: ConfigLoader, in_tmp: Path, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = base_id(f"data.source.path={tiny_npz}")
    copy = tiny_npz.with_name("mnist.npz")
    copy.write_bytes(tiny_npz.read_bytes())
    assert base_id(f"data.source.path={copy}") == before != base_id()
    monkeypatch.setenv("CAPSEXP_DATA", str(copy.parent))
    assert base_id() == before
    monkeypatch.chdir(copy.parent)
    plain = resolved(compose("config", ["data=rmnist", "data.source.path=mnist.npz"]))
    assert plain["data"]["source"]["path"] == str(copy)
    with np.load(tiny_npz) as stored:
        np.savez(copy, **(dict(stored) | {"more": np.zeros(1)}))
    assert base_id() != before
    assert base_id("data.source.seed=1") != base_id()


def test_beside_a_file_of_its_own_the_base_does_not_count(
    loader: ConfigLoader, in_tmp: Path, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = base_id(f"data.path={tiny_npz}")
    assert base_id(f"data.path={tiny_npz}", f"data.source.path={tiny_npz}") == before
    tiny_npz.with_name("mnist.npz").write_bytes(b"another")
    monkeypatch.setenv("CAPSEXP_DATA", str(tiny_npz.parent))
    assert base_id(f"data.path={tiny_npz}") == before != base_id()


def test_a_bad_base_is_refused(loader: ConfigLoader, in_tmp: Path) -> None:
    with pytest.raises(ConfigError, match=r"^data.source.path must name an existing .npz file, got '/nowhere.npz'"):
        base_id("data.source.path=/nowhere.npz")
    with pytest.raises(ConfigError, match=r"^data.source.path must name a file, not a folder"):
        base_id(f"data.source.path={in_tmp}")
    with pytest.raises(ConfigError, match=r"^data.source.path must be the path of an .npz file, got 5"):
        base_id("data.source.path=5")


def test_a_source_without_a_base_gets_no_such_key(loader: ConfigLoader, in_tmp: Path) -> None:
    plain = resolved(compose("config", ["data=mnist"]))
    assert plain["data"]["path"] is None
    assert "path" not in plain["data"]["source"]
    assert records.digested(plain) == plain


def test_the_digest_is_computed_once(loader: ConfigLoader, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count: list[Path] = []
    digest = records.file_sha256
    identity = importlib.import_module("capsexp.records.identity")  # the package has a function of this name
    monkeypatch.setattr(identity, "file_sha256", lambda path: (count.append(path), digest(path))[1])
    planned(loader, "data=dhcd", f"data.path={tiny_npz}", "model.c2=2,3,4")
    assert count == [tiny_npz]


# -- the command's words ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["-m", "a=1"], ["a=1", "-m"], ["a=1", "--multirun"], ["-m", "a=1", "-m"]])
def test_the_multirun_flag_comes_first(arguments: list[str]) -> None:
    first, *rest = cli.normalise(arguments)
    assert first in ("-m", "--multirun")
    assert rest == ["a=1"]


def test_resolved_is_plain_and_whole(loader: ConfigLoader, in_tmp: Path) -> None:
    config = compose("config", ["sweep.name=x"], return_hydra_config=True)
    plain = resolved(config)
    assert "hydra" not in plain
    assert plain["paths"]["sweep"] == "multirun/x"
    assert OmegaConf.is_config(config)
    assert not any(OmegaConf.is_config(value) for value in plain.values())
    assert "${" not in str(plain)
