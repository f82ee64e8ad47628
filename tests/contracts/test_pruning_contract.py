"""What every criterion in ``conf/pruning`` owes, whoever wrote it."""

import inspect
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from capsexp.pruning.base import Criterion, Layer
from capsexp.pruning.selection import Selection

FOLDER = Path(__file__).parents[2] / "conf" / "pruning"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
CHANNELS = 12
TWINS = (3, 8)
SELECTION = list(inspect.signature(Selection).parameters)
"""Keys of the group that are not the criterion's."""


def build(name: str, seed: int = 0) -> Criterion:
    # The root's seed is all that a group may refer to.
    config = OmegaConf.create({"seed": seed, "pruning": OmegaConf.load(FOLDER / f"{name}.yaml")})
    own = {key: value for key, value in config.pruning.items() if key not in SELECTION}
    criterion = instantiate(own)
    assert isinstance(criterion, Criterion)
    return criterion


@pytest.fixture(params=NAMES)
def criterion(request: pytest.FixtureRequest) -> Criterion:
    return build(request.param)


def tensors(channels: int = CHANNELS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight_OCHW = torch.randn(channels, 3, 3, 3, generator=generator)
    maps_BCHW = torch.randn(4, channels, 5, 5, generator=generator)
    return weight_OCHW, maps_BCHW


def scores(criterion: Criterion, weight_OCHW: Tensor, maps_BCHW: Tensor) -> Tensor:
    return criterion.scores(Layer("conv2", weight_OCHW, maps_BCHW if criterion.needs == "maps" else None))


def test_there_are_criteria() -> None:
    assert {"cosine", "magnitude", "random"} <= set(NAMES)


def test_says_what_it_needs(criterion: Criterion) -> None:
    assert criterion.needs in ("weights", "maps")
    assert isinstance(criterion.redundancy, bool)


@pytest.mark.parametrize("channels", [1, 2, CHANNELS])
def test_one_finite_score_a_channel(criterion: Criterion, channels: int) -> None:
    found = scores(criterion, *tensors(channels))
    assert found.shape == (channels,)
    assert found.dtype == torch.float64
    assert found.device.type == "cpu"
    assert found.isfinite().all()


def test_touches_nothing_and_carries_no_gradient(criterion: Criterion) -> None:
    weight, maps = tensors()
    before, random_state = weight.clone(), torch.random.get_rng_state()
    assert not scores(criterion, weight.requires_grad_(), maps.requires_grad_()).requires_grad
    assert torch.equal(weight, before)
    assert torch.equal(torch.random.get_rng_state(), random_state)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_scores(name: str) -> None:
    weight, maps = tensors()
    first, second = (build(name, seed=7) for _ in range(2))
    expected = scores(first, weight, maps)
    assert torch.equal(scores(second, weight, maps), expected)
    assert torch.equal(scores(first, weight, maps), expected), "scoring twice must not change the draw"


def test_permuting_the_channels_permutes_the_scores(criterion: Criterion) -> None:
    if not criterion.equivariant:
        pytest.skip("scores by place, and says so")
    weight, maps = tensors()
    order = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(1))
    expected = scores(criterion, weight, maps)[order]
    torch.testing.assert_close(scores(criterion, weight[order], maps[:, order]), expected)


def test_only_random_scores_by_place() -> None:
    assert [name for name in NAMES if not build(name).equivariant] == ["random"]


def test_of_two_twins_one_is_the_lowest(criterion: Criterion) -> None:
    if not criterion.redundancy:
        pytest.skip("does not measure redundancy, and says so")
    weight, maps = tensors()
    first, second = TWINS
    weight[second], maps[:, second] = weight[first], maps[:, first]
    assert int(scores(criterion, weight, maps).argmin()) in TWINS


# Only a criterion that judges each channel after the ones before it are gone can do more: keep the other twin.
@pytest.mark.parametrize("name", ["cosine"])
def test_the_other_twin_stays(name: str) -> None:
    weight, maps = tensors()
    first, second = TWINS
    weight[second] = weight[first]
    # A pair less alike than the twins, so that there is someone to go second.
    weight[0] = weight[5] + 0.5 * weight[0]
    found = scores(build(name), weight, maps)
    lowest, next_lowest = found.argsort()[:2].tolist()
    assert lowest in TWINS
    assert next_lowest not in TWINS
