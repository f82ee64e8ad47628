from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.filters.similarity import DotProduct, Pearson, Similarity
from tests.filters.passes import chosen, draw
from tests.references import filters as reference

MAKERS: dict[str, Any] = {"pearson": Pearson, "dot_product": DotProduct}


@pytest.fixture(params=sorted(MAKERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("contrast", [False, True])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8, 0.95, 1])
@pytest.mark.parametrize("images", [7, 60, 151])
def test_equals_its_reference(name: str, keep: float, contrast: bool, images: int) -> None:
    columns_NI, labels_N = draw(images, dtype=torch.float64)
    columns_NI[images // 2] = 0.3  # one that does not vary
    scores = reference.scores(name, columns_NI.numpy(), labels_N.numpy(), contrast)
    kept_N = chosen(MAKERS[name](keep=keep, contrast=contrast), columns_NI, labels_N)
    assert kept_N.tolist() == reference.best(scores, labels_N.numpy(), keep)


def test_scores_equal_their_reference(name: str) -> None:
    columns_NI, labels_N = draw(dtype=torch.float64)
    columns_NI[5] = 0.3
    for contrast in (False, True):
        filter: Similarity = MAKERS[name](contrast=contrast)
        chosen(filter, columns_NI, labels_N)
        expected = reference.scores(name, columns_NI.numpy(), labels_N.numpy(), contrast)
        torch.testing.assert_close(filter._score(columns_NI, labels_N).tolist(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.5, 0.8])
def test_keeps_that_share_of_every_class(name: str, keep: float) -> None:
    columns_NI, labels_N = draw(170)
    labels_N[:90] = 0  # not all equally frequent
    kept_N = chosen(MAKERS[name](keep=keep), columns_NI, labels_N)
    for label in range(3):
        own_N = labels_N == label
        assert int(kept_N[own_N].sum()) == max(1, round(keep * int(own_N.sum())))


def test_keeps_what_is_as_good_as_the_last(name: str) -> None:
    columns_NI, labels_N = draw(40, classes=1)
    scores_N = torch.tensor(reference.scores(name, columns_NI.double().numpy(), labels_N.numpy()))
    columns_NI = columns_NI[scores_N.argsort()].repeat_interleave(2, 0)  # pairs; the mean stays
    labels_N = labels_N.repeat_interleave(2)
    assert int(chosen(MAKERS[name](keep=0.5 - 1 / 80), columns_NI, labels_N, classes=1).sum()) == 40


def test_does_not_care_for_the_last_digit(name: str) -> None:
    columns_NI, labels_N = draw()
    filter = MAKERS[name](keep=0.5)
    expected = chosen(filter, columns_NI, labels_N)
    noise_NI = torch.rand(columns_NI.shape, generator=torch.Generator().manual_seed(2)) - 0.5
    again_NI = columns_NI * (1 + torch.finfo(torch.float32).eps * noise_NI)
    assert torch.equal(filter.keep(again_NI, labels_N), expected)


def test_pearson_drops_planted_outliers() -> None:
    generator = torch.Generator().manual_seed(3)
    labels_N = torch.arange(800) % 2
    means_KI = torch.rand(2, 100, generator=generator)
    columns_NI = means_KI[labels_N] + 0.1 * torch.randn(800, 100, generator=generator)
    planted_N = torch.arange(800) % 40 < 2
    columns_NI[planted_N] = torch.rand(40, 100, generator=generator)
    kept_N = chosen(Pearson(keep=0.9), columns_NI, labels_N, classes=2)
    assert not kept_N[planted_N].any()
    assert int(kept_N.sum()) == 720


def test_contrast_drops_what_is_like_another_class_and_not_what_is_unlike_all() -> None:
    generator = torch.Generator().manual_seed(3)
    means_KI, labels_N, place_N = torch.rand(2, 50, generator=generator), torch.arange(200) % 2, torch.arange(200) // 2
    columns_NI = means_KI[labels_N] + 0.01 * torch.randn(200, 50, generator=generator)
    between_N, noisy_N = place_N < 10, (place_N >= 10) & (place_N < 20)
    columns_NI[between_N] = (0.55 * means_KI[labels_N] + 0.45 * means_KI[1 - labels_N])[between_N]
    columns_NI[noisy_N] += 0.6 * torch.randn(20, 50, generator=generator)
    plain_N, contrast_N = (
        chosen(Pearson(keep=0.9, contrast=each), columns_NI, labels_N, classes=2) for each in (False, True)
    )
    assert torch.equal(plain_N, ~noisy_N)
    assert torch.equal(contrast_N, ~between_N)


def test_contrast_without_another_class_is_none(name: str) -> None:
    columns_NI, labels_N = draw(classes=1)
    for classes in (1, 2):
        first, second = (
            chosen(MAKERS[name](contrast=each), columns_NI, labels_N, classes=classes) for each in (False, True)
        )
        assert torch.equal(first, second)


def test_a_class_without_images_is_nobodys_rival(name: str) -> None:
    columns_NI, labels_N = draw(classes=2)
    columns_NI -= torch.where(labels_N == 0, 0.9, 0.1)[:, None]  # the other class' similarity is negative
    first, second = (MAKERS[name](contrast=True) for _ in range(2))
    chosen(first, columns_NI, labels_N, classes=2)
    chosen(second, columns_NI, labels_N, classes=4)
    torch.testing.assert_close(first._score(columns_NI, labels_N), second._score(columns_NI, labels_N))


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 1000), keep=st.floats(0.05, 1), contrast=st.booleans(), which=st.sampled_from(sorted(MAKERS))
)
def test_permuting_the_images_permutes_the_choice(seed: int, keep: float, contrast: bool, which: str) -> None:
    columns_NI, labels_N = draw(40, seed=seed)
    order_N = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    expected = chosen(MAKERS[which](keep=keep, contrast=contrast), columns_NI, labels_N)[order_N]
    found = chosen(MAKERS[which](keep=keep, contrast=contrast), columns_NI[order_N], labels_N[order_N])
    assert torch.equal(found, expected)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), factor=st.floats(1e-3, 1e3), shift=st.floats(-1, 1), contrast=st.booleans())
def test_pearson_does_not_see_scale_and_shift(seed: int, factor: float, shift: float, contrast: bool) -> None:
    columns_NI, labels_N = draw(40, seed=seed, dtype=torch.float64)
    expected = chosen(Pearson(contrast=contrast), columns_NI, labels_N)
    found = chosen(Pearson(contrast=contrast), factor * (columns_NI + shift), labels_N)
    assert torch.equal(found, expected)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), shares=st.tuples(st.floats(0.05, 1), st.floats(0.05, 1)))
def test_who_keeps_more_keeps_the_same_and_others(seed: int, shares: tuple[float, float]) -> None:
    data = draw(40, seed=seed)
    fewer, more = (chosen(Pearson(keep=share), *data) for share in sorted(shares))
    assert (fewer <= more).all()


def columns_are_gone(filter: Similarity) -> bool:
    tensors = [each for each in vars(filter).values() if isinstance(each, Tensor)]
    return filter._scores is None and max(each.numel() for each in tensors) <= 3 * 12


def test_forgets_the_scores_when_it_has_chosen(name: str) -> None:
    filter = MAKERS[name]()
    chosen(filter, *draw(200))
    assert columns_are_gone(filter)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0}, r"keep must be a number in \(0, 1\], got 0"),
        ({"keep": 1.1}, r"keep must be a number in \(0, 1\], got 1.1"),
        ({"keep": "most"}, r"keep must be a number in \(0, 1\], got 'most'"),
        ({"contrast": "yes"}, "contrast must be true or false, got 'yes'"),
    ],
)
def test_refuses(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        MAKERS[name](**options)
