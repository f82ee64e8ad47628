"""The arithmetic of Adam and AdamW for all members of a stack."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adam import adam

from capsexp.stacking.folding import beside


class Numbers(NamedTuple):
    """What a member's optimizer is set to."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float

    @classmethod
    def of(cls, optimizer: Optimizer) -> Self:
        """As they are now: a callback may change them between epochs."""
        group = optimizer.param_groups[0]
        beta1, beta2 = group["betas"]
        return cls(group["lr"], beta1, beta2, group["eps"], group["weight_decay"])


class Together:
    """Members that agree in all numbers and steps: torch's own fused kernel, as if the stack were one network.

    Args:
        numbers: each member's.
        steps_N: each member's steps so far, by parameter.
        like: a parameter.
        decoupled: as in AdamW.
    """

    def __init__(
        self, numbers: Sequence[Numbers], steps_N: Mapping[str, Sequence[float]], like: Tensor, decoupled: bool
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


class Apart:
    """Members that differ in numbers or steps: the arithmetic of torch's Adam, in its order, with a factor a member.

    Args:
        numbers: each member's.
        steps_N: each member's steps so far, by parameter.
        like: a parameter.
        decoupled: as in AdamW.
    """

    def __init__(
        self, numbers: Sequence[Numbers], steps_N: Mapping[str, Sequence[float]], like: Tensor, decoupled: bool
    ) -> None:
        def double(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float64, device=like.device)

        self._dtype, self._decoupled = like.dtype, decoupled
        self._steps = {name: double(steps) for name, steps in steps_N.items()}
        self._lr_N, self._beta1_N, self._beta2_N, eps_N, decay_N = (double(each) for each in zip(*numbers, strict=True))
        self._eps_N = self._single(eps_N)
        # What multiplies a parameter each step, or what of it joins the gradient.
        self._decay_N = self._single(1 - self._lr_N * decay_N if decoupled else decay_N)
        self._rest1_N, self._rest2_N = self._single(1 - self._beta1_N), self._single(1 - self._beta2_N)
        self._keep2_N = self._single(self._beta2_N)

    def _single(self, values: Tensor) -> Tensor:
        """Computed in double precision, used in the parameters' own: as torch does with a number."""
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


Update = Together | Apart
