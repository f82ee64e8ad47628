"""A sweep's workspace names runs, axes and metrics as Weights & Biases knows them."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from capsexp import dashboard, records

AXES = {"model.c2": [4, 8, 16], "data": ["digits", "mnist"], "seed": [0, 1], "model.c3": [6]}
CONFIG = {
    "model": {"c2": 4, "c3": 6}, "data": {"name": "digits"}, "seed": 0,
    "logger": {"wandb": {"project": "mine", "entity": "team"}},
}  # fmt: skip
REPORT = {
    "title": "A sweep",
    "axes": {"model.c2": {"label": "c2", "unit": "channels"}},
    "figures": [
        {"kind": "surface", "name": "one", "title": "One", "x": "model.c2", "y": "data", "metric": "test/acc"},
        {"kind": "line", "name": "two", "title": "Two", "x": "seed", "metric": "training.epochs"},
        {"kind": "heatmap", "name": "three", "x": "model.c2", "y": "seed", "metric": "data.n_train"},
        {"kind": "kernels", "name": "four", "layer": "conv1", "metric": "test/acc", "pick": "max"},
    ],
}  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style:DeprecationWarning")  # in wandb-workspaces itself

WITHOUT = "wandb-workspaces is not installed; it comes with the extra 'dashboard', which the command needs too"


@pytest.fixture
def needs_workspaces() -> None:
    pytest.importorskip("wandb_workspaces", reason=WITHOUT)


def sweep(folder: Path, name: str = "cnn prune", report: dict[str, Any] | None = None, **axes: list[Any]) -> Path:
    chosen = axes or AXES
    cells = [records.PlannedCell(f"{number:010d}", f"c-{number:010d}", {}) for number in range(24)]
    report = REPORT if report is None else report
    records.write_sweep(folder, records.Sweep(name, chosen, cells, [], report))
    records.write_configs(folder, {cells[0].id: records.FrozenCell(CONFIG, [])})
    return folder


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert dashboard.main([*words, "--json"]) == 0
    kept: dict[str, Any] = json.loads(capsys.readouterr().out)
    return kept


def panels(kept: dict[str, Any], section: str) -> list[tuple[str, dict[str, Any]]]:
    sections = kept["spec"]["section"]["panelBankConfig"]["sections"]
    (found,) = (each for each in sections if each["name"] == section)
    return [(panel["viewType"], panel["config"]) for panel in found["panels"]]


@pytest.mark.usefixtures("needs_workspaces")
def test_the_results_are_the_reports_figures_over_the_swept_axes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = shown(capsys, str(sweep(tmp_path)))
    assert (kept["project"], kept["entity"], kept["displayName"]) == ("mine", "team", "A sweep")
    (surface, over), (line, along), (parallel, columns) = panels(kept, "Results")
    assert (surface, line, parallel) == ("Scatter Plot", "Scatter Plot", "Parallel Coordinates Plot")
    assert [over[key] for key in ("chartTitle", "xAxis", "yAxis", "zAxis")] == [
        "One", "config:model.value.c2", "summary:data", "summary:test/acc",
    ]  # fmt: skip
    assert len(over["customGradient"]) == 3
    assert (along["xAxis"], along["yAxis"], "zAxis" in along) == ("config:seed.value", "summary:training/epochs", False)
    assert [(column["accessor"], column["displayName"]) for column in columns["columns"]] == [
        ("config:model.value.c2", "c2 (channels)"), ("summary:data", "data"), ("config:seed.value", "seed"),
        ("summary:test/acc", "test accuracy (share)"),
    ]  # fmt: skip


@pytest.mark.usefixtures("needs_workspaces")
def test_a_sweep_without_figures_gets_the_standard_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = shown(capsys, str(sweep(tmp_path, report={})))
    drawn = [(config.get("xAxis"), config.get("yAxis"), config.get("zAxis")) for _, config in panels(kept, "Results")]
    accuracy, c2, seed = "summary:test/acc", "config:model.value.c2", "config:seed.value"
    assert drawn == [
        (c2, "summary:data", accuracy), (c2, accuracy, None), ("summary:data", accuracy, None), (seed, accuracy, None),
        (None, None, None),
    ]  # fmt: skip
    assert kept["displayName"] == "cnn prune"


@pytest.mark.usefixtures("needs_workspaces")
def test_curves_are_drawn_over_epochs_for_every_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = shown(capsys, str(sweep(tmp_path)))
    curves = [config for name in ("Training", "Kernels", "Capsules") for _, config in panels(kept, name)]
    assert {config["xAxis"] for config in curves} == {"epoch"}
    assert {config["limit"] for config in curves} == {24}
    assert [config["metrics"] for config in curves[:3]] == [["train/loss"], ["val/loss"], ["train/acc", "val/acc"]]
    found = [config["metricRegex"] for config in curves[3:] if config["useMetricRegex"]]
    assert found == [r"^similarity/.*/max$", r"^distance/.*/min$", r"capsules/(.*/)?dead_share$"]


@pytest.mark.usefixtures("needs_workspaces")
@pytest.mark.parametrize("name", ["cnn prune", "it's", 'a"b', "a\\b", "lr=0.1", "a<b>=c", "größer", "x" * 200])
def test_only_the_sweeps_own_runs_are_shown(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = shown(capsys, str(sweep(tmp_path, name)))
    (runs,) = kept["spec"]["section"]["runSets"]
    found = json.dumps(runs["filters"])
    assert json.dumps(dashboard.names.group(name)) in found
    assert found.count('"value"') == 1
    assert '"group"' in found


@pytest.mark.usefixtures("needs_workspaces")
def test_project_and_entity_can_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = shown(capsys, str(sweep(tmp_path)), "--project", "other", "--entity", "me")
    assert (kept["project"], kept["entity"]) == ("other", "me")


def test_what_the_user_can_mend_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    assert dashboard.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("capsexp.dashboard: error: DIR must hold a sweep (sweep.json is missing")
    assert dashboard.main([str(sweep(tmp_path)), "--project", "a/b", "--json"]) == 2
    assert "error: logger.wandb.project must be" in capsys.readouterr().err
    assert dashboard.main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "capsexp.dashboard: error: login must exist (run `wandb login`, or set WANDB_API_KEY), got None\n"
    )


def test_without_the_extra_one_line_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    for name in [name for name in sys.modules if name.startswith("wandb_workspaces.")]:
        monkeypatch.delitem(sys.modules, name)
    assert dashboard.main([str(sweep(tmp_path)), "--json"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "pip install 'capsexp[dashboard]'" in err


@pytest.mark.usefixtures("needs_workspaces")
def test_saving_prints_the_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Saved:
        url = "https://wandb.ai/team/mine?nw=abc"

        def save(self) -> "Saved":
            return self

    made: list[tuple[str, str]] = []
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr(dashboard, "workspace", lambda plan, *where: made.append(where) or Saved())
    assert dashboard.main([str(sweep(tmp_path))]) == 0
    assert (made, capsys.readouterr().out) == ([("mine", "team")], f"{Saved.url}\n")


@pytest.mark.usefixtures("needs_workspaces")
def test_a_refusal_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise ConnectionError("no\nnet")

    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", refuse)
    assert dashboard.main([str(sweep(tmp_path))]) == 1
    assert capsys.readouterr().err == "capsexp.dashboard: error: Weights & Biases did not take it: no net\n"
