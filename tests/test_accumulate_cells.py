"""Cells that accumulate couplings and train again: shared stages, interruptions, what is loaded."""

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from capsexp import build, cli, records
from capsexp.build import LoadedRun, load_run
from capsexp.callbacks.coupling_analysis import CouplingAnalysis
from capsexp.callbacks.master_coefficients import MasterCoefficients
from capsexp.nn.capsules import capsule_layers, set_inference
from capsexp.recipes import accumulate, latency, retrain
from capsexp.recipes.base import Factories, Outcome
from tests.cell_files import arrays_of, weights_of
from tests.conftest import write_tiny_npz

Run = Callable[..., int]

EPOCHS = 2
GROUND_TRUTH, RETRAIN = "recipe.columns=ground_truth", "recipe=retrain"


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(latency, "ROUNDS", 1)
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored behind a KeyboardInterrupt


def words(npz: Path) -> list[str]:
    """Overrides for a capsule network that is trained, accumulated and tested in a second."""
    model = ["model=capsnet", "model.c1=16", "model.c2=16", "model.decoder=null", "optimizer.lr=5e-3"]
    data = ["data=dhcd", f"data.path={npz}", "data.batch_size=16", f"trainer.max_epochs={EPOCHS}"]
    fixed = ["hydra/launcher=basic", "sweep.name=adhoc", "threads=1", "logger.wandb.mode=disabled"]
    fixed += ["callbacks.memory_check=null"]
    return [*model, "routing=max_min", *data, *fixed, "recipe=accumulate"]


@pytest.fixture
def small(tiny_npz: Path, in_tmp: Path) -> list[str]:
    return words(tiny_npz)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where three cells ran one after the other, undisturbed; the second and third took the first one's training."""
    folder = tmp_path_factory.mktemp("quiet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CAPSEXP_CACHE", str(folder / "cache"))
        patch.setattr(latency, "ROUNDS", 1)
        for more in ([], [GROUND_TRUTH], [RETRAIN]):
            assert cli.main([*words(write_tiny_npz(folder)), *more]) == 0
    return folder


def quiet_cell(quiet: Path, word: str = "") -> Path:
    """The cell of :func:`quiet` with this further override."""
    wanted = {"": ("Accumulate", "whole"), GROUND_TRUTH: ("Accumulate", "ground_truth"), RETRAIN: ("Retrain", "whole")}
    for cell in cells(quiet):
        recipe = config_of(cell)["recipe"]
        if (recipe["_target_"].rpartition(".")[2], recipe["columns"]) == wanted[word]:
            return cell
    raise AssertionError(word)


def take_training(quiet: Path, folder: Path) -> Path:
    """The first training of :func:`quiet`, laid into another folder; its stage."""
    (stage,) = (quiet / "multirun" / ".stages").glob("train-*")
    target = folder / "multirun" / ".stages" / stage.name
    shutil.copytree(stage, target)
    return target


def config_of(cell: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((cell / records.CONFIG).read_text())
    return config


def cells(folder: Path, output: str = "multirun") -> list[Path]:
    return sorted(records.cell_directories(folder / output / "adhoc").values())


def the_cell(folder: Path, output: str = "multirun") -> Path:
    (found,) = cells(folder, output)
    return found


def body_of(cell: Path) -> dict[str, Any]:
    body = records.read_result(cell)
    assert body is not None
    return body


def without_clocks(body: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key not in ("clocks", "name", "axes")}


def stages(folder: Path, output: str = "multirun") -> list[str]:
    """The names of the stages, without their digests."""
    return sorted(path.name.rpartition("-")[0] for path in (folder / output / ".stages").iterdir())


def log_of(cell: Path) -> str:
    return (cell / records.LOG).read_text()


def assert_equal(first: Path, second: Path) -> None:
    """Two cells' folders say the same, to the last digit."""
    assert without_clocks(body_of(first)) == without_clocks(body_of(second))
    assert (first / records.METRICS).read_bytes() == (second / records.METRICS).read_bytes()
    for one, other in ((arrays_of(first), arrays_of(second)), (weights_of(first), weights_of(second))):
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one)


def accuracy(loaded: LoadedRun) -> float:
    hits, count = 0, 0
    for batch in loaded.data().test_dataloader():
        hits += int((loaded.module.predict(batch.images_BCHW) == batch.labels_B).sum())
        count += len(batch.labels_B)
    return hits / count


# -- one cell ----------------------------------------------------------------------------------------------------------


def test_what_a_cell_leaves(quiet: Path) -> None:
    cell = quiet_cell(quiet)
    body = body_of(cell)
    metrics = body["metrics"]
    wanted = {f"{part}/{name}" for part in ("train", "val", "test", "fast") for name in ("loss", "acc")}
    wanted |= {"dynamic/acc", "fast/change", "filter/kept"}
    wanted |= {f"correlation/{name}/{kind}" for name in ("classes", "master") for kind in ("intra", "inter")}
    assert wanted <= metrics.keys()
    assert metrics["dynamic/acc"] == metrics["test/acc"]
    assert metrics["fast/change"] == metrics["fast/acc"] - metrics["dynamic/acc"]
    assert metrics["fast/loss"] != metrics["test/loss"]
    assert metrics["filter/kept"] == 1
    assert body["training"]["epochs"] == EPOCHS
    assert body["data"]["n_train"] == 72
    ways = {f"{way}_batch{size}_ms" for way in ("dynamic", "fast", "folded") for size in (1, 128)}
    assert ways | {"fit_s", "epoch_s"} <= body["clocks"].keys()
    arrays = arrays_of(cell)
    shapes = {name: array.shape for name, array in arrays.items() if not name.startswith(("kernels", "scores"))}
    assert shapes == {
        "master/class_capsules": (4, 72),
        "correlation/classes": (4, 4),
        "correlation/master": (4, 4),
        "correlation/images": (72, 72),
        "correlation/images/labels": (72,),
        "tuning/dynamic": (4, 4),
        "tuning/fast": (4, 4),
        "probabilities/dynamic": (5, 4),
        "probabilities/fast": (5, 4),
        "probabilities/labels": (5,),
        "probabilities/images": (5, 1, 28, 28),
    }
    assert not np.array_equal(arrays["tuning/dynamic"], arrays["tuning/fast"])
    assert any(name.startswith("kernels") for name in arrays)
    assert (cell / records.METRICS).read_text().count("\n") == 1 + EPOCHS


def test_a_loaded_cell_gives_both_accuracies_again(quiet: Path) -> None:
    for word in ("", GROUND_TRUTH):
        cell = quiet_cell(quiet, word)
        loaded = load_run(cell)
        metrics, arrays = loaded.result["metrics"], arrays_of(cell)
        model: Any = loaded.module.model
        (batch,) = loaded.data().test_dataloader()
        assert {layer.inference for layer in capsule_layers(model).values()} == {"dynamic"}
        assert np.array_equal(model.class_capsules.master_JI, arrays["master/class_capsules"])
        for inference, source in (("dynamic", "dynamic"), ("folded", "fast"), ("fast", "fast")):
            set_inference(model, inference)  # type: ignore[arg-type]
            assert accuracy(loaded) == pytest.approx(metrics[f"{source}/acc"], abs=1e-12)
            with torch.inference_mode():
                lengths_BK = loaded.module(batch.images_BCHW)[:5]
            np.testing.assert_allclose(lengths_BK, arrays[f"probabilities/{source}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_half_precision_accumulates_too(run: Run, small: list[str], in_tmp: Path, precision: str) -> None:
    assert run(*small, f"trainer.precision={precision}", "routing=dynamic", "trainer.max_epochs=1") == 0
    loaded = load_run(the_cell(in_tmp))
    assert loaded.result["metrics"]["fast/loss"] > 0
    set_inference(loaded.module.model, "folded")  # type: ignore[arg-type]
    assert accuracy(loaded) == pytest.approx(loaded.result["metrics"]["fast/acc"], abs=0.1)


# -- shared stages -----------------------------------------------------------------------------------------------------


def test_cells_that_differ_later_share_one_training(quiet: Path) -> None:
    assert stages(quiet) == ["retrain", "train"]
    assert "stage train: being computed in train-" in log_of(quiet_cell(quiet))
    for word in (GROUND_TRUTH, RETRAIN):
        assert "stage train: taken from train-" in log_of(quiet_cell(quiet, word))
        assert "stage train: being computed" not in log_of(quiet_cell(quiet, word))
    bodies = [body_of(cell)["metrics"] for cell in cells(quiet)]
    for name in ("dynamic/acc", "filter/kept"):
        assert len({metrics[name] for metrics in bodies}) == 1
    assert len({metrics["fast/loss"] for metrics in bodies}) == 2


def test_computed_or_taken_the_numbers_are_the_same(run: Run, small: list[str], in_tmp: Path, quiet: Path) -> None:
    torch.manual_seed(99)
    assert run(*small, GROUND_TRUTH) == 0
    assert "stage train: being computed" in log_of(the_cell(in_tmp))
    assert_equal(the_cell(in_tmp), quiet_cell(quiet, GROUND_TRUTH))


def test_what_the_training_depends_on_is_not_shared(quiet: Path) -> None:
    config = config_of(quiet_cell(quiet))

    def directory(**changes: Any) -> Path:
        changed = json.loads(json.dumps(config))
        for dotted, value in changes.items():
            *groups, key = dotted.split("__")
            node = changed
            for group in groups:
                node = node[group]
            assert key in node
            node[key] = value
        recipe = accumulate.Accumulate()
        return build.factories(changed, quiet).stages.directory(recipe.first)

    same = directory()
    assert same.is_dir() == (Path.cwd() == quiet)
    for changes in ({"recipe__columns": "half"}, {"filter": {}}, {"sweep__name": "other"}, {"threads": 7}):
        assert directory(**changes) == same  # type: ignore[arg-type]
    others: list[dict[str, Any]] = [
        {"seed": 1},
        {"model__routing__iterations": 2},
        {"model__c1": 8},
        {"data__split_seed": 3},
        {"data__batch_size": 8},
        {"optimizer__lr": 1e-3},
        {"trainer__max_epochs": 3},
        {"callbacks__peak__patience": 3},
    ]
    assert len({same, *(directory(**changes) for changes in others)}) == 1 + len(others)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "NUMERICS_VERSION", 10**6)
        assert directory() != same
    path, stamp = Path(config["data"]["path"]), (quiet / "tiny.npz").stat()
    kept = path.read_bytes()
    path.write_bytes(kept + b" ")
    assert directory() != same, "a file counts by its content"
    path.write_bytes(kept)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


# The next test has a cell that waits, and the engine's tests have the sweep that puts it back.
@pytest.mark.slow
def test_a_sweep_whose_cells_wait_for_a_stage_ends_well(run: Run, small: list[str], in_tmp: Path, quiet: Path) -> None:
    """Both are put back while somebody else holds the stage; then one computes it and the other takes it."""
    stage = take_training(quiet, in_tmp)
    (stage / records.STAGE).unlink()
    lock, waited = FileLock(stage / records.LOCK, thread_local=False), []
    lock.acquire()

    def release() -> None:
        deadline = time.monotonic() + 120
        while len(waited) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            found = [records.read_status(cell) for cell in cells(in_tmp)]
            waited[:] = [str(status.cause) for status in found if status and status.state == "pending"]
        lock.release()

    thread = threading.Thread(target=release)
    thread.start()
    chosen = [word for word in small if not word.startswith("hydra/launcher")]
    options = ["hydra.launcher.max_cells=1", "hydra.launcher.cpus_per_cell=1", "recipe.columns=whole,ground_truth"]
    try:
        assert run(*chosen, *options, "-m") == 0
    finally:
        thread.join()
    assert waited == [f"waits for a stage: train ({stage.name}) is being computed by another cell"] * 2
    logs = [log_of(cell) for cell in cells(in_tmp)]
    assert sorted("being computed in" in log for log in logs) == [False, True]
    assert sorted("taken from" in log for log in logs) == [False, True]
    assert {status.state for cell in cells(in_tmp) if (status := records.read_status(cell))} == {"done"}
    for cell, word in zip(cells(in_tmp), (GROUND_TRUTH, ""), strict=True):  # by their directories' names
        assert config_of(cell)["recipe"]["columns"] == (word.partition("=")[2] or "whole")
        assert_equal(cell, quiet_cell(quiet, word))


def test_a_cell_waits_while_its_stage_is_computed(
    run: Run, small: list[str], in_tmp: Path, quiet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the cell is begun meanwhile."""
    stage = take_training(quiet, in_tmp)
    kept = (stage / records.STAGE).read_bytes()
    (stage / records.STAGE).unlink()
    lock, waits, real = FileLock(stage / records.LOCK), [], accumulate.Accumulate.run
    lock.acquire()

    def wait(_: float) -> None:
        status = records.read_status(the_cell(in_tmp))
        assert status is not None
        waits.append(status)
        if len(waits) == 2:
            (stage / records.STAGE).write_bytes(kept)
            lock.release()

    def work(self: accumulate.Accumulate, factories: Factories) -> Outcome:
        assert len(waits) == 2, "begun before the stage was free"
        return real(self, factories)

    monkeypatch.setattr("capsexp.sweep.job.time.sleep", wait)
    monkeypatch.setattr(accumulate.Accumulate, "run", work)
    assert run(*small) == 0
    assert [status.state for status in waits] == ["pending", "pending"]
    assert waits[0].cause == f"waits for a stage: train ({stage.name}) is being computed by another cell"
    assert_equal(the_cell(in_tmp), quiet_cell(quiet))


# -- training again ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("restart", ["true", "false"])
def test_a_network_trained_again_is_loaded_with_its_masters(
    run: Run, small: list[str], in_tmp: Path, restart: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: dict[str, list[torch.Tensor]] = {}
    real = accumulate.train

    def watched(factories: Any, module: Any, data: Any, directory: Path, **options: Any) -> Any:
        stage = directory.name.rpartition("-")[0]
        inference = {layer.inference for layer in capsule_layers(module.model).values()}
        assert inference == {"folded" if stage == "retrain" else "dynamic"}
        begun[stage] = [value.clone() for value in module.parameters()]
        return real(factories, module, data, directory, **options)

    monkeypatch.setattr(accumulate, "train", watched)
    monkeypatch.setattr(retrain, "train", watched)
    assert run(*small, "recipe=retrain", f"recipe.restart={restart}") == 0
    cell = the_cell(in_tmp)
    loaded, stage = load_run(cell), in_tmp / "multirun" / ".stages"
    model: Any = loaded.module.model
    metrics = loaded.result["metrics"]
    assert {layer.inference for layer in capsule_layers(model).values()} == {"folded"}
    assert accuracy(loaded) == pytest.approx(metrics["test/acc"], abs=1e-12)
    assert np.array_equal(model.class_capsules.master_JI, arrays_of(cell)["master/class_capsules"])
    assert metrics["retrained/change"] == metrics["test/acc"] - metrics["dynamic/acc"]
    assert metrics["fast/change"] == metrics["fast/acc"] - metrics["dynamic/acc"]
    assert loaded.result["training"]["first_epochs"] == EPOCHS
    assert {"fit_s", "retrain_fit_s", "folded_batch128_ms"} <= loaded.result["clocks"].keys()

    (first,), (second,) = (list(stage.glob(f"{name}-*")) for name in ("train", "retrain"))
    assert (cell / records.METRICS).read_bytes() == (second / records.METRICS).read_bytes()
    facts = records.read_result(second, records.STAGE)
    assert facts is not None
    assert facts["metrics"].items() <= metrics.items()
    saved = weights_of(cell)
    assert all(torch.equal(value, saved[name]) for name, value in weights_of(second).items())
    assert not torch.equal(weights_of(first)["model.class_capsules.weight"], saved["model.class_capsules.weight"])
    before = begun["train"] if restart == "true" else list(weights_of(first).values())
    assert all(torch.equal(one, other) for one, other in zip(before, begun["retrain"], strict=True))


@pytest.mark.parametrize("second", ["master", "routing"])
def test_what_a_second_training_leaves_is_its_own(run: Run, small: list[str], in_tmp: Path, second: str) -> None:
    assert run(*small, "recipe=retrain", f"recipe.second={second}", "recipe.columns=ground_truth") == 0
    cell = the_cell(in_tmp)
    loaded = load_run(cell)
    layers = capsule_layers(cast("nn.Module", loaded.module.model)).values()
    assert {layer.inference for layer in layers} == {"folded" if second == "master" else "dynamic"}
    assert accuracy(loaded) == pytest.approx(loaded.result["metrics"]["test/acc"], abs=1e-12)
    kept = arrays_of(cell)
    now = loaded.examine()
    assert {name for name in now if name.startswith(("correlation/", "tuning/"))} <= kept.keys()
    for name, values in now.items():
        np.testing.assert_allclose(kept[name], values, atol=1e-6, err_msg=name)
    own = np.eye(len(now["correlation/classes"]), dtype=bool)
    intra = loaded.result["metrics"]["correlation/classes/intra"]
    assert intra == pytest.approx(np.nanmean(now["correlation/classes"][own]), abs=1e-6)


def test_curves_of_a_second_training_have_its_name_in_front(
    run: Run, small: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: dict[str, list[dict[str, float]]] = {}

    class Seen(CSVLogger):
        def __init__(self, stage: str = "") -> None:
            super().__init__(in_tmp / "seen")
            self.stage = stage

        def of_stage(self, stage: str) -> "Seen":
            return Seen(stage)

        def log_metrics(self, metrics: Any, step: int | None = None) -> None:
            logged.setdefault(self.stage, []).append(metrics)

    @contextlib.contextmanager
    def wandb_run(about: Any) -> Iterator[Any]:
        yield Seen()

    monkeypatch.setattr(build.tracking, "wandb_run", wandb_run)
    monkeypatch.setattr(build.tracking, "summarise", lambda *_: None)
    assert run(*small, "recipe=retrain") == 0
    assert {stage: sum("val/acc" in row for row in rows) for stage, rows in logged.items()} == {
        "": EPOCHS,
        "retrain": EPOCHS,
    }
    assert not any("test/acc" in row for rows in logged.values() for row in rows)  # the summary has them


def test_a_warm_start_sees_a_share_of_the_images_for_a_few_epochs(
    run: Run, small: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[tuple[str, int, int]] = []
    real = accumulate.train

    def watched(factories: Any, module: Any, data: Any, directory: Path, **options: Any) -> Any:
        images = len(data.predict_dataloader()._part.labels)
        counts.append((directory.name.rpartition("-")[0], images, options.get("max_epochs", 0)))
        return real(factories, module, data, directory, **options)

    monkeypatch.setattr(accumulate, "train", watched)
    monkeypatch.setattr(retrain, "train", watched)
    warm = [*small, "recipe=warm_start", "recipe.first_epochs=1"]
    assert run(*warm, "recipe.first_share=0.5") == 0
    body = body_of(the_cell(in_tmp))
    assert counts == [("warm", 36, 1), ("retrain", 72, 0)]
    assert body["data"]["n_train"] == 72
    assert (body["training"]["first_epochs"], body["training"]["epochs"]) == (1, 2)
    assert stages(in_tmp) == ["retrain", "warm"]
    assert len(arrays_of(the_cell(in_tmp))["correlation/images"]) == 72, "all images are accumulated"
    assert run(*warm, "recipe.first_share=0.5", "recipe.restart=true") == 0
    assert counts[2:] == [("retrain", 72, 0)], "the warm start was taken"
    config, recipe = config_of(cells(in_tmp)[0]), retrain.Retrain(first_epochs=1, first_share=0.5)
    shortened = [{"first_epochs": epochs, "first_share": share} for epochs, share in ((1, 0.5), (1, 0.25), (2, 0.25))]
    changed = [config | {"recipe": config["recipe"] | each} for each in shortened]
    assert len({build.factories(each, in_tmp).stages.directory(recipe.first) for each in changed}) == 3


def test_training_again_without_a_shortened_start_shares_the_first_training(quiet: Path) -> None:
    pairs = [(retrain.Retrain(), RETRAIN), (accumulate.Accumulate(), GROUND_TRUTH), (accumulate.Accumulate(), "")]
    makers = [(recipe, build.factories(config_of(quiet_cell(quiet, word)), quiet)) for recipe, word in pairs]
    assert len({factories.stages.directory(recipe.first) for recipe, factories in makers}) == 1


# -- interruptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("owner", "name", "error"),
    [
        (MasterCoefficients, "on_predict_batch_end", KeyboardInterrupt()),
        (CouplingAnalysis, "on_test_batch_end", RuntimeError("broken")),
        (MasterCoefficients, "result_arrays", KeyboardInterrupt()),
    ],
)
def test_interrupted_behind_the_training_equals_uninterrupted(
    run: Run,
    small: list[str],
    in_tmp: Path,
    quiet: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    name: str,
    error: BaseException,
) -> None:
    def fail(*_: object) -> None:
        raise error

    take_training(quiet, in_tmp)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fail)
        assert run(*small) == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert records.read_result(the_cell(in_tmp)) is None
    assert run(*small) == 0
    assert stages(in_tmp) == ["train"]
    assert_equal(the_cell(in_tmp), quiet_cell(quiet))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["recipe.columns=half"], "recipe.columns must be one of whole, ground_truth, got 'half'"),
        (["filter=kmeans", "filter.clusters=0"], "filter.clusters must be a whole number >= 1, got 0"),
        (["recipe=train", "+filter=kmeans"], "filter must come with recipe=accumulate, retrain or warm_start, got"),
        (["recipe=retrain", "recipe.second=both"], "recipe.second must be one of master, routing, got 'both'"),
        (["recipe=retrain", "recipe.first_epochs=0"], "recipe.first_epochs must be a whole number >= 1, got 0"),
        (["recipe=retrain", "recipe.first_share=0"], "recipe.first_share must be a number in (0, 1], got 0"),
        (["recipe=retrain", "recipe.restart=1"], "recipe.restart must be true or false, got 1"),
    ],
)
def test_a_bad_value_is_one_line(
    run: Run, small: list[str], capsys: pytest.CaptureFixture[str], words: list[str], line: str
) -> None:
    assert run(*small, *words) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert line in told[0]


@pytest.mark.parametrize("recipe", ["accumulate", "warm_start"])
def test_a_network_without_capsules_is_refused_before_it_is_trained(
    run: Run, quick: list[str], in_tmp: Path, capsys: pytest.CaptureFixture[str], recipe: str
) -> None:
    assert run(*quick, f"recipe={recipe}") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1
    assert told[0].startswith(
        "capsexp: error: recipe must be train for a network without capsule layers (model=capsnet has some), got"
    )
    status = records.read_status(the_cell(in_tmp))
    assert status is not None
    assert (status.state, status.kind) == ("failed", "config")
    assert not (in_tmp / "multirun" / ".stages").exists()
