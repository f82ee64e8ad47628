"""Steps of every network, metrics, criteria and batches: a GPU's numbers are the CPU's."""

import pytest
import torch
from torchmetrics import Metric

import capsexp.metrics
from tests.contracts.parts import cases, classes_of, names
from tests.cuda.against import batches_differ, losses_differ, metrics_differ, scores_differ, steps_differ

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("default"),
]  # of sums in any order


@pytest.mark.parametrize("model", names("model"))
def test_a_step(model: str, device: torch.device) -> None:
    for case in cases(model):
        assert steps_differ(case, device, torch.float64) == []
    assert steps_differ(cases(model)[0], device, torch.float32) == []


@pytest.mark.parametrize("model", names("model"))
def test_a_step_in_half_precision(model: str, device: torch.device) -> None:
    for case in cases(model):
        if not case.correlated:  # a penalty on the same maps
            assert losses_differ(case, device) == []


@pytest.mark.parametrize("kind", classes_of(capsexp.metrics, Metric))
def test_a_metric(kind: type[Metric], device: torch.device) -> None:
    assert metrics_differ(kind, device) == []


@pytest.mark.parametrize("channels", [8, 48])  # fewer and more than a map has places
@pytest.mark.parametrize("name", names("pruning"))
def test_a_criterion(name: str, channels: int, device: torch.device) -> None:
    assert scores_differ(name, device, channels) == []


def test_scores_of_float32_maps(device: torch.device) -> None:
    assert scores_differ("chip", device, 48, torch.float32) == []


@pytest.mark.parametrize("name", names("augment"))
def test_batches(name: str, device: torch.device) -> None:
    assert batches_differ(name, device) == []
