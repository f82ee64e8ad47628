"""Scatter and distances against autograd on centred votes, alone and in pieces, with every kind of vote."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from capsexp.nn import Field, GivenVotes, LinearVotes, MatrixVotes, ShiftedVotes, Votes, vote_operators, vote_pieces
from capsexp.nn.moments import Squares, distances, scatter
from capsexp.nn.vote_pieces import in_pieces

IMAGES, WINDOWS, PARENTS, TYPES = 5, 4, 3, 2
close = torch.testing.assert_close


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


def linear(poses: Tensor, weight: Tensor) -> Votes:
    return LinearVotes(poses, weight)


def matrix(poses: Tensor, weight: Tensor) -> Votes:
    return MatrixVotes(poses, weight)


def shifted(poses: Tensor, weight: Tensor) -> Votes:
    torch.manual_seed(3)
    return ShiftedVotes(MatrixVotes(poses, weight), torch.randn(4, poses.shape[1], dtype=torch.float64))


KINDS: dict[str, tuple[Callable[[Tensor, Tensor], Votes], tuple[int, int]]] = {
    "linear": (linear, (4, 4)),
    "linear to more components": (linear, (7, 4)),
    "matrix": (matrix, (2, 2)),
    "shifted": (shifted, (2, 2)),
}


def plain_moments(votes: Tensor, weights: Tensor, offset: Tensor, precision: Tensor) -> tuple[Tensor, ...]:
    """Weighted mean, scatter around it, and distances from another point, by operations that autograd knows."""
    mean = (votes * weights[:, :, None]).sum(3)
    centred = votes - mean[..., None]
    away = votes - (mean + offset)[..., None]
    return mean, (weights[:, :, None] * centred**2).sum(3), (precision[..., None] * away**2).sum(2)


def moments_of(votes: Votes, weights: Tensor, offset: Tensor, precision: Tensor) -> tuple[Tensor, ...]:
    mean = votes.weighted_sum(weights)
    return mean, votes.scatter(weights, mean), votes.distances(mean + offset, precision)


def differentiated(outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    loss = sum((each * (torch.arange(each.numel()) + k).cos().view_as(each)).sum() for k, each in enumerate(outputs))
    return torch.autograd.grad(loss, inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bytes_per_piece", [1, 5000, 1 << 30])
def test_they_are_those_of_centred_votes(kind: str, bytes_per_piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vote_operators.PIECE_BYTES, "cpu", bytes_per_piece)
    make, sides = KINDS[kind]
    torch.manual_seed(0)
    children, rows = TYPES * 4, IMAGES * WINDOWS
    poses, weight = drawn(rows, children, 4), drawn(PARENTS, *sides, children)
    components = make(poses, weight).shape[2]
    beside = drawn(rows, PARENTS, children), drawn(rows, PARENTS, components), drawn(rows, PARENTS, components)
    inputs = (poses, weight, *beside)
    expected = plain_moments(make(poses, weight).materialise(), *beside)
    found = in_pieces(moments_of, make(poses, weight), (), beside, built=True)
    close(found, expected, rtol=1e-12, atol=1e-12)
    close(differentiated(found, inputs), differentiated(expected, inputs), rtol=1e-11, atol=1e-11)


def test_of_votes_that_are_given() -> None:
    torch.manual_seed(0)
    votes = drawn(2, PARENTS, 4, 6)
    beside = drawn(2, PARENTS, 6), drawn(2, PARENTS, 4), drawn(2, PARENTS, 4)
    found, expected = moments_of(GivenVotes(votes), *beside), plain_moments(votes, *beside)
    close(found, expected)
    close(differentiated(found, (votes, *beside)), differentiated(expected, (votes, *beside)))


def test_they_keep_digits_where_votes_hardly_differ() -> None:
    """A variance of 1e-8 around a mean of 1 has all its digits below those of a single-precision square."""
    votes = 1 + 1e-4 * torch.tensor([[[[-1.0, 1.0, -1.0, 1.0]]]])
    weights = torch.full((1, 1, 4), 0.25)
    mean = (votes * weights).sum(3)
    close(scatter(weights, mean, votes), torch.full((1, 1, 1), 1e-8), rtol=1e-3, atol=0)
    close(distances(mean, torch.ones(1, 1, 1), votes), torch.full((1, 1, 4), 1e-8), rtol=1e-3, atol=0)


def test_squares_are_computed_once_for_a_mean_and_again_for_another() -> None:
    squares, votes = Squares(), torch.rand(1, 1, 1, 5)
    one, other = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    first = squares.of(votes, one)
    assert squares.of(votes, one) is first
    close(squares.of(votes, other), (votes - 1).square())
    one += 3
    close(squares.of(votes, one), (votes - 3).square())


def test_squares_of_the_same_memory_in_another_order() -> None:
    squares, votes, mean = Squares(), torch.zeros(1, 2, 2, 3), torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    squares.of(votes, mean)
    close(squares.of(votes, mean.mT), mean.mT.square()[..., None].expand_as(votes))


def test_squares_of_tensors_without_memory() -> None:
    """A step is traced with such tensors, to estimate its memory."""
    with FakeTensorMode():
        squares, votes, mean = Squares(), torch.rand(1, 1, 1, 5), torch.zeros(1, 1, 1)
        first = squares.of(votes, mean)
        assert squares.of(votes, mean) is first
        assert squares.of(votes, torch.zeros(1, 1, 1)) is not first


@torch.inference_mode()
def test_squares_of_tensors_of_inference() -> None:
    squares, votes, mean = Squares(), torch.rand(1, 1, 1, 5), torch.zeros(1, 1, 1)
    assert squares.of(votes, mean) is squares.of(votes, mean)
    close(squares.of(votes, torch.ones(1, 1, 1)), (votes - 1).square())


def test_pieces_are_whole_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vote_operators.PIECE_BYTES, "cpu", 1)
    heard: list[int] = []

    def work(votes: Votes, *_: Tensor) -> tuple[Tensor, ...]:
        heard.append(votes.shape[0])
        return (votes.weighted_sum(1.0),)

    field = Field.of_grid(3, 3, 2, 1, 0)
    votes = LinearVotes(torch.rand(IMAGES * field.windows, 8, 4), torch.rand(PARENTS, 4, 4, 8))
    in_pieces(work, votes, (), built=True)
    assert heard == [1] * IMAGES * field.windows
    heard.clear()
    votes.field = field
    in_pieces(work, votes, (), built=True)
    assert heard == [field.windows] * IMAGES
    assert vote_pieces.BUILT_PIECES > 1


def test_each_piece_has_distances_of_its_own_in_inference_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """From one mean for all images, whose memory is the same in each piece."""
    monkeypatch.setitem(vote_operators.PIECE_BYTES, "cpu", 1)
    votes, mean = LinearVotes(torch.rand(IMAGES, 8, 4), torch.rand(PARENTS, 4, 4, 8)), torch.ones(1, 1, 1)

    def work(some: Votes) -> tuple[Tensor, ...]:
        return (some.distances(mean.expand(some.shape[:3]), torch.ones(some.shape[:3])),)

    with torch.inference_mode():
        (found,) = in_pieces(work, votes, (), built=True)
        close(found, (votes.materialise() - 1).square().sum(2))
