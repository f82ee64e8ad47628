"""Gradients of all members of a stack held within limits, each member by its own."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from capsexp.stacking.folding import beside

Algorithm = Literal["norm", "value"]


@torch.no_grad()
def clip(parameters: Sequence[Tensor], limits: Sequence[float | None], algorithm: Algorithm) -> None:
    """Clip the gradients as torch's ``clip_grad_norm_`` and ``clip_grad_value_`` clip those of one member.

    Args:
        parameters: (N, ...) each; those without a gradient are left out.
        limits: each member's; None for one that is not clipped.
        algorithm: by the Euclidean norm of all gradients of a member, or each value alone.
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
    """Kept, since sending numbers to a device makes a step wait."""
    return torch.tensor([torch.inf if limit is None else limit for limit in limits], device=device, dtype=dtype)
