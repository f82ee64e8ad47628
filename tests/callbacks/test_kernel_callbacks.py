"""What the callbacks read from a model's convolutions."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from capsexp.callbacks.base import ResultCallback
from capsexp.callbacks.criterion_scores import CriterionScores
from capsexp.callbacks.kernel_similarity import KernelSimilarityLogger
from capsexp.callbacks.layers import convolutions
from capsexp.errors import ConfigError
from capsexp.models.baseline_cnn import BaselineCNN
from capsexp.models.cnn import CNN
from capsexp.pruning.base import Criterion
from capsexp.pruning.magnitude import Magnitude
from tests.references.similarity import norm, similarity_matrix


class Module(SimpleNamespace):
    """A stand-in that keeps what is logged."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model=model, logged={})

    def log(self, name: str, value: float) -> None:
        self.logged[name] = value


@pytest.fixture
def module() -> Any:
    torch.manual_seed(0)
    return Module(CNN(image_shape=(1, 28, 28), classes=4, c1=6, c2=5, c3=3))


def weights(module: Any) -> dict[str, np.ndarray]:
    return {f"conv{n}": module.model.layers.get_submodule(f"conv{n}").weight.detach().numpy() for n in (1, 2, 3)}


def test_similarity_is_the_references(module: Any) -> None:
    found = KernelSimilarityLogger().result_metrics(module)
    expected = {}
    for name, weight in weights(module).items():
        matrix_OO = similarity_matrix(weight.reshape(len(weight), -1).astype(np.float64))
        largest = matrix_OO[~np.eye(len(matrix_OO), dtype=bool)].max()
        expected |= {f"similarity/{name}/max": largest, f"distance/{name}/min": 1 - largest}
    assert found == pytest.approx(expected, abs=1e-12)
    assert list(found) == list(expected)


def test_every_epoch_logs_what_the_result_would_say(module: Any) -> None:
    KernelSimilarityLogger().on_train_epoch_end(SimpleNamespace(), module)  # type: ignore[arg-type]
    assert module.logged == KernelSimilarityLogger().result_metrics(module)


def test_kernels_are_kept_as_they_are(module: Any) -> None:
    arrays = KernelSimilarityLogger().result_arrays(module)
    assert {name: array.shape for name, array in arrays.items()} == {
        "kernels/conv1": (6, 1, 7, 7),
        "kernels/conv2": (5, 6, 5, 5),
        "kernels/conv3": (3, 5, 3, 3),
    }
    assert all(np.array_equal(arrays[f"kernels/{name}"], weight) for name, weight in weights(module).items())
    assert all(array.dtype == np.float32 for array in arrays.values())


def test_one_filter_has_no_pair() -> None:
    module: Any = Module(CNN(image_shape=(1, 28, 28), classes=4, c2=1))
    found = KernelSimilarityLogger().result_metrics(module)
    assert [name for name, value in found.items() if math.isnan(value)] == [
        "similarity/conv2/max",
        "distance/conv2/min",
    ]


def test_scores_are_the_criterions(module: Any) -> None:
    arrays = CriterionScores(Magnitude(norm=1)).result_arrays(module)
    assert list(arrays) == ["scores/conv1", "scores/conv2", "scores/conv3"]
    for name, weight in weights(module).items():
        expected = [norm(row, 1) for row in weight.reshape(len(weight), -1).astype(np.float64)]
        np.testing.assert_allclose(arrays[f"scores/{name}"], expected, rtol=1e-12)


def test_a_diverged_layer_has_no_scores(module: Any) -> None:
    nn.init.constant_(module.model.layers.conv2.weight, math.nan)
    arrays = CriterionScores(Magnitude()).result_arrays(module)
    assert list(arrays) == ["scores/conv1", "scores/conv3"]


def test_a_criterion_that_needs_maps_is_refused() -> None:
    class Maps(Criterion):
        needs = "maps"

        def scores(self, layer: object) -> torch.Tensor:
            raise AssertionError

    with pytest.raises(ConfigError, match=r"^criterion must read weights .*, got 'Maps'$"):
        CriterionScores(Maps())


def test_a_result_callback_adds_nothing_by_itself(module: Any) -> None:
    assert ResultCallback().result_metrics(module) == {}
    assert ResultCallback().result_arrays(module) == {}


def test_convolutions_in_order_by_their_last_name() -> None:
    assert list(convolutions(CNN(image_shape=(1, 28, 28), classes=4))) == ["conv1", "conv2", "conv3"]
    assert list(convolutions(BaselineCNN(image_shape=(1, 28, 28), classes=4))) == ["conv1", "conv2"]


def test_names_that_are_not_unique_are_written_whole() -> None:
    block = {"left": nn.Sequential(nn.Conv2d(1, 1, 1)), "right": nn.Sequential(nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1))}
    assert list(convolutions(nn.ModuleDict(block))) == ["left.0", "right.0", "1"]
