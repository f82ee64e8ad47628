"""Votes of matrix poses, against the matrices multiplied one by one."""

from typing import Any

import pytest
import torch
from torch import Tensor

from capsexp.nn.matrix_votes import MatrixVotes, side_of

B, I, J, M = 3, 5, 4, 3  # noqa: E741 - the legend's letter for children


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("form", ["factored", "materialised", None])
def test_both_operators_and_their_gradients(form: Any) -> None:
    poses, weight = normal(B, I, M * M, seed=0), normal(J, M, M, I, seed=1)
    coupling, parents = normal(B, J, I, seed=2), normal(B, J, M * M, seed=3)
    votes = MatrixVotes(poses, weight, form=form)
    # One product M W after the other; the columns of W come first in the weight.
    one = [[(poses[b].view(I, M, M) @ weight[j].permute(2, 1, 0)).flatten(1).T for j in range(J)] for b in range(B)]
    expected = torch.stack([torch.stack(rows) for rows in one])
    assert votes.shape == (B, J, M * M, I)
    torch.testing.assert_close(votes.materialise(), expected, rtol=1e-12, atol=1e-12)
    pairs = [
        (votes.weighted_sum(coupling), torch.einsum("bji,bjei->bje", coupling, expected)),
        (votes.weighted_sum(0.5), 0.5 * expected.sum(3)),
        (votes.weighted_sum(coupling[0]), torch.einsum("ji,bjei->bje", coupling[0], expected)),
        (votes.agreement(parents), torch.einsum("bje,bjei->bji", parents, expected)),
    ]
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
        factors = normal(*found.shape, seed=4).detach()
        sums = [(each * factors).sum() for each in (found, wanted)]
        grads = [torch.autograd.grad(each, (poses, weight), retain_graph=True) for each in sums]
        for first, second in zip(*grads, strict=True):
            torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)


def test_detached_votes_have_no_gradient() -> None:
    votes = MatrixVotes(normal(B, I, M * M, seed=0), normal(J, M, M, I, seed=1)).detach()
    assert not votes.weighted_sum(1.0).requires_grad


@pytest.mark.parametrize(("components", "side"), [(16, 4), (1, 1), (9, 3), (8, None), (2, None)])
def test_a_square_number_has_a_side(components: int, side: int | None) -> None:
    assert side_of(components) == side
