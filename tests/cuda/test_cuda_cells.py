"""Cells of every recipe and network: what they find on a GPU is what they find on the CPU."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

import capsexp.callbacks
from capsexp.callbacks.base import ResultCallback
from tests.contracts.parts import classes_of
from tests.cuda.against import cells_differ
from tests.cuda.cells import CELLS

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("default"),
]  # of sums in any order

MET: dict[str, set[type]] = {}
"""The callbacks of the cells that have run, by the name of the cell."""


@pytest.fixture
def met(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[type]]:
    real, found = L.Trainer.__init__, MET.setdefault(request.node.callspec.params["name"], set())

    def noted(self: L.Trainer, *given: Any, **options: Any) -> None:
        found.update(type(each) for each in options.get("callbacks") or [])
        real(self, *given, **options)

    monkeypatch.setattr(L.Trainer, "__init__", noted)
    return found


@pytest.mark.parametrize("name", CELLS)
def test_a_cell(name: str, device: torch.device, tmp_path: Path, met: set[type]) -> None:
    assert cells_differ(CELLS[name], device, tmp_path) == []
    assert met


def test_every_callback_was_in_a_cell(device: torch.device) -> None:
    if MET.keys() != set(CELLS):
        pytest.skip("not all cells have run in this process")
    wanted = {each for each in classes_of(capsexp.callbacks, L.Callback) if each is not ResultCallback}
    missing = sorted(each.__name__ for each in wanted - set().union(*MET.values()))
    assert not missing, f"no cell of CELLS has {', '.join(missing)}"
