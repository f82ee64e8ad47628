"""The stacked optimizer and clipping against torch's own of each member."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer

from capsexp.stacking.adam import StackedAdam, accepts, clip, decoupled

SHAPES: list[dict[str, tuple[int, ...]]] = [
    {"conv.weight": (3, 2, 2, 1), "bias": (3,), "scale": ()},
    {"conv.weight": (1, 4, 2, 2), "bias": (2,), "scale": ()},
    {"conv.weight": (2, 1, 1, 2), "bias": (4,), "scale": ()},
]
LARGEST = {"conv.weight": (3, 4, 2, 2), "bias": (4,), "scale": ()}
ALIKE: list[dict[str, Any]] = [{"lr": 0.1, "weight_decay": 0.3, "betas": (0.8, 0.95), "eps": 1e-3}] * 3
DIFFERENT: list[dict[str, Any]] = [
    {"lr": 0.1, "weight_decay": 0.0},
    {"lr": 0.01, "weight_decay": 0.2, "betas": (0.5, 0.9)},
    {"lr": 0.3, "weight_decay": 0.1, "eps": 1e-2},
]

Parameters = dict[str, nn.Parameter]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(7)


class Members:
    """Members' own parameters and optimizers, the same again as a reference, and the stack."""

    def __init__(
        self, kind: Callable[..., Optimizer], settings: Sequence[dict[str, Any]], dtype: torch.dtype = torch.float64
    ) -> None:
        self.own: list[Parameters] = [
            {name: nn.Parameter(torch.randn(shape, dtype=dtype)) for name, shape in shapes.items()} for shapes in SHAPES
        ]
        self.optimizers = [kind(own.values(), **given) for own, given in zip(self.own, settings, strict=True)]
        self.alone, self.references = copy.deepcopy((self.own, self.optimizers))
        self.stacked = {name: nn.Parameter(torch.zeros(3, *shape, dtype=dtype)) for name, shape in LARGEST.items()}
        self.stack = StackedAdam(self.stacked, self.own, decoupled=kind is AdamW)

    def epoch(self, steps: int, *, idle: int | None = None, without: str | None = None) -> None:
        """Some steps, in the stack and alone; an idle member makes none, and a parameter may have no gradient."""
        optimizers = [None if member == idle else each for member, each in enumerate(self.optimizers)]
        for name, parameter in self.stacked.items():
            for member, own in enumerate(self.own):
                self.corner(parameter.data, member, name).copy_(own[name].data)
        self.stack.load(optimizers, self.own)
        for _ in range(steps):
            self.give_gradients(without, idle)
            self.stack.step()
            for member, reference in enumerate(self.references):
                if member != idle:
                    reference.step()
        for name, parameter in self.stacked.items():
            for member, own in enumerate(self.own):
                if member != idle:
                    own[name].data.copy_(self.corner(parameter.data, member, name))
        self.stack.store(optimizers, self.own)

    def give_gradients(self, without: str | None, idle: int | None) -> None:
        for name, parameter in self.stacked.items():
            gradient = torch.zeros_like(parameter)
            for member, own in enumerate(self.alone):
                corner = self.corner(gradient, member, name)
                corner.copy_(torch.randn_like(corner))
                own[name].grad = None if name == without or member == idle else corner.clone()
            parameter.grad = None if name == without else gradient

    def corner(self, tensor: Tensor, member: int, name: str) -> Tensor:
        return tensor[member][tuple(map(slice, SHAPES[member][name]))]

    def agree(self, tolerance: float = 1e-14) -> None:
        """The members' parameters and optimizers are as if each had trained alone, and padding is zero."""
        for own, alone in zip(self.own, self.alone, strict=True):
            for name, parameter in alone.items():
                torch.testing.assert_close(own[name], parameter, rtol=tolerance, atol=tolerance)
        for optimizer, reference in zip(self.optimizers, self.references, strict=True):
            found, expected = optimizer.state_dict(), reference.state_dict()
            assert found["param_groups"] == expected["param_groups"]
            assert list(found["state"]) == list(expected["state"])
            for key, state in expected["state"].items():
                assert list(found["state"][key]) == list(state)
                for name, tensor in state.items():
                    torch.testing.assert_close(found["state"][key][name], tensor, rtol=tolerance, atol=tolerance)
        for parameter, name in ((parameter, name) for name, parameter in self.stacked.items()):
            for tensor in (parameter.data, *self.stack.state[parameter].values()):
                rest = tensor.clone()
                for member in range(3):
                    self.corner(rest, member, name).zero_()
                assert not rest.any()


@pytest.mark.parametrize("kind", [Adam, AdamW])
@pytest.mark.parametrize("settings", [ALIKE, DIFFERENT], ids=["alike", "different"])
@pytest.mark.parametrize("fused", [False, True])
def test_members_step_as_alone(kind: type[Adam], settings: list[dict[str, Any]], fused: bool) -> None:
    members = Members(kind, [{**given, "fused": fused} for given in settings])
    for steps in (3, 1, 4):
        members.epoch(steps)
        members.agree()


@pytest.mark.parametrize("settings", [ALIKE, DIFFERENT], ids=["alike", "different"])
def test_single_precision(settings: list[dict[str, Any]]) -> None:
    members = Members(Adam, [{**given, "fused": True} for given in settings], torch.float32)
    members.epoch(20)
    members.agree(2e-6)
    assert {state["step"].dtype for each in members.optimizers for state in each.state.values()} == {torch.float32}


@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_members_that_have_stepped_more_often(kind: type[Adam]) -> None:
    members = Members(kind, ALIKE)
    members.epoch(2, idle=1)
    members.agree()
    assert not members.optimizers[1].state
    members.epoch(3)
    members.agree()
    members.epoch(1, idle=0)
    members.agree()


@pytest.mark.parametrize("settings", [ALIKE, DIFFERENT], ids=["alike", "different"])
def test_a_parameter_without_gradient_is_left_alone(settings: list[dict[str, Any]]) -> None:
    members = Members(AdamW, settings)
    members.epoch(2, without="bias")
    assert len(members.optimizers[0].state) == 2
    members.agree()
    members.epoch(2)
    members.agree()
    members.epoch(1, without="scale")
    members.agree()


def test_a_step_without_any_gradient_does_nothing() -> None:
    members = Members(Adam, ALIKE)
    members.stack.load(members.optimizers, members.own)
    members.stack.step()
    members.stack.store(members.optimizers, members.own)
    members.agree()


def test_settings_are_read_anew_every_time() -> None:
    members = Members(Adam, ALIKE)
    members.epoch(2)
    for optimizers in (members.optimizers, members.references):
        optimizers[1].param_groups[0].update(lr=0.7, weight_decay=0.0)
    members.epoch(2)
    members.agree()


def test_state_from_a_checkpoint_is_taken_over() -> None:
    members = Members(Adam, ALIKE)
    members.epoch(2)
    for member, (own, optimizer) in enumerate(zip(members.own, members.optimizers, strict=True)):
        members.optimizers[member] = Adam(own.values(), **ALIKE[member])
        members.optimizers[member].load_state_dict(copy.deepcopy(optimizer.state_dict()))
    members.epoch(2)
    members.agree()


def test_only_what_is_trained_is_stepped() -> None:
    stacked = {"a": nn.Parameter(torch.ones(2, 3)), "b": nn.Parameter(torch.ones(2, 3), requires_grad=False)}
    own = [{name: nn.Parameter(torch.ones(3), each.requires_grad) for name, each in stacked.items()} for _ in range(2)]
    optimizers = [Adam([each["a"]]) for each in own]
    stack = StackedAdam(stacked, own, decoupled=False)
    assert list(stack.state) == [stacked["a"]]
    stack.load(optimizers, own)

    def closure() -> float:
        loss = (stacked["a"] * stacked["b"]).sum()
        loss.backward()
        return loss.item()

    assert stack.step(closure) == 6
    assert not stacked["a"].equal(torch.ones(2, 3))
    assert stacked["b"].equal(torch.ones(2, 3))
    stack.store(optimizers, own)
    assert [len(optimizer.state) for optimizer in optimizers] == [1, 1]


def test_it_knows_what_it_can_take_over() -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))]
    for optimizer in (Adam(parameters), Adam(parameters, fused=True), AdamW(parameters, foreach=True, lr=1)):
        assert accepts(optimizer)
    refused: list[Optimizer] = [
        SGD(parameters),
        NAdam(parameters),
        Adam([{"params": [each]} for each in parameters]),
        Adam(parameters, eps=0),
        Adam([nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))]),
        Adam(parameters, lr=torch.tensor(0.1)),
    ]
    refused += [Adam(parameters, **{key: True}) for key in ("amsgrad", "maximize", "differentiable")]
    assert not any(map(accepts, refused))
    assert [decoupled(each) for each in (Adam(parameters), AdamW(parameters))] == [False, True]


# -- clipping ---------------------------------------------------------------------------------------------------------


def gradients(members: int) -> tuple[list[nn.Parameter], list[list[nn.Parameter]]]:
    """Stacked parameters, one of them without a gradient, and each member's."""
    shapes = [(2, 3), (4,), (1, 2, 2), (2,)]
    stacked = [nn.Parameter(torch.zeros(members, *shape, dtype=torch.float64)) for shape in shapes]
    for parameter in stacked[:-1]:
        parameter.grad = torch.randn_like(parameter) * torch.logspace(-2, 2, members).view(
            -1, *(1 for _ in parameter.shape[1:])
        )
    own = [[nn.Parameter(torch.zeros_like(each[member])) for each in stacked] for member in range(members)]
    for member, parameters in enumerate(own):
        for parameter, each in zip(parameters, stacked, strict=True):
            parameter.grad = None if each.grad is None else each.grad[member].clone()
    return stacked, own


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_each_member_is_clipped_by_its_own_limit(algorithm: Any) -> None:
    limits = [0.5, 0.5, None, 1.5, 0.1]
    stacked, own = gradients(5)
    before = [each.grad.clone() for each in stacked[:-1] if each.grad is not None]
    clip(stacked, limits, algorithm)
    for parameters, limit in zip(own, limits, strict=True):
        if limit is not None:
            (clip_grad_norm_ if algorithm == "norm" else clip_grad_value_)(parameters, limit)
    for parameter, old, *each in zip(stacked, before, *own, strict=False):
        expected = torch.stack([one.grad for one in each if one.grad is not None])
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-14, atol=0)
        assert not expected[3].equal(old[3])
        assert expected[2].equal(old[2])
    assert stacked[-1].grad is None


def test_an_infinite_norm_is_torchs_too_and_stays_with_its_member() -> None:
    stacked, own = gradients(3)
    for member in (1, 2):
        for tensor in (stacked[0].grad, own[member][0].grad):
            assert tensor is not None
            (tensor[member] if tensor.ndim == 3 else tensor)[0, 0] = torch.inf
    clip(stacked, [0.5, 0.5, None], "norm")
    clip_grad_norm_(own[0], 0.5)
    clip_grad_norm_(own[1], 0.5)
    for parameter, *each in zip(stacked[:-1], *own, strict=False):
        expected = torch.stack([one.grad for one in each if one.grad is not None])
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-14, atol=0, equal_nan=True)


def test_nothing_is_clipped_without_limits() -> None:
    stacked, _ = gradients(2)
    before = [each.grad for each in stacked]
    for algorithm in ("norm", "value"):
        clip(stacked, [None, None], algorithm)  # type: ignore[arg-type]
    assert all(each.grad is old for each, old in zip(stacked, before, strict=True))
    clip([], [1.0], "norm")
