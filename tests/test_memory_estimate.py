"""What a training step holds, against bytes that are counted by hand."""

import contextlib
import copy
import functools
import gc
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capsexp import memory_estimate
from capsexp.memory_estimate import HEAP_SLACK, HELD_BYTES, Footprint, trace, training_step_bytes
from capsexp.nn import vote_operators
from capsexp.nn.capsules import ConvCapsules
from capsexp.routing import EM, VariationalBayes
from capsexp.types import Batch, Capsules, StepOutput

ADAM = functools.partial(torch.optim.Adam, fused=True)
FLOAT, STEPS = 4, 4


class Toy(nn.Module):
    """A linear layer, what ``after`` makes of its output, and the sum."""

    def __init__(self, inputs: int, outputs: int, after: Any = None, optimizer: Any = ADAM) -> None:
        super().__init__()
        self.linear, self.after, self.optimizer = (
            nn.Linear(inputs, outputs, bias=False),
            after or nn.Identity(),
            optimizer,
        )

    def step(self, batch: Batch) -> StepOutput:
        loss = self.after(self.linear(batch.images_BCHW.flatten(1))).sum()
        return StepOutput(loss, loss)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer: torch.optim.Optimizer = self.optimizer(self.parameters())
        return optimizer


def batch_of(images: int, inputs: int) -> Batch:
    images_BCHW = torch.empty(images, 1, 1, inputs, device="meta")
    return Batch(images_BCHW, torch.empty(images, dtype=torch.int64, device="meta"), images_BCHW.to(torch.uint8))


def bytes_of(batch: Batch) -> int:
    return sum(part.nbytes for part in batch)


@pytest.mark.parametrize(("optimizer", "copies", "rest"), [(ADAM, 4, STEPS), (torch.optim.SGD, 2, 0)])
def test_a_linear_layer_counted_by_hand(optimizer: Any, copies: int, rest: int) -> None:
    """Weight, gradient and two moments of Adam are there in the forward pass, where output and loss come to them."""
    batch = batch_of(30, 100)
    weight, output = 100 * 50 * FLOAT, 30 * 50 * FLOAT
    expected = copies * weight + rest + bytes_of(batch) + output + FLOAT
    assert trace(Toy(100, 50, optimizer=optimizer), batch) == Footprint(expected, 0, expected)


def test_a_step_that_fails_is_told_to_the_caller_alone(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(RuntimeError):
        trace(Toy(100, 50, after=lambda output: output + torch.empty(7)), batch_of(30, 100))
    assert caplog.records == []


def test_large_storages_have_a_peak_of_their_own() -> None:
    side, batch = 3000, batch_of(20, 3000)
    weight = side * side * FLOAT
    assert weight > HELD_BYTES
    small = STEPS + bytes_of(batch) + 20 * side * FLOAT + FLOAT
    toy = Toy(side, side)
    assert trace(toy, batch) == Footprint(4 * weight + small, 4 * weight, small)
    assert training_step_bytes(toy, batch) == 4 * weight + round(HEAP_SLACK * small)


def test_autocast_adds_its_copies_and_halves_the_output() -> None:
    batch = batch_of(30, 100)
    weight, entry, output = 100 * 50 * FLOAT, 30 * 100 * FLOAT, 30 * 50 * FLOAT
    expected = 4 * weight + STEPS + bytes_of(batch) + (weight + entry + output) // 2 + output
    found = trace(Toy(100, 50, after=torch.Tensor.float), batch, torch.autocast("cpu", dtype=torch.bfloat16))
    assert found.live == expected


class Frugal(torch.autograd.Function):
    """Six sines of which only the argument is kept (its gradient is not theirs, which does not matter here)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return sines(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        return gradient * values.cos()


def sines(values: Tensor) -> Tensor:
    for _ in range(6):
        values = values.sin()
    return values


def test_what_a_custom_function_does_not_save_is_not_counted() -> None:
    """Plain: the arguments of six sines, and in backward a cosine and its product.  Frugal: never more than three."""
    batch, size, weight = batch_of(1000, 3), 1000 * 50 * FLOAT, 3 * 50 * FLOAT
    assert trace(Toy(3, 50, after=sines), batch).live == 8 * size + 3 * weight + STEPS + bytes_of(batch) + 2 * FLOAT
    assert trace(Toy(3, 50, after=Frugal.apply), batch).live == 3 * size + 4 * weight + STEPS + bytes_of(batch)


def test_views_and_operations_in_place_cost_nothing() -> None:
    batch = batch_of(1000, 3)
    bare = trace(Toy(3, 50), batch)
    assert trace(Toy(3, 50, after=lambda values: values.view(-1).view(-1, 2)), batch) == bare
    in_place = trace(Toy(3, 50, after=lambda values: values.neg_()), batch).live
    assert in_place == bare.live + FLOAT  # its gradient is as large, and stands beside one more scalar
    assert trace(Toy(3, 50, after=lambda values: values.neg()), batch).live == bare.live + 1000 * 50 * FLOAT - FLOAT


def test_the_same_whenever_it_is_asked_and_nothing_changes() -> None:
    toy, batch = Toy(100, 50, after=nn.Sequential(nn.ReLU(), nn.Dropout(0.5))), batch_of(30, 100)
    before, state = toy.linear.weight.clone(), torch.get_rng_state()
    first = trace(toy, batch)
    gc.disable()
    try:
        assert [trace(toy, batch) for _ in range(3)] == [first] * 3
    finally:
        gc.enable()
    assert torch.equal(toy.linear.weight, before)
    assert toy.linear.weight.grad is None
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("case", [2, 6, 10, 15])
def test_within_a_fifth_of_what_is_measured(case: int) -> None:
    script = Path(__file__).parents[1] / "benchmarks" / "memory_estimate.py"
    done = subprocess.run([sys.executable, script, "--case", str(case)], check=True, capture_output=True, text=True)
    told, took = json.loads(done.stdout)
    assert 0.8 < told / took < 1.2


class Routed(nn.Module):
    """A convolutional layer whose windows compete for children, with numbers of both inputs to be learnt."""

    def __init__(self, routing: Any) -> None:
        super().__init__()
        self.layer = ConvCapsules(4, 8, 16, 16, routing, padding=0, matrix=True)
        self.poses = nn.Parameter(torch.rand(4, 16, 7, 7))
        self.activations = nn.Parameter(torch.rand(4, 7, 7))

    def step(self, batch: Batch) -> StepOutput:
        scale = batch.images_BCHW.mean((1, 2, 3))
        given = Capsules(scale.view(-1, 1, 1, 1, 1) * self.poses, scale.view(-1, 1, 1, 1) * self.activations)
        loss = sum(part.sum() for part in self.layer(given)[:2])
        return StepOutput(loss, None)  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters())


@pytest.mark.parametrize("routing", [EM, VariationalBayes])
def test_one_piece_of_the_votes_needs_as_much_as_all_of_them(routing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate computes the first piece alone; here the same step is followed over six pieces of real numbers."""
    monkeypatch.setitem(vote_operators.PIECE_BYTES, "cpu", 2**18)
    module, batch = Routed(routing), batch_of(6, 100)
    estimated, ledger = trace(module, batch).live, memory_estimate._Ledger()
    with ledger:
        twins = {id(each): nn.Parameter(each.detach().clone()) for each in module.parameters()}
        twins |= {id(each): each.clone() for each in module.buffers()}  # type: ignore[misc]
        batch = Batch(*(torch.ones_like(part, device="cpu") for part in batch))
    module = copy.deepcopy(module, twins)
    with ledger:
        memory_estimate._step(module, batch, contextlib.nullcontext())
    assert estimated == pytest.approx(ledger.peaks["live"], rel=0.02)
