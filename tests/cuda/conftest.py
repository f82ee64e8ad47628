"""Which device is compared with the CPU."""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU, or what ``CAPSEXP_TEST_DEVICE`` puts in its place; without a GPU the test is skipped."""
    name = os.environ.get("CAPSEXP_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no GPU (CAPSEXP_TEST_DEVICE=cpu puts the CPU in its place)")
    return torch.device(name)
