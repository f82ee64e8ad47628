from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.filters.clusters import Clustering, GaussianMixture, KMeans
from capsexp.filters.memory import ColumnSample
from tests.filters.passes import chosen, look
from tests.references import filters as reference

MAKERS: dict[str, Any] = {"kmeans": KMeans, "gaussian_mixture": GaussianMixture}


@pytest.fixture(params=sorted(MAKERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def blobs(sizes: list[list[int]], children: int = 20, spread: float = 0.05, seed: int = 0) -> tuple[Tensor, Tensor]:
    """For each class groups of these sizes, each about a point of its own; shuffled."""
    generator = torch.Generator().manual_seed(seed)
    columns, labels = [], []
    for label, groups in enumerate(sizes):
        for size in groups:
            centre_I = torch.rand(children, generator=generator)
            columns.append(centre_I + spread * torch.randn(size, children, generator=generator))
            labels += [label] * size
    order_N = torch.randperm(len(labels), generator=generator)
    return torch.cat(columns)[order_N], torch.tensor(labels)[order_N]


def in_order_of_sample(columns_NI: Tensor, labels_N: Tensor, seed: int) -> Tensor:
    """Image numbers in the order in which a filter hands them to scikit-learn, whose draws depend on it."""
    return torch.from_numpy(np.random.default_rng(seed).random(len(labels_N))).argsort()


@pytest.mark.parametrize("spread", [0.05, 0.3])
@pytest.mark.parametrize("seed", [0, 3])
def test_equals_scikit_learn_where_the_sample_holds_all(name: str, spread: float, seed: int) -> None:
    columns_NI, labels_N = blobs([[60, 30, 8], [50, 40, 20], [97, 2, 1]], spread=spread)
    filter = MAKERS[name](seed=seed)
    kept_N = chosen(filter, columns_NI, labels_N)

    order_N = in_order_of_sample(columns_NI, labels_N, seed)
    labels = labels_N[order_N].numpy()
    found = reference.clusters(name, columns_NI[order_N].double().numpy(), labels, 3, seed)
    numbers_N = filter._clusters.nearest(columns_NI, labels_N)
    assert numbers_N[order_N].tolist() == found.tolist()
    assert kept_N[order_N].tolist() == reference.large(found, labels, 0.15)


def test_small_groups_go_and_the_others_stay(name: str) -> None:
    sizes = [[100, 60, 10], [80, 80, 80], [100, 9, 9]]
    columns_NI, labels_N = blobs(sizes)
    kept_N = chosen(MAKERS[name](), columns_NI, labels_N)
    assert [int(kept_N[labels_N == label].sum()) for label in range(3)] == [160, 240, 100]


def test_a_group_of_exactly_the_smallest_share_stays(name: str) -> None:
    columns_NI, labels_N = blobs([[70, 15, 15], [70, 16, 14]])
    kept_N = chosen(MAKERS[name](smallest_share=0.15), columns_NI, labels_N, classes=2)
    assert [int(kept_N[labels_N == label].sum()) for label in range(2)] == [100, 86]


def test_the_largest_stays_however_much_is_asked(name: str) -> None:
    columns_NI, labels_N = blobs([[40, 30, 20]])
    assert int(chosen(MAKERS[name](smallest_share=1), columns_NI, labels_N, classes=1).sum()) == 40
    assert chosen(MAKERS[name](smallest_share=0), columns_NI, labels_N, classes=1).all()


def test_drops_planted_outliers(name: str) -> None:
    columns_NI, labels_N = blobs([[400], [400]], children=100, spread=0.1)
    planted_N = torch.arange(800) % 20 == 0
    columns_NI[planted_N] = torch.rand(40, 100, generator=torch.Generator().manual_seed(9))
    kept_N = chosen(MAKERS[name](), columns_NI, labels_N, classes=2)
    assert not kept_N[planted_N].any()
    # Only few of the others may go with them.
    assert kept_N[~planted_N].double().mean() > 0.95


def test_a_sample_chooses_as_all_images_do_where_the_groups_are_plain(name: str) -> None:
    columns_NI, labels_N = blobs([[700, 250, 50], [600, 370, 30]])
    expected = chosen(MAKERS[name](sample=1000), columns_NI, labels_N, classes=2)
    assert torch.equal(chosen(MAKERS[name](sample=100), columns_NI, labels_N, classes=2), expected)
    assert not expected.all()


def test_one_cluster_keeps_everything(name: str) -> None:
    assert chosen(MAKERS[name](clusters=1), *blobs([[30, 5], [9, 2]]), classes=2).all()


@pytest.mark.parametrize("images", [1, 2, 3])
def test_fewer_images_than_clusters(name: str, images: int) -> None:
    columns_NI, labels_N = blobs([[images], [50]])
    kept_N = chosen(MAKERS[name](clusters=4, smallest_share=0.3), columns_NI, labels_N, classes=2)
    assert kept_N[labels_N == 0].all()


def test_fewer_different_columns_than_clusters(name: str) -> None:
    columns_NI = torch.cat([torch.full((90, 20), 0.2), torch.full((10, 20), 0.7)])
    kept_N = chosen(MAKERS[name](), columns_NI, torch.zeros(100, dtype=torch.int64), classes=1)
    assert torch.equal(kept_N, torch.arange(100) < 90)


def test_a_cluster_that_is_not_there_gets_nobody(name: str) -> None:
    columns_NI, labels_N = blobs([[50, 50]])
    filter: Clustering = MAKERS[name](sample=2)
    chosen(filter, columns_NI, labels_N, classes=1)
    assert int(filter._clusters.nearest(columns_NI, labels_N).max()) <= 1


def test_scikit_learn_gives_no_advice_on_columns_that_hardly_differ(name: str) -> None:
    columns_N1 = torch.tensor([0, 1e-30, 1]).repeat(20)[:, None]
    assert chosen(MAKERS[name](), columns_N1, torch.zeros(60, dtype=torch.int64), classes=1).all()


def test_does_not_depend_on_the_size_of_the_couplings(name: str) -> None:
    columns_NI, labels_N = blobs([[60, 30, 8], [50, 40, 20]], spread=0.3)
    expected = chosen(MAKERS[name](), columns_NI, labels_N, classes=2)
    assert torch.equal(chosen(MAKERS[name](), columns_NI / 1024, labels_N, classes=2), expected)


def test_a_steady_child_does_not_decide_alone() -> None:
    columns_NI, labels_N = blobs([[120, 60]])
    steady_N1 = 1e-6 * torch.rand(180, 1, generator=torch.Generator().manual_seed(4))
    steady_N1[:90:10] += 1e-3
    columns_NI = torch.cat([columns_NI, steady_N1], 1)
    assert chosen(GaussianMixture(clusters=2), columns_NI, labels_N, classes=1).all()
    assert not chosen(GaussianMixture(clusters=3, floor=1e-9), columns_NI, labels_N, classes=1).all()


def test_holds_the_sample_while_it_looks_and_the_clusters_afterwards(name: str) -> None:
    filter: Clustering = MAKERS[name](sample=7)
    columns_NI, labels_N = blobs([[30], [40]])
    filter.reset(2, 20)
    filter.observe(columns_NI, labels_N)
    assert isinstance(filter._sample, ColumnSample)
    assert filter._sample._columns_KSI.shape == (2, 7, 20)
    filter.end_look()
    assert filter._sample is None
    assert filter._clusters.centres.shape == (2, 3, 20)


def test_is_seeded(name: str) -> None:
    columns_NI, labels_N = blobs([[300]], spread=0.5)
    runs = []
    for seed in (1, 1, 2):
        filter: Clustering = MAKERS[name](sample=40, seed=seed)
        filter.reset(1, 20)
        look(filter, columns_NI, labels_N)
        runs.append(filter._clusters.centres)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clusters": 0}, "clusters must be a whole number >= 1, got 0"),
        ({"clusters": 2.0}, "clusters must be a whole number >= 1, got 2.0"),
        ({"sample": 0}, "sample must be a whole number >= 1, got 0"),
        ({"smallest_share": 1.5}, r"smallest_share must be a number in \[0, 1\], got 1.5"),
        ({"seed": -1}, "seed must be a whole number from 0 to 4294967295, got -1"),
    ],
)
def test_refuses(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        MAKERS[name](**options)


def test_refuses_what_is_its_own() -> None:
    with pytest.raises(ConfigError, match=r"^starts must be a whole number >= 1, got 0$"):
        KMeans(starts=0)
    with pytest.raises(ConfigError, match=r"^floor must be a number in \(0, inf\], got 0$"):
        GaussianMixture(floor=0)
