"""Operators on votes in several threads: the same numbers in any number of them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event, get_ident

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from capsexp.nn import threads, vote_operators
from capsexp.nn.capsules import ClassCapsules
from capsexp.nn.threads import each_in_a_thread
from capsexp.nn.votes import LinearVotes
from capsexp.routing.dynamic import Dynamic

B, I, J, D, E = 9, 40, 5, 4, 6  # noqa: E741 - the legend's letter for children


@pytest.fixture(autouse=True)
def _threads_are_put_back() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(vote_operators.PIECE_BYTES, "cpu", 2 * D * I * 4)


def operators(number: int) -> list[Tensor]:
    """Both operators, and the gradients of all that they take, with a number of threads."""
    torch.set_num_threads(number)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).requires_grad_()

    poses_BID, weight_JEDI, coupling_BJI, parents_BJE = (
        normal(B, I, D),
        normal(J, E, D, I),
        normal(B, J, I),
        normal(B, J, E),
    )
    votes = LinearVotes(poses_BID, weight_JEDI, form="factored")
    sums, logits = votes.weighted_sum(coupling_BJI), votes.agreement(parents_BJE)
    inputs = (poses_BID, weight_JEDI, coupling_BJI, parents_BJE)
    return [sums, logits, *torch.autograd.grad(sums.sin().sum() + logits.cos().sum(), inputs)]


def test_the_numbers_do_not_depend_on_the_threads() -> None:
    assert all(torch.equal(one, other) for one, other in zip(operators(1), operators(3), strict=True))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_under_each_mode_and_autocast(mode: type) -> None:
    layer = ClassCapsules(I, J, D, E, Dynamic)
    poses = torch.randn(B, I, D)
    found = []
    for number in (1, 3):
        torch.set_num_threads(number)
        with mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(layer(poses).poses_BJE)
    torch.testing.assert_close(*found)
    assert found[1].is_inference() == (mode is torch.inference_mode)


def test_under_autocast_that_begins_after_the_votes() -> None:
    """All threads then do as the caller's does: the products are of its type."""
    votes = LinearVotes(torch.randn(B, I, D), torch.randn(J, E, D, I), form="factored")
    coupling_BJI, found = torch.rand(B, J, I), []
    for number in (1, 3):
        torch.set_num_threads(number)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(votes.weighted_sum(coupling_BJI))
    assert torch.equal(*found)
    assert not torch.equal(found[0], votes.weighted_sum(coupling_BJI))


def test_each_item_is_worked_on_once_and_by_more_than_one_thread() -> None:
    torch.set_num_threads(3)
    seen: list[tuple[int, int, int]] = []

    def work(item: int, room: list[int]) -> None:
        sum(range(20_000))  # others get their turn
        seen.append((item, get_ident(), torch.get_num_threads()))
        room.append(item)

    each_in_a_thread(work, range(60), list, torch.zeros(()))
    assert sorted(item for item, _, _ in seen) == list(range(60))
    assert 1 < len({thread for _, thread, _ in seen}) <= 3
    assert {number for _, _, number in seen} == {1}
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize("bad", [0, 5, 59])
def test_an_error_in_any_thread_is_raised_after_all_have_ended(bad: int) -> None:
    torch.set_num_threads(3)

    def work(item: int, _: None) -> None:
        if item == bad:
            raise FloatingPointError(item)

    with pytest.raises(FloatingPointError, match=str(bad)):
        each_in_a_thread(work, range(60), lambda: None, torch.zeros(()))
    assert torch.get_num_threads() == 3


def test_two_callers_at_once_and_a_thread_that_begins_meanwhile_keep_their_numbers_of_threads() -> None:
    """The second caller uses torch for the first time while the first one's threads are at work."""
    threads._pool.cache_clear()
    torch.set_num_threads(3)
    begun, known = Event(), Event()
    seen: list[int] = []
    workers: set[int] = set()

    def work(item: int, _: None) -> None:
        workers.add(get_ident())
        if len(workers) == min(3, threads._pool()._max_workers):
            begun.set()
        assert known.wait(30)
        seen.append(item)

    def call() -> tuple[int, int]:
        before = torch.get_num_threads()
        known.set()
        each_in_a_thread(work, range(60), lambda: None, torch.zeros(()))
        return before, torch.get_num_threads()

    with ThreadPoolExecutor(2) as users:
        first = users.submit(each_in_a_thread, work, range(60), lambda: None, torch.zeros(()))
        assert begun.wait(30)
        second = users.submit(call)
        assert second.result(60) == (3, 3)
        first.result(60)
        assert {user.result(60) for user in [users.submit(torch.get_num_threads) for _ in range(2)]} == {3}
    assert sorted(seen) == sorted([*range(60)] * 2)
    assert torch.get_num_threads() == 3


def test_a_counter_of_operations_sees_all_of_them() -> None:
    counts = []
    for number in (1, 3):
        with FlopCounterMode(display=False) as counter:
            operators(number)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0
