"""What every filter in ``conf/filter`` owes, whoever wrote it."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from capsexp.filters.base import Filter
from tests.filters.passes import CHILDREN, CLASSES, chosen, draw

FOLDER = Path(__file__).parents[2] / "conf" / "filter"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def build(name: str, seed: int = 0) -> Filter:
    # The root's seed is all that a group may refer to.
    config = OmegaConf.create({"seed": seed, "filter": OmegaConf.load(FOLDER / f"{name}.yaml")})
    made = instantiate(config.filter)
    assert isinstance(made, Filter)
    return made


def test_there_are_filters() -> None:
    assert {"none", "kmeans", "gaussian_mixture", "pearson", "dot_product"} <= set(NAMES)


def test_says_how_often_it_looks(name: str) -> None:
    assert isinstance(build(name).looks, int)
    assert build(name).looks >= 0


@pytest.mark.parametrize("images", [1, 2, 7, 60])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_one_bool_an_image_and_some_of_every_class(name: str, images: int, dtype: torch.dtype) -> None:
    columns_NI, labels_N = draw(images, dtype=dtype)
    kept_N = chosen(build(name), columns_NI, labels_N)
    assert kept_N.dtype == torch.bool
    assert kept_N.shape == (images,)
    assert kept_N.device == columns_NI.device
    assert set(labels_N[kept_N].tolist()) == set(labels_N.tolist())
    assert kept_N.double().mean() >= 0.5


@pytest.mark.parametrize("batch", [1, 7, 59, 60])
def test_does_not_care_how_images_are_cut_into_batches(name: str, batch: int) -> None:
    data = draw()
    assert torch.equal(chosen(build(name), *data, batch=batch), chosen(build(name), *data))


def test_batches_that_are_kept_may_be_others_than_those_seen(name: str) -> None:
    columns_NI, labels_N = draw()
    filter = build(name)
    expected = chosen(filter, columns_NI, labels_N)
    order = torch.randperm(len(labels_N), generator=torch.Generator().manual_seed(1))
    assert torch.equal(filter.keep(columns_NI[order], labels_N[order]), expected[order])
    assert torch.equal(filter.keep(columns_NI[:1], labels_N[:1]), expected[:1])


def test_a_reset_forgets(name: str) -> None:
    data, other = draw(), draw(80, seed=5)
    filter = build(name)
    expected = chosen(build(name), *data)
    chosen(filter, *other)
    assert torch.equal(chosen(filter, *data), expected)


@pytest.mark.parametrize("finished", [0, 1])
def test_a_reset_forgets_a_look_that_was_interrupted(name: str, finished: int) -> None:
    data, other = draw(), draw(80, seed=5)
    filter = build(name)
    if filter.looks <= finished:
        pytest.skip("does not look so often")
    filter.reset(CLASSES, CHILDREN)
    for _ in range(finished):
        filter.observe(*other)
        filter.end_look()
    filter.observe(*other)
    assert torch.equal(chosen(filter, *data), chosen(build(name), *data))


def test_same_seed_same_choice(name: str) -> None:
    data = draw(400)
    first, second = (chosen(build(name, seed=7), *data) for _ in range(2))
    assert torch.equal(first, second)


def test_touches_nothing(name: str) -> None:
    columns_NI, labels_N = draw()
    before, random_state = (columns_NI.clone(), labels_N.clone()), torch.random.get_rng_state()
    chosen(build(name), columns_NI, labels_N)
    assert all(map(torch.equal, before, (columns_NI, labels_N)))
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_remembers_no_more_than_a_number_an_image(name: str) -> None:
    def sizes(images: int) -> list[int]:
        """Bytes at the end of every look, before and after it is told so."""
        data, filter, found = draw(images), build(name), []
        filter.reset(CLASSES, CHILDREN)
        for _ in range(filter.looks):
            for pair in zip(data[0].split(16), data[1].split(16), strict=True):
                filter.observe(*pair)
            found.append(len(pickle.dumps(filter)))
            filter.end_look()
            found.append(len(pickle.dumps(filter)))
        return found

    few, many = sizes(500), sizes(2000)
    assert all(more - fewer <= 1500 * 8 + 64 for fewer, more in zip(few, many, strict=True))
    assert not few or many[-1] - few[-1] <= 64, "when it has chosen, it need not remember the images"


# -- odd data ---------------------------------------------------------------------------------------------------------


def test_two_classes(name: str) -> None:
    columns_NI, labels_N = draw(classes=2)
    kept_N = chosen(build(name), columns_NI, labels_N, classes=2)
    assert set(labels_N[kept_N].tolist()) == {0, 1}


def test_one_image_alone_in_its_class_is_kept(name: str) -> None:
    columns_NI, labels_N = draw()
    labels_N[labels_N == 1] = 0
    labels_N[17] = 1
    assert chosen(build(name), columns_NI, labels_N)[17]


def test_a_class_without_images_disturbs_nobody(name: str) -> None:
    columns_NI, labels_N = draw(classes=2)
    expected = chosen(build(name), columns_NI, labels_N, classes=2)
    assert torch.equal(chosen(build(name), columns_NI, labels_N, classes=4), expected)


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_of_columns_that_are_all_equal_all_are_kept(name: str, value: float) -> None:
    _, labels_N = draw()
    assert chosen(build(name), torch.full((60, CHILDREN), value), labels_N).all()
    column_I = value * torch.linspace(0.3, 1, CHILDREN)
    assert chosen(build(name), column_I.expand(60, CHILDREN), labels_N).all()


def test_most_are_kept_where_columns_are_much_alike(name: str) -> None:
    columns_NI, labels_N = draw()
    kept_N = chosen(build(name), 1 + 1e-7 * columns_NI, labels_N)
    assert set(labels_N[kept_N].tolist()) == {0, 1, 2}


def test_all_options_are_in_its_file(name: str) -> None:
    config: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    given = set(config) - {"_target_"}
    accepted: set[str] = set()
    for each in type(build(name)).__mro__:
        accepted |= set(getattr(each.__init__, "__kwdefaults__", None) or {})
    assert given == accepted
