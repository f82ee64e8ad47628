"""The comparisons with a GPU, with the CPU in its place: they work, see a difference, and leave nothing out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchmetrics import Metric

import capsexp.metrics
from capsexp import cli
from capsexp.cell import Cell
from capsexp.metrics.running import RunningMean
from capsexp.stacking.grouping import Settings
from tests.contracts.parts import META, Case, classes_of, names
from tests.cuda import against
from tests.cuda.against import CPU
from tests.cuda.cells import CELLS, DEFAULTS
from tests.stacking import together


def test_a_stack_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices, real = set(), together.run

    def run(cells: list[Cell], *more: Any) -> None:
        devices.update(cell.config["trainer"]["accelerator"] for cell in cells)
        real(cells, *more)

    monkeypatch.setattr(together, "run", run)
    monkeypatch.setattr(against, "accelerator", lambda device: "auto")
    assert against.stacks_differ("wang_capsnet", CPU, tmp_path, Settings("grouped", 1)) == []
    assert devices == {"auto"}


def test_a_cell_with_another_seed_differs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds, real = iter((0, 1)), against.ran
    monkeypatch.setattr(against, "ran", lambda words, *more: real([*words, f"seed={next(seeds)}"], *more))
    lines = against.cells_differ(CELLS["cnn"], CPU, tmp_path)
    assert {line.split("/")[1] for line in lines} >= {"result", "epochs", "best", "arrays"}


def test_a_step_is_compared() -> None:
    assert against.steps_differ(Case("cnn"), CPU, torch.float64) == []
    assert against.losses_differ(Case("cnn"), CPU) == []


def test_a_step_with_the_digits_of_tf32_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse, real = iter((False, True)), against.backward

    def backward(module: nn.Module, *more: Any) -> Any:
        for each in module.parameters() if next(coarse) else []:
            each.data = (each.data.view(torch.int32) & ~0x1FFF).view(torch.float32)  # 10 of 23 bits stay
        return real(module, *more)

    monkeypatch.setattr(against, "backward", backward)
    assert against.steps_differ(Case("cnn"), CPU, torch.float32)


def test_parts_are_compared() -> None:
    for kind in classes_of(capsexp.metrics, Metric):
        assert issubclass(kind, Metric)
        assert against.metrics_differ(kind, CPU) == []
    for name in names("pruning"):
        assert against.scores_differ(name, CPU, 8) == []
    assert against.batches_differ("crop28", CPU) == []


def test_the_second_computation_is_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a tensor has no content, its numbers cannot be compared; whatever came before went well there."""
    comparisons: list[Callable[[], Any]] = [
        lambda: against.steps_differ(Case("cnn"), META, torch.float64),
        lambda: against.metrics_differ(RunningMean, META),
        lambda: against.batches_differ("crop28", META),
    ]
    for compare in comparisons:
        with pytest.raises(NotImplementedError, match="meta tensor"):
            compare()
    words: list[str] = []
    monkeypatch.setattr(cli, "main", words.extend)
    with pytest.raises(AssertionError):
        against.ran([], torch.device("cuda"), tmp_path)
    assert words == ["trainer.accelerator=gpu"]


@pytest.mark.parametrize("group", ["recipe", "model", "routing", "filter", "pruning"])
def test_every_choice_of_a_group_is_in_a_cell(group: str) -> None:
    chosen = {word.partition("=")[2] for words in CELLS.values() for word in words if word.startswith(f"{group}=")}
    missing = set(names(group)) - chosen - DEFAULTS.get(group, set())
    assert not missing, f"no cell of CELLS has {group}={', '.join(sorted(missing))}"
