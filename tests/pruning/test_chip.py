import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.pruning import chip
from capsexp.pruning.base import Layer
from capsexp.pruning.chip import Chip, quadrature
from tests.references.chip import channel_independence

SEEDS = range(6)
WIDE, TALL, SQUARE = (12, 5, 8), (60, 5, 5), (16, 4, 4)
SHAPES = (WIDE, TALL, SQUARE)
CLOSE = 1e-6
"""Of the largest score, with the default nodes; what is asked for is 1e-5."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def found(maps_BCHW: Tensor, **options: object) -> Tensor:
    return Chip(**options).scores(Layer("conv", torch.ones(maps_BCHW.shape[1], 1, 1, 1), maps_BCHW))  # type: ignore[arg-type]


def expected(maps_BCHW: Tensor) -> Tensor:
    """The mean over the images of the reference's scores."""
    return torch.tensor(np.mean([channel_independence(image) for image in maps_BCHW.flatten(2).double().numpy()], 0))


def assert_close(scores: Tensor, others: Tensor, tolerance: float = CLOSE) -> None:
    assert (scores - others).abs().max() <= tolerance * others.abs().max()


# -- maps -------------------------------------------------------------------------------------------------------------


def plain(*shape: int) -> Tensor:
    return normal(*shape)


def positive(*shape: int) -> Tensor:
    """As after a ReLU."""
    return (normal(*shape) - 0.5).relu()


def dead(*shape: int) -> Tensor:
    maps = positive(*shape)
    maps[:, 1::3] = 0
    return maps


def mostly_dead(*shape: int) -> Tensor:
    """Fewer live channels than places, so that none of them can be replaced, in tall maps as well."""
    maps = normal(*shape)
    maps[:, 4:] = 0
    return maps


def duplicates(*shape: int) -> Tensor:
    maps = normal(*shape)
    maps[:, 3], maps[:, 7] = maps[:, 5], -maps[:, 5]
    return maps


def low_rank(images: int, channels: int, height: int, width: int) -> Tensor:
    return (normal(images, channels, 3) @ normal(images, 3, height * width, seed=1)).view(-1, channels, height, width)


def equal(*shape: int) -> Tensor:
    return normal(*shape)[:, :1].expand(shape).clone()


def nearly_equal(*shape: int) -> Tensor:
    """Singular values of which rounding of a Gram matrix in float64 would leave nothing."""
    return equal(*shape) * (1 + 1e-8 * normal(*shape, seed=1))


def graded(*shape: int) -> Tensor:
    """Channels of norms from 1 down to 1e-9."""
    return normal(*shape) * torch.logspace(0, -9, shape[1], dtype=torch.float64)[:, None, None]


def ill_conditioned(images: int, channels: int, height: int, width: int) -> Tensor:
    """Singular values from 1 down to 1e-14, in no basis that shows it."""
    places = height * width
    rows, columns = (torch.linalg.qr(normal(images, size, size, seed=size)).Q for size in (channels, places))
    count = min(channels, places)
    values = torch.logspace(0, -14, count, dtype=torch.float64)
    return (rows[:, :, :count] * values @ columns[:, :count]).view(-1, channels, height, width)


MAPS = [plain, positive, dead, mostly_dead, duplicates, low_rank, equal, nearly_equal, graded, ill_conditioned]


# -- the definition ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("maps", MAPS)
def test_scores_are_those_of_one_decomposition_a_channel(maps: Callable[..., Tensor], shape: tuple[int, ...]) -> None:
    maps_BCHW = maps(2, *shape)
    reference, scores = expected(maps_BCHW), found(maps_BCHW)
    assert_close(scores, reference)
    in_our_order = reference[scores.argsort()]
    assert (in_our_order.diff() >= -2 * CLOSE * reference.max()).all(), "the order may differ in ties only"


@pytest.mark.parametrize("shape", SHAPES)
def test_plain_maps_give_all_the_digits_that_the_nodes_promise(shape: tuple[int, ...]) -> None:
    maps = plain(3, *shape)
    assert_close(found(maps), expected(maps), 2e-8)
    assert_close(found(maps, nodes=128), expected(maps), 1e-12)


def test_many_equal_channels() -> None:
    """The largest score is small beside the largest singular value: whatever is off by a part of that shows here."""
    maps = equal(1, 400, 21, 20)
    value = (math.sqrt(400) - math.sqrt(399)) * torch.linalg.vector_norm(maps[0, 0])
    assert_close(found(maps), value.expand(400))


def test_a_channel_that_two_others_hold_is_lower_than_one_that_none_holds() -> None:
    maps = normal(1, 6, 4, 4)
    maps[:, 2] = maps[:, 0] + maps[:, 1]
    maps = maps / torch.linalg.vector_norm(maps, dim=(2, 3), keepdim=True)
    assert set(found(maps).argsort()[:3].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("shape", SHAPES)
def test_dead_channels_score_zero_and_nothing_else_does(shape: tuple[int, ...]) -> None:
    maps = dead(2, *shape)
    scores = found(maps)
    assert (scores[1::3] == 0).all()
    assert int((scores == 0).sum()) == len(scores[1::3])


@pytest.mark.parametrize("shape", [*SHAPES, (1, 3, 3), (5, 1, 1), (1, 1, 1)])
def test_maps_of_zeros(shape: tuple[int, ...]) -> None:
    assert torch.equal(found(torch.zeros(2, *shape)), torch.zeros(shape[0], dtype=torch.float64))


def test_an_image_of_zeros_beside_another() -> None:
    maps = normal(2, *WIDE)
    maps[1] = 0
    assert_close(found(maps), expected(maps))


def test_one_channel_or_one_place() -> None:
    maps = normal(1, 1, 4, 5)
    assert_close(found(maps), torch.linalg.vector_norm(maps[0], dim=(1, 2)), 1e-8)
    column = normal(1, 7, 1, 1)
    norms = [torch.linalg.vector_norm(column[0, [i for i in range(7) if i != c]]) for c in range(7)]
    assert_close(found(column), torch.linalg.vector_norm(column) - torch.stack(norms), 1e-7)


# -- laws -------------------------------------------------------------------------------------------------------------


def draw(seed: int) -> Tensor:
    """Maps of some shape, some with dead channels."""
    random = np.random.default_rng(seed)
    maps = normal(2, *(int(size) for size in random.integers((2, 1, 1), (20, 5, 5))), seed=seed)
    maps[:, random.random(maps.shape[1]) < 0.2] = 0
    return maps


@pytest.mark.parametrize("seed", SEEDS)
def test_a_score_is_between_zero_and_the_norm_of_the_channel(seed: int) -> None:
    maps = draw(seed)[:1]
    scores = found(maps)
    assert (scores >= 0).all()
    assert (scores <= torch.linalg.vector_norm(maps[0], dim=(1, 2)) * (1 + 1e-15)).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_permuting_channels_permutes_scores(seed: int) -> None:
    maps = draw(seed)
    order = torch.randperm(maps.shape[1], generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(found(maps[:, order]), found(maps)[order], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_rotating_the_places_changes_nothing(seed: int) -> None:
    maps = draw(seed)
    places = maps[0, 0].numel()
    rotation = torch.linalg.qr(normal(places, places, seed=seed)).Q
    rotated = (maps.flatten(2) @ rotation).view(maps.shape)
    torch.testing.assert_close(found(rotated), found(maps), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [-2.0, 1e-30, 1e30, 1e-200, 1e200])
def test_scores_have_the_unit_of_the_maps(scale: float, shape: tuple[int, ...]) -> None:
    maps = dead(2, *shape)
    torch.testing.assert_close(found(scale * maps) / abs(scale), found(maps), rtol=1e-8, atol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_image_has_its_own_unit(shape: tuple[int, ...]) -> None:
    maps = dead(1, *shape).flatten(2)
    scores = chip.channel_independence(torch.cat([maps, 1e-200 * maps]), quadrature(48))
    torch.testing.assert_close(1e200 * scores[1], scores[0], rtol=1e-8, atol=0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("shape", SHAPES)
def test_maps_in_float32_lose_nothing_but_their_own_digits(shape: tuple[int, ...], scale: float) -> None:
    maps = (scale * positive(2, *shape)).float()
    assert torch.equal(found(maps), found(maps.double()))
    assert_close(found(maps) / scale, found(positive(2, *shape)))


def test_half_precision_is_taken_as_it_is() -> None:
    maps = normal(2, *TALL).half()
    assert torch.equal(found(maps), found(maps.double()))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU in this machine")
def test_a_gpu_gives_the_same_scores() -> None:
    for maps, shape in itertools.product(MAPS, SHAPES):
        maps_BCHW = maps(3, *shape)
        assert_close(found(maps_BCHW.cuda()), found(maps_BCHW))


# -- batches ----------------------------------------------------------------------------------------------------------


def test_per_image_is_the_mean_of_the_images_scores_however_they_fall_into_batches() -> None:
    maps = dead(7, *WIDE)
    whole = found(maps)
    torch.testing.assert_close(whole, torch.stack([found(image[None]) for image in maps]).mean(0))
    torch.testing.assert_close(whole, (5 * found(maps[:5]) + 2 * found(maps[5:])) / 7)


def test_per_batch_mean_scores_the_mean_map() -> None:
    maps = normal(5, *WIDE)
    scores = found(maps, per="batch_mean")
    assert_close(scores, expected(maps.mean(0, keepdim=True)))
    assert (scores < 0.9 * found(maps)).all(), "a mean of independent maps is smaller"
    assert torch.equal(found(maps.float(), per="batch_mean"), found(maps.float().double(), per="batch_mean"))


def of_the_released_code(maps_BCHW: Tensor) -> Tensor:
    """What the code of Sahu and Altahhan computes: the rounded mean map, and a decomposition in float32 per channel."""
    mean_CL = torch.round(maps_BCHW.mean(dim=0), decimals=4).flatten(1)
    without = []
    for channel in range(len(mean_CL)):
        one_less_CL = mean_CL.clone()
        one_less_CL[channel] = 0
        without.append(torch.linalg.norm(one_less_CL, ord="nuc", dtype=torch.float32))
    return torch.linalg.norm(mean_CL, ord="nuc", dtype=torch.float32) - torch.stack(without)


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_the_released_code_rounds_the_mean_map(scale: float) -> None:
    """At a scale of 1e-3 the rounding leaves one or two digits, so scores of the map itself lie elsewhere."""
    maps = scale * (normal(5, *WIDE) - 0.5).relu().float()
    theirs = of_the_released_code(maps).double()
    assert_close(found(maps, per="rounded_batch_mean"), theirs, 1e-5)
    apart = (found(maps, per="batch_mean") - theirs).abs().max() / theirs.max()
    assert apart > 1e-2 if scale < 1 else apart < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_memory_is_bounded_by_chunks(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    maps, sizes = dead(10, *shape), list[int]()
    whole, score = found(maps), chip.channel_independence

    def spy(maps_BCL: Tensor, rule: chip.Quadrature) -> Tensor:
        sizes.append(len(maps_BCL))
        return score(maps_BCL, rule)

    monkeypatch.setattr(chip, "channel_independence", spy)
    for images, budget in ((10, 2**20), (1, 1)):
        sizes.clear()
        monkeypatch.setattr(chip, "CHUNK", {"cpu": budget})
        torch.testing.assert_close(found(maps), whole, rtol=1e-9, atol=1e-12)
        assert sizes == [images] * (10 // images)


@pytest.mark.parametrize(("channels", "places"), [(40, 1024), (225, 225), (256, 9)])
def test_a_chunk_counts_all_that_an_image_needs(channels: int, places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The maps, the Gram matrix, its vectors, U^2 and w, of as many images as fit."""
    monkeypatch.setattr(chip, "CHUNK", {"cpu": 10**7})
    rank = min(channels, places)
    needed = channels * places + 2 * rank**2 + channels * (rank + 48)
    images = chip._images_at_once(torch.zeros(1, channels, places), 48)
    assert 10**7 / 3 < images * needed < 10**7 / 1.5


def test_gradients_and_inputs_are_left_alone() -> None:
    maps = normal(2, *TALL).requires_grad_()
    before = maps.detach().clone()
    assert not found(maps).requires_grad
    assert torch.equal(maps, before)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_decomposition_of_the_smaller_side_an_image(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, eigh = list[tuple[int, ...]](), torch.linalg.eigh

    def spy(matrices: Tensor) -> object:
        sizes.append(tuple(matrices.shape))
        return eigh(matrices)

    monkeypatch.setattr(torch.linalg, "eigh", spy)
    found(normal(3, *shape))
    side = min(shape[0], shape[1] * shape[2])
    assert sizes == [(3, side, side)]


# -- the quadrature ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [8, 15, 24, 32])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_error_is_three_floors_whatever_the_maps(shape: tuple[int, ...], nodes: int) -> None:
    floor = quadrature(nodes).floor
    assert floor == pytest.approx(math.exp(-math.pi * math.sqrt(nodes)))
    for maps in MAPS:
        maps_BCHW = maps(1, *shape)
        largest = torch.linalg.matrix_norm(maps_BCHW[0].flatten(1), 2)
        assert (found(maps_BCHW, nodes=nodes) - expected(maps_BCHW)).abs().max() < 3 * floor * largest, maps


@pytest.mark.parametrize("nodes", [8, 15, 32, 48, 64, 128])
def test_the_rule_gives_a_singular_value_to_the_size_of_its_floor(nodes: int) -> None:
    """1/pi times the integral of log(1 + s^2 / t^2) is s."""
    floor, nodes_Q, weights_Q = quadrature(nodes)
    values = torch.logspace(-20, 0, 200, dtype=torch.float64)
    integrals = (values[:, None] / nodes_Q).square().log1p() @ weights_Q
    assert ((integrals - values).abs() < 3 * floor + 1e-15).all()
    assert (nodes_Q.diff() > 0).all()


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [7, 129, 48.0, True, "48"])
def test_refuses_other_numbers_of_nodes(nodes: object) -> None:
    with pytest.raises(ConfigError, match="nodes must be a whole number from 8 to 128"):
        Chip(nodes=nodes)  # type: ignore[arg-type]


def test_refuses_another_mean() -> None:
    with pytest.raises(ConfigError, match="per must be one of image, batch_mean, rounded_batch_mean, got 'batch'"):
        Chip(per="batch")  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("per", ["image", "batch_mean", "rounded_batch_mean"])
def test_refuses_maps_that_are_not_finite(value: float, per: str) -> None:
    maps = normal(2, *WIDE)
    maps[1, 2, 3, 4] = value
    with pytest.raises(ConfigError, match=r"conv\.maps must be finite"):
        found(maps, per=per)


def test_refuses_no_maps_and_no_images() -> None:
    with pytest.raises(ConfigError, match=r"conv\.maps must be given"):
        Chip().scores(Layer("conv", torch.ones(3, 1, 1, 1)))
    with pytest.raises(ConfigError, match=r"conv\.maps must hold at least one image"):
        found(torch.zeros(0, *WIDE))
