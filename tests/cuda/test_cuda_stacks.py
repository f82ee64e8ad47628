"""Stacks on a GPU: every file of a member says what the cell says that was trained alone, on the CPU."""

from pathlib import Path

import pytest
import torch

from capsexp.stacking.grouping import Settings
from tests.cuda.against import stacks_differ

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("default"),
]  # of sums in any order


@pytest.mark.parametrize("buckets", [1, 2])
@pytest.mark.parametrize("impl", ["grouped", "vmap", "unfold", "loop"])
def test_networks_of_different_widths(impl: str, buckets: int, device: torch.device, tmp_path: Path) -> None:
    assert stacks_differ("cnn", device, tmp_path, Settings(impl, buckets)) == []


@pytest.mark.parametrize("name", ["autoencoder", "shared_autoencoder", "capsnet", "wang_capsnet", "walk", "settings"])
def test_other_networks(name: str, device: torch.device, tmp_path: Path) -> None:
    assert stacks_differ(name, device, tmp_path, Settings("auto", "auto")) == []
