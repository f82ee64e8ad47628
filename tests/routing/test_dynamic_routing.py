import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.nn.votes import GivenVotes
from capsexp.routing.dynamic import Dynamic

sizes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))


def routing(children: int, parents: int, dim_out: int, **options: object) -> Dynamic:
    return Dynamic(children=children, parents=parents, dim_in=1, dim_out=dim_out, **options)  # type: ignore[arg-type]


@given(sizes, st.integers(0, 2**32 - 1), st.floats(-4, 4), st.integers(1, 4), st.sampled_from(["float32", "float64"]))
@settings(deadline=None, max_examples=50)
def test_a_child_shares_itself_out(
    shape: tuple[int, int, int, int], seed: int, exponent: float, iterations: int, dtype: str
) -> None:
    batch, parents, dim_out, children = shape
    votes_BJEI = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 10**exponent
    votes = GivenVotes(votes_BJEI.to(getattr(torch, dtype)))
    output = routing(children, parents, dim_out, iterations=iterations)(votes)
    assert output.coupling_BJI.shape == (batch, parents, children)
    assert ((output.coupling_BJI >= 0) & (output.coupling_BJI <= 1)).all()
    sums_BI = output.coupling_BJI.sum(1)
    torch.testing.assert_close(sums_BI, torch.ones_like(sums_BI), rtol=0, atol=1e-5 if dtype == "float32" else 1e-12)


def test_two_iterations_by_hand() -> None:
    # One child votes 1 for the first parent and 3 for the second, each of one component.
    votes = GivenVotes(torch.tensor([[[[1.0]], [[3.0]]]], dtype=torch.float64))
    # At first it gives both a half: s = 0.5 and 1.5, squashed to s^2 / (1 + s^2).
    first, second = 0.25 / 1.25, 2.25 / 3.25
    logits = 1 * first, 3 * second
    share = math.exp(logits[0]) / (math.exp(logits[0]) + math.exp(logits[1]))
    s = share, 3 * (1 - share)
    output = routing(1, 2, 1, iterations=2)(votes)
    assert output.coupling_BJI.flatten().tolist() == pytest.approx([share, 1 - share], abs=1e-15)
    assert output.poses_BJE.flatten().tolist() == pytest.approx([x**2 / (1 + x**2) for x in s], abs=1e-15)


def test_a_child_moves_to_the_parent_that_others_agree_on() -> None:
    # Three children vote alike for the first parent, and against one another for the second.
    votes_JEI = torch.tensor([[[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]], [[1.0, -1.0, 0.1], [0.0, 0.0, 0.9]]])
    shares = []
    for iterations in (1, 2, 3, 4):
        output = routing(3, 2, 2, iterations=iterations)(GivenVotes(votes_JEI[None]))
        shares.append(output.coupling_BJI[0, 0].mean().item())
    assert shares[0] == 0.5
    assert shares == sorted(set(shares))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, r"^iterations must be a whole number >= 1, got 0$"),
        ({"iterations": 1.5}, r"^iterations must be a whole number >= 1, got 1.5$"),
        ({"gradient": "foo"}, r"^gradient must be one of full, last, got 'foo'$"),
        ({"squash": "foo"}, r"^squash must be one of classic, linear, exponential, got 'foo'$"),
    ],
)
def test_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        routing(2, 2, 2, **options)


@pytest.mark.parametrize(
    ("change", "got"),
    [(lambda c: c.mean(0), r"\(3, 5\)"), (lambda c: c.sum(1), r"\(2, 5\)"), (lambda _: 0.5, "'float'")],
)
def test_a_coupling_of_another_shape_is_refused(change: Any, got: str) -> None:
    """A mean over the batch would train, and let images see each other."""

    class Own(Dynamic):
        def couple(self, logits_BJI: Tensor) -> Tensor:
            coupling: Tensor = change(super().couple(logits_BJI))
            return coupling

    votes = GivenVotes(torch.rand(2, 3, 4, 5))
    layer = Own(children=5, parents=3, dim_in=2, dim_out=4)
    rule = r"^Own.couple must return the couplings \(B, J, I\) = \(2, 3, 5\), got "
    with pytest.raises(ConfigError, match=f"{rule}{got}$"):
        layer(votes)


def test_with_gradient_last_the_coupling_is_a_constant() -> None:
    votes_BJEI = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    last = routing(5, 3, 4, gradient="last")(GivenVotes(votes_BJEI))
    full = routing(5, 3, 4, gradient="full")(GivenVotes(votes_BJEI))
    assert full.coupling_BJI.requires_grad
    assert not last.coupling_BJI.requires_grad
    torch.testing.assert_close(last.coupling_BJI, full.coupling_BJI)
    weights = torch.linspace(0, 1, 24, dtype=torch.float64).view(2, 3, 4)
    grads = [torch.autograd.grad((each.poses_BJE * weights).sum(), votes_BJEI)[0] for each in (last, full)]
    assert not torch.allclose(*grads)
    constant = full.coupling_BJI.detach()
    s_BJE = torch.einsum("bjei,bji->bje", votes_BJEI, constant)
    expected_BJE = routing(5, 3, 4).finish(s_BJE)
    (expected,) = torch.autograd.grad((expected_BJE * weights).sum(), votes_BJEI)
    torch.testing.assert_close(grads[0], expected)
