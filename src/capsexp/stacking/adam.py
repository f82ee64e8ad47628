"""Adam, AdamW and gradient clipping for all members of a stack, each with its own hyperparameters."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.adam import adam

from capsexp.stacking.folding import Slots, beside

# -- the arithmetic ----------------------------------------------------------------------------------------------------


class AdamSettings(NamedTuple):
    """The hyperparameters of a member's optimizer."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float

    @classmethod
    def of(cls, optimizer: Optimizer) -> Self:
        """The present hyperparameters of an optimizer; a callback may change them between epochs."""
        group = optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        return cls(group["lr"], beta1, beta2, group["eps"], group["weight_decay"])


class FusedAdam:
    """The update for members with equal hyperparameters and steps: torch's own fused kernel on the whole stack.

    Args:
        numbers: the hyperparameters of each member.
        steps_N: the steps of each member so far, by parameter.
        like: a parameter, for device and dtype.
        decoupled: as in AdamW.
    """

    def __init__(
        self, numbers: Sequence[AdamSettings], steps_N: Mapping[str, Sequence[float]], like: Tensor, decoupled: bool
    ) -> None:
        self._numbers, self._decoupled = numbers[0], decoupled
        self._steps = {
            name: torch.tensor(steps[0], dtype=torch.float32, device=like.device) for name, steps in steps_N.items()
        }

    def __call__(self, trained: Mapping[str, nn.Parameter], means: list[Tensor], squares: list[Tensor]) -> None:
        """Move the parameters by their gradients, and the moments ``exp_avg`` and ``exp_avg_sq``."""
        parameters: list[Tensor] = list(trained.values())
        adam(
            parameters,
            [cast("Tensor", parameter.grad) for parameter in parameters],
            means,
            squares,
            [],
            [self._steps[name] for name in trained],
            fused=True,
            decoupled_weight_decay=self._decoupled,
            amsgrad=False,
            maximize=False,
            **self._numbers._asdict(),
        )


class MixedAdam:
    """The update for members with different hyperparameters or steps: torch's Adam, with one factor per member.

    The order of the arithmetic is that of torch's Adam.

    Args:
        numbers: the hyperparameters of each member.
        steps_N: the steps of each member so far, by parameter.
        like: a parameter, for device and dtype.
        decoupled: as in AdamW.
    """

    def __init__(
        self, numbers: Sequence[AdamSettings], steps_N: Mapping[str, Sequence[float]], like: Tensor, decoupled: bool
    ) -> None:
        def double(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=like.device)

        self._dtype, self._decoupled = like.dtype, decoupled
        self._steps = {name: double(steps) for name, steps in steps_N.items()}
        self._lr_N, self._beta1_N, self._beta2_N, eps_N, decay_N = (double(each) for each in zip(*numbers, strict=True))
        self._eps_N = self._single(eps_N)
        # The factor of a parameter in each step (AdamW), or its share in the gradient (Adam).
        self._decay_N = self._single(1 - self._lr_N * decay_N if decoupled else decay_N)
        self._rest1_N, self._rest2_N = self._single(1 - self._beta1_N), self._single(1 - self._beta2_N)
        self._keep2_N = self._single(self._beta2_N)

    def _single(self, values: Tensor) -> Tensor:
        """Values that are computed in double precision, in the parameters' dtype: torch converts a number likewise."""
        return values.to(self._dtype)

    def __call__(self, trained: Mapping[str, nn.Parameter], means: list[Tensor], squares: list[Tensor]) -> None:
        """Move the parameters by their gradients, and the moments ``exp_avg`` and ``exp_avg_sq``."""
        steps = [self._steps[name] for name in trained]
        torch._foreach_add_(steps, 1)
        steps_PN = torch.stack(steps)
        sizes_PN = self._single(-self._lr_N / (1 - self._beta1_N**steps_PN))
        roots_PN = self._single((1 - self._beta2_N**steps_PN).sqrt())
        for parameter, *rest in zip(trained.values(), means, squares, sizes_PN, roots_PN, strict=True):
            self._move(parameter, *rest)

    def _move(self, parameter: nn.Parameter, mean: Tensor, square: Tensor, size_N: Tensor, root_N: Tensor) -> None:
        gradient = cast("Tensor", parameter.grad)
        if self._decoupled:
            parameter.mul_(beside(self._decay_N, parameter))
        else:
            gradient = gradient.addcmul(parameter, beside(self._decay_N, parameter))
        mean.lerp_(gradient, beside(self._rest1_N, mean))
        square.mul_(beside(self._keep2_N, square)).addcmul_(gradient * beside(self._rest2_N, square), gradient)
        scale = square.sqrt().div_(beside(root_N, square)).add_(beside(self._eps_N, square))
        parameter.addcmul_(mean / scale, beside(size_N, parameter))


Update = FusedAdam | MixedAdam


# -- the optimizer -----------------------------------------------------------------------------------------------------

MOMENTS = ("exp_avg", "exp_avg_sq")

Parameters = Mapping[str, nn.Parameter]
"""By name."""

State = Mapping[str, dict[str, Tensor]]
"""The state of torch's Adam for parameters that have stepped, by name."""


def accepts(optimizer: Optimizer) -> bool:
    """True if :class:`StackedAdam` can replace an optimizer: plain Adam or AdamW with one group of parameters.

    Padding has no gradient, so its step is zero divided by epsilon.  Epsilon therefore must not be zero.
    """
    if type(optimizer) not in (Adam, AdamW) or len(optimizer.param_groups) != 1:
        return False
    (group,) = optimizer.param_groups
    if any(group[key] for key in ("amsgrad", "maximize", "capturable", "differentiable")):
        return False
    plain = all(isinstance(number, int | float) for number in (group["lr"], group["weight_decay"], *group["betas"]))
    full = all(parameter.dtype in (torch.float32, torch.float64) for parameter in group["params"])
    return plain and full and group["eps"] > 0


def decoupled(optimizer: Optimizer) -> bool:
    """True if weight decay is not part of the moments, as in AdamW; it is equal for all members of a stack."""
    return bool(optimizer.param_groups[0]["decoupled_weight_decay"])


class StackedAdam(Optimizer):
    """One optimizer that replaces the optimizers of all members.

    Between epochs the members' own optimizers hold the state: :meth:`load` copies their hyperparameters and state, and
    :meth:`store` copies the state back.

    Args:
        stacked: the folded model's parameters (N, ...); those that require no gradient are ignored.
        members: the parameters of each member.
        decoupled: see :func:`decoupled`.
    """

    def __init__(self, stacked: Parameters, members: Sequence[Parameters], *, decoupled: bool) -> None:
        self._stacked = {name: parameter for name, parameter in stacked.items() if parameter.requires_grad}
        super().__init__(list(self._stacked.values()), {})
        self._decoupled = decoupled
        for parameter in self._stacked.values():
            self.state[parameter] = {key: torch.zeros_like(parameter) for key in MOMENTS}
        shapes = [{name: own[name].shape for name in self._stacked} for own in members]
        self._slots = {
            key: Slots({name: self.state[parameter][key] for name, parameter in self._stacked.items()}, shapes)
            for key in MOMENTS
        }
        self._update: Update | None = None
        self._taken = dict.fromkeys(self._stacked, 0)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step of every member, on the parameters that have a gradient.

        Args:
            closure: computes the gradients; None if they exist already.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        trained = {name: parameter for name, parameter in self._stacked.items() if parameter.grad is not None}
        for name in trained:
            self._taken[name] += 1
        if trained:
            assert self._update is not None, "load comes first"
            self._update(trained, *([self.state[parameter][key] for parameter in trained.values()] for key in MOMENTS))
        return loss

    # -- state of the members -----------------------------------------------------------------------------------------

    def load(self, optimizers: Sequence[Optimizer | None], members: Sequence[Parameters]) -> None:
        """Copy the hyperparameters and the state of the members' own optimizers.

        Args:
            optimizers: those for which :func:`accepts` holds; one that has not stepped yet has no state.  None for an
                idle place, whose result is not used.
            members: their parameters.
        """
        states = [self._state(*pair) for pair in zip(optimizers, members, strict=True)]
        for key, slots in self._slots.items():
            slots.load([{name: each[key] for name, each in state.items()} for state in states])
        self._taken = dict.fromkeys(self._stacked, 0)
        # An idle place gets the settings of a live one, so that the members stay equal for FusedAdam.
        live = {place: optimizer for place, optimizer in enumerate(optimizers) if optimizer is not None}
        places = [place if place in live else min(live) for place in range(len(optimizers))]
        numbers, counts = [AdamSettings.of(live[place]) for place in places], self._counts(states)
        self._update = self._made(numbers, {name: [counts[place][name] for place in places] for name in self._stacked})

    def _made(self, numbers: Sequence[AdamSettings], steps_N: Mapping[str, Sequence[float]]) -> Update:
        alike = len(set(numbers)) == 1 and all(len(set(steps)) == 1 for steps in steps_N.values())
        update = FusedAdam if alike else MixedAdam
        return update(numbers, steps_N, next(iter(self._stacked.values())), self._decoupled)

    @torch.no_grad()
    def store(self, optimizers: Sequence[Optimizer | None], members: Sequence[Parameters]) -> None:
        """Copy the state after the steps since :meth:`load` back to the members' own optimizers.

        Args:
            optimizers: as in :meth:`load`.
            members: as in :meth:`load`.
        """
        taken = {name: count for name, count in self._taken.items() if count}
        self._taken = dict.fromkeys(self._stacked, 0)
        pairs = list(zip(optimizers, members, strict=True))
        started = [{} if one is None else {name: _started(one, own[name]) for name in taken} for one, own in pairs]
        for key, slots in self._slots.items():
            slots.store([{name: each[key] for name, each in state.items()} for state in started])
        steps = [(state[name]["step"], count) for state in started if state for name, count in taken.items()]
        if steps:
            torch._foreach_add_([step for step, _ in steps], [count for _, count in steps])

    def _state(self, optimizer: Optimizer | None, own: Parameters) -> State:
        if optimizer is None:
            return {}
        return {name: optimizer.state[own[name]] for name in self._stacked if optimizer.state.get(own[name])}

    def _counts(self, states: Sequence[State]) -> list[dict[str, float]]:
        """The steps of each member so far, by parameter; they are read from the device in one transfer."""
        tensors = [each["step"] for state in states for each in state.values()]
        steps = iter(torch.stack(tensors).tolist() if tensors else [])
        return [dict.fromkeys(self._stacked, 0.0) | {name: next(steps) for name in state} for state in states]


def _started(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """A parameter's state; for a parameter that has not stepped, torch's initial state."""
    state: dict[str, Tensor] = optimizer.state[parameter]
    if not state:
        if optimizer.param_groups[0]["fused"]:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        else:
            double = torch.get_default_dtype() == torch.float64
            state["step"] = torch.tensor(0.0, dtype=torch.float64 if double else torch.float32)
        state |= {key: torch.zeros_like(parameter, memory_format=torch.preserve_format) for key in MOMENTS}
    return state


# -- clipping ----------------------------------------------------------------------------------------------------------

Algorithm = Literal["norm", "value"]


@torch.no_grad()
def clip(parameters: Sequence[Tensor], limits: Sequence[float | None], algorithm: Algorithm) -> None:
    """Clip each member's gradients as torch's ``clip_grad_norm_`` or ``clip_grad_value_`` does.

    Args:
        parameters: (N, ...) each; those without a gradient are ignored.
        limits: the limit of each member; None for no clipping.
        algorithm: ``norm`` for the Euclidean norm of all gradients of a member, ``value`` for single values.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients or all(limit is None for limit in limits):
        return
    limits_N = _as_tensor(tuple(limits), gradients[0].device, gradients[0].dtype)
    if algorithm == "norm":
        _clip_norms(gradients, limits_N)
    else:
        for gradient in gradients:
            largest = beside(limits_N, gradient)
            gradient.clamp_(-largest, largest)


def _clip_norms(gradients: Sequence[Tensor], limits_N: Tensor) -> None:
    norms_PN = torch.stack([torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients])
    factors_N = (limits_N / (torch.linalg.vector_norm(norms_PN, dim=0) + 1e-6)).clamp(max=1)
    factors_N = factors_N.where(limits_N.isfinite(), 1)  # also where a norm is infinite
    for gradient in gradients:
        gradient.mul_(beside(factors_N, gradient))


@lru_cache(maxsize=8)
def _as_tensor(limits: tuple[float | None, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """The limits as a tensor; cached, since a transfer to the device delays a step."""
    return torch.tensor([torch.inf if limit is None else limit for limit in limits], device=device, dtype=dtype)
