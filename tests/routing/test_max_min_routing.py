import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsexp.errors import ConfigError
from capsexp.nn.votes import GivenVotes, LinearVotes
from capsexp.routing.max_min import MaxMin

RANGES = [(0.0, 1.0), (0.2, 0.7), (-1.0, 2.0), (0.5, 3.0)]
sizes = st.tuples(st.integers(1, 3), st.integers(2, 5), st.integers(1, 4), st.integers(1, 6))


def routing(children: int, parents: int, dim_out: int, **options: object) -> MaxMin:
    return MaxMin(children=children, parents=parents, dim_in=1, dim_out=dim_out, **options)  # type: ignore[arg-type]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(sizes, st.integers(0, 2**32 - 1), st.integers(2, 4), st.sampled_from(RANGES))
@settings(deadline=None, max_examples=50)
def test_both_ends_are_reached_for_every_child(
    shape: tuple[int, int, int, int], seed: int, iterations: int, ends: tuple[float, float]
) -> None:
    p, q = ends
    _, parents, dim_out, children = shape
    layer = routing(children, parents, dim_out, iterations=iterations, lower=p, upper=q)
    coupling_BJI = layer(GivenVotes(normal(*shape, seed=seed))).coupling_BJI
    assert ((coupling_BJI >= p - 1e-12) & (coupling_BJI <= q + 1e-12)).all()
    least_BI, most_BI = coupling_BJI.amin(1), coupling_BJI.amax(1)
    torch.testing.assert_close(least_BI, torch.full_like(least_BI, p), rtol=0, atol=1e-12)
    torch.testing.assert_close(most_BI, torch.full_like(most_BI, q), rtol=0, atol=1e-12)
    assert layer.coupling_range[0] <= p
    assert layer.coupling_range[1] >= q


def test_between_the_ends_it_is_linear_in_the_logits() -> None:
    # One child whose votes are squashed and compared alone: logits u * squash(u) = u^3 / (1 + u^2).
    u = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    coupling_J = routing(1, 3, 1, iterations=2, lower=0.2, upper=0.7)(
        GivenVotes(u.view(1, 3, 1, 1))
    ).coupling_BJI.flatten()
    b = u**3 / (1 + u**2)
    middle = 0.2 + float((b[1] - b[0]) / (b[2] - b[0])) * 0.5
    assert coupling_J.tolist() == pytest.approx([0.2, middle, 0.7], abs=1e-14)


@pytest.mark.parametrize("ends", RANGES)
def test_the_first_coupling_is_one_whatever_the_range(ends: tuple[float, float]) -> None:
    layer = routing(4, 3, 2, iterations=1, lower=ends[0], upper=ends[1])
    assert (layer(GivenVotes(normal(2, 3, 2, 4))).coupling_BJI == 1).all()
    assert layer.coupling_range == (min(ends[0], 1), max(ends[1], 1))


@pytest.mark.parametrize("ends", RANGES)
@pytest.mark.parametrize("iterations", [2, 3])
@pytest.mark.parametrize("form", ["factored", "materialised"])
def test_a_child_that_is_zero_gives_every_parent_the_upper_end(
    ends: tuple[float, float], iterations: int, form: str
) -> None:
    p, q = ends
    poses_BID, weight_JEDI = normal(2, 4, 3), normal(3, 2, 3, 4, seed=1)
    poses_BID[0, 1] = 0
    poses_BID[1] = 0
    layer = routing(4, 3, 2, iterations=iterations, lower=p, upper=q)
    coupling_BJI = layer(LinearVotes(poses_BID, weight_JEDI, form=form)).coupling_BJI  # type: ignore[arg-type]
    assert (coupling_BJI[0, :, 1] == q).all()
    assert (coupling_BJI[1] == q).all()
    assert (coupling_BJI[0, :, [0, 2, 3]].amin(0) < q).all()


def test_one_parent_is_a_tie() -> None:
    assert (routing(4, 1, 2, upper=0.8)(GivenVotes(normal(2, 1, 2, 4))).coupling_BJI == 0.8).all()


def test_weights_begin_narrower_the_more_parents_there_are() -> None:
    assert routing(4, 8, 2).weight_std == pytest.approx(0.1 / 8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lower": 1.0}, r"^lower must be less than upper \(1.0\), got 1.0$"),
        ({"lower": 0.5, "upper": 0.2}, r"^lower must be less than upper \(0.2\), got 0.5$"),
        ({"lower": "a"}, r"^lower must be a number in \[-inf, inf\], got 'a'$"),
        ({"upper": float("nan")}, r"^upper must be a number in \[-inf, inf\], got nan$"),
        ({"iterations": 0}, r"^iterations must be a whole number >= 1, got 0$"),
        ({"gradient": "foo"}, r"^gradient must be one of full, last, got 'foo'$"),
    ],
)
def test_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        routing(2, 2, 2, **options)


@pytest.mark.parametrize("scale", [10.0**-power for power in range(0, 46, 3)])
def test_children_of_any_size_give_finite_numbers(scale: float) -> None:
    """Down to poses whose agreements are too small to be divided by."""
    poses_BID = (scale * normal(3, 20, 4).float()).requires_grad_()
    weight_JEDI = normal(5, 6, 4, 20, seed=1).float().requires_grad_()
    layer = MaxMin(children=20, parents=5, dim_in=4, dim_out=6)
    output = layer(LinearVotes(poses_BID, weight_JEDI))
    output.poses_BJE.square().sum().backward()
    found = [*output, poses_BID.grad, weight_JEDI.grad]
    assert all(bool(part.isfinite().all()) for part in found if part is not None)
