import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from capsexp import build, rng
from capsexp.errors import ConfigError
from capsexp.models.base import count_parameters
from capsexp.models.baseline_cnn import BaselineCNN
from capsexp.models.cnn import CNN
from tests.references import cnn as reference

Shape = tuple[int, int, int]
GRAY: Shape = (1, 28, 28)
CNN_NODE = {"_target_": "capsexp.models.cnn.CNN", "module": {"_target_": "not.read.Here"}}


def images(shape: Shape, count: int = 2) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def weights(model: nn.Module) -> dict[str, Any]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("shape", [GRAY, (1, 32, 32), (3, 32, 32), (3, 28, 20)])
@pytest.mark.parametrize("model", [CNN, BaselineCNN])
def test_gives_one_score_a_class(model: type[nn.Module], shape: Shape) -> None:
    scores_BK = model(image_shape=shape, classes=46)(images(shape, 5).float())
    assert scores_BK.shape == (5, 46)
    assert scores_BK.dtype == torch.float32


def test_cnn_halves_the_image_three_times() -> None:
    layers = CNN(image_shape=GRAY, classes=46, c1=6, c2=5, c3=4).layers
    seen, maps = [], images(GRAY).float()
    for name, layer in layers.named_children():
        maps = layer(maps)
        if name.startswith("pool"):
            seen.append(tuple(maps.shape[1:]))
    assert seen == [(6, 14, 14), (5, 7, 7), (4, 3, 3)]
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Conv2d", "MaxPool2d", "ReLU", "Dropout"] * 3 + ["Flatten", "Linear"]


def test_sizes_follow_the_image() -> None:
    assert CNN(image_shape=(1, 32, 32), classes=10, c3=16).layers.linear.weight.shape == (10, 16 * 4 * 4)
    assert CNN(image_shape=(3, 8, 17), classes=10, c3=16).layers.linear.weight.shape == (10, 16 * 1 * 2)
    assert BaselineCNN(image_shape=(1, 32, 32), classes=10).linear1.weight.shape == (128, 12 * 6 * 6)


def wang(c1: int, c2: int, c3: int) -> int:
    return 49 * c1 + 25 * c1 * c2 + 9 * c2 * c3 + 9 * c3 * 46


@pytest.mark.parametrize("c1", [1, 6])
@pytest.mark.parametrize("c2", [2, 7, 16])
@pytest.mark.parametrize("c3", [2, 6, 16])
def test_params_paper_is_the_formula(c1: int, c2: int, c3: int) -> None:
    model = CNN(image_shape=GRAY, classes=46, c1=c1, c2=c2, c3=c3)
    assert model.params_paper() == wang(c1, c2, c3)
    assert count_parameters(model) == wang(c1, c2, c3) + c1 + c2 + c3 + 46


def test_the_numbers_of_the_paper() -> None:
    assert wang(6, 16, 16) == CNN(image_shape=GRAY, classes=46).params_paper() == 11_622
    assert wang(6, 7, 6) == CNN(image_shape=GRAY, classes=46, c2=7, c3=6).params_paper() == 4_206


def test_baseline_params() -> None:
    model = BaselineCNN(image_shape=GRAY, classes=46)
    assert model.params_paper() == 25 * 4 + 25 * 4 * 12 + 12 * 5 * 5 * 128 + 128 * 46 == 45_588
    assert count_parameters(model) == 45_588 + 4 + 12 + 128 + 46


def test_frozen_parameters_are_not_counted() -> None:
    model = CNN(image_shape=GRAY, classes=46)
    model.layers.conv1.requires_grad_(False)
    assert count_parameters(model) == 11_622 + 84 - 6 * 50


@pytest.mark.parametrize(("shape", "kernels"), [((1, 16, 16), (7, 5, 3)), ((3, 9, 13), (3, 1, 5))])
def test_cnn_matches_the_nested_loops(shape: Shape, kernels: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = CNN(image_shape=shape, classes=5, c1=2, c2=3, c3=2, kernels=kernels).double().eval()
    batch = images(shape)
    expected = [reference.cnn(image.numpy(), weights(model), kernels) for image in batch]
    np.testing.assert_allclose(model(batch).detach(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 13, 18)])
def test_baseline_matches_the_nested_loops(shape: Shape) -> None:
    torch.manual_seed(0)
    model = BaselineCNN(image_shape=shape, classes=5, c1=2, c2=3, hidden=7).double().eval()
    batch = images(shape)
    expected = [reference.baseline(image.numpy(), weights(model)) for image in batch]
    np.testing.assert_allclose(model(batch).detach(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("model", [CNN, BaselineCNN])
def test_dropout_acts_in_training_alone(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    net, batch = model(image_shape=GRAY, classes=46), images(GRAY).float()
    assert not torch.equal(net(batch), net(batch))
    net.eval()
    assert torch.equal(net(batch), net(batch))
    still = model(image_shape=GRAY, classes=46, dropout=0)
    assert torch.equal(still(batch), still(batch))


def make(seed: int = 0, **changes: Any) -> nn.Module:
    config = {"seed": seed, "model": {**CNN_NODE, **changes}}
    return build.make_model(config, image_shape=GRAY, classes=46)


def test_making_a_model_leaves_all_random_states_alone() -> None:
    before = rng.states()
    drawn = [make(seed=seed).random_states for seed in (3, 4)]
    after = rng.states()
    assert torch.equal(before["torch"], after["torch"])
    assert torch.equal(before["numpy"][1], after["numpy"][1])
    assert before["python"] == after["python"]
    assert not torch.equal(drawn[0]["torch"], drawn[1]["torch"])


def test_a_model_remembers_the_states_behind_the_drawing_of_its_weights() -> None:
    kept = make(seed=3).random_states
    torch.manual_seed(3)
    CNN(image_shape=GRAY, classes=46)
    assert torch.equal(torch.get_rng_state(), kept["torch"])
    before = rng.states()
    rng.put_back(kept)
    assert torch.equal(torch.get_rng_state(), kept["torch"])
    assert (np.random.rand(), random.random()) == (np.random.RandomState(3).rand(), random.Random(3).random())
    rng.put_back(before)


def test_the_seed_alone_decides_the_weights() -> None:
    first = weights(make(seed=3))
    torch.rand(7)
    assert all(np.array_equal(first[name], value) for name, value in weights(make(seed=3)).items())
    assert not any(np.array_equal(first[name], value) for name, value in weights(make(seed=4)).items())


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("c1", 0, "model.c1 must be a whole number >= 1, got 0"),
        ("c2", 0, "model.c2 must be a whole number >= 1, got 0"),
        ("c3", 2.5, "model.c3 must be a whole number >= 1, got 2.5"),
        ("c2", True, "model.c2 must be a whole number >= 1, got True"),
        ("c2", "many", "model.c2 must be a whole number >= 1, got 'many'"),
        ("kernels", [7, 4, 3], "model.kernels must be odd sizes, got 4"),
        ("kernels", [7, 5], "model.kernels must hold three sizes, got [7, 5]"),
        ("kernels", [7, 5, 0], "model.kernels must be a whole number >= 1, got 0"),
        ("dropout", 1.0, "model.dropout must be a number in [0, 1), got 1.0"),
        ("dropout", -0.1, "model.dropout must be a number in [0, 1), got -0.1"),
        ("dropout", math.nan, "model.dropout must be a number in [0, 1), got nan"),
    ],
)
def test_errors_name_key_rule_and_value(key: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(**{key: value})
    assert str(caught.value) == words


def test_an_unknown_argument_names_the_group() -> None:
    with pytest.raises(ConfigError, match=r"model must be arguments that capsexp.models.cnn.CNN takes \(.*'c4'"):
        make(c4=3)


@pytest.mark.parametrize(("model", "smallest"), [(CNN, 8), (BaselineCNN, 12)])
def test_an_image_too_small_is_refused_and_the_smallest_works(model: type[nn.Module], smallest: int) -> None:
    for shape in ((1, smallest - 1, 40), (1, 40, smallest - 1)):
        with pytest.raises(ConfigError, match=rf"image_shape must give images of at least {smallest}x{smallest}"):
            model(image_shape=shape, classes=3)
    shape = (1, smallest, smallest)
    assert model(image_shape=shape, classes=3)(images(shape).float()).shape == (2, 3)


@pytest.mark.parametrize("changes", [{"c1": 0}, {"c2": -1}, {"hidden": 0}, {"dropout": 1}])
def test_baseline_checks_its_arguments(changes: dict[str, Any]) -> None:
    (key,) = changes
    with pytest.raises(ConfigError, match=f"^{key} must be"):
        BaselineCNN(image_shape=GRAY, classes=46, **changes)
