"""What routing keeps for the backward pass, compared with plain autograd over votes that are built."""

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from capsexp.nn.functional import squash
from capsexp.nn.votes import LinearVotes
from capsexp.routing.base import AgreementRouting
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.max_min import MaxMin

B, I, J, D, E = 128, 128, 10, 8, 16  # noqa: E741 - the legend's letter for children


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def saved_bytes(compute: Callable[[], object]) -> int:
    """Bytes of all storages that autograd saves while ``compute`` runs, each counted once."""
    kept: list[Any] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.untyped_storage())
        return tensor.detach()  # the tensor itself would hold its own graph, and never go

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = compute()
    assert output is not None
    return sum({storage.data_ptr(): storage.nbytes() for storage in kept}.values())


def operands() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    poses_BID = torch.randn(B, I, D, generator=generator)
    return poses_BID.requires_grad_(), (0.1 * torch.randn(J, E, D, I, generator=generator)).requires_grad_()


def plain(poses_BID: Tensor, weight_JEDI: Tensor, iterations: int, couple: Callable[[Tensor], Tensor]) -> Tensor:
    votes_BIJE = torch.einsum("bid,jedi->bije", poses_BID, weight_JEDI)
    logits_BIJ = votes_BIJE.new_zeros(B, I, J)
    coupling_BIJ = votes_BIJE.new_full((B, I, J), 1 / J)
    for _ in range(iterations - 1):
        parents_BJE = squash(torch.einsum("bij,bije->bje", coupling_BIJ, votes_BIJE))
        logits_BIJ = logits_BIJ + torch.einsum("bije,bje->bij", votes_BIJE, parents_BJE)
        coupling_BIJ = couple(logits_BIJ.mT).mT
    return squash(torch.einsum("bij,bije->bje", coupling_BIJ, votes_BIJE))


def routing(kind: type[AgreementRouting], **options: Any) -> AgreementRouting:
    return kind(children=I, parents=J, dim_in=D, dim_out=E, **options)


@pytest.mark.parametrize("kind", [Dynamic, MaxMin])
@pytest.mark.parametrize("form", ["factored", "materialised"])
def test_keeps_a_quarter_of_what_plain_autograd_keeps(kind: type[AgreementRouting], form: Any) -> None:
    poses_BID, weight_JEDI = operands()
    layer = routing(kind)
    found = saved_bytes(lambda: layer(LinearVotes(poses_BID, weight_JEDI, form=form)).poses_BJE)
    expected = saved_bytes(lambda: plain(poses_BID, weight_JEDI, layer.iterations, layer.couple))
    assert expected > B * J * E * I * 4, "the votes at least"
    assert found <= expected / 4


@pytest.mark.parametrize("kind", [Dynamic, MaxMin])
def test_building_votes_keeps_no_more_than_not_building_them(kind: type[AgreementRouting]) -> None:
    inputs, layer = operands(), routing(kind)
    forms: tuple[Any, ...] = ("factored", "materialised")
    factored, materialised = (
        saved_bytes(lambda form=form: layer(LinearVotes(*inputs, form=form)).poses_BJE) for form in forms
    )
    assert materialised <= factored
    output = layer(LinearVotes(*inputs, form="materialised"))
    gc.collect()
    alive = [each.shape for each in gc.get_objects() if type(each) is Tensor and each.numel() >= B * J * E * I]
    assert output.poses_BJE.requires_grad
    assert not alive, "the votes are gone before the backward pass begins"


@pytest.mark.parametrize("form", ["factored", "materialised"])
def test_with_gradient_last_earlier_iterations_leave_nothing(form: Any) -> None:
    inputs = operands()

    def kept(iterations: int) -> int:
        layer = routing(Dynamic, iterations=iterations, gradient="last")
        return saved_bytes(lambda: layer(LinearVotes(*inputs, form=form)).poses_BJE)

    assert kept(5) == kept(2)
    output = routing(Dynamic, gradient="last")(LinearVotes(*inputs, form=form))
    assert output.poses_BJE.requires_grad
    assert not output.coupling_BJI.requires_grad
