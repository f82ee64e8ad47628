"""Votes of a piece that record the gradient of themselves as factors, and compute it at the end."""

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsexp.nn.field import Field
from capsexp.nn.moments import Squares, distances, scatter
from capsexp.nn.vote_operators import agree_built, sum_built
from capsexp.nn.votes import GivenVotes

Products = list[tuple[Tensor, Tensor]]
"""Pairs y (B, J, I), x (B, J, E) of outer products y x."""


class RecordingVotes(GivenVotes):
    """Votes that record, in the backward pass, the outer products whose sum is their gradient.

    A weighted sum and an agreement add a term y x to the gradient, a scatter and distances the term 2 y x (v - mu) =
    v (2 y x) - 2 y (x mu).  So all that has the size of the votes is one product for each of the two kinds.

    Args:
        votes_BJEI: (B, J, E, I), requiring a gradient.
        mask_BI: see :class:`~capsexp.nn.votes.Votes`.
        field: as there.
        squares: memory for squared differences.
    """

    def __init__(
        self, votes_BJEI: Tensor, mask_BI: Tensor | None, field: Field | None = None, squares: Squares | None = None
    ) -> None:
        super().__init__(votes_BJEI, mask_BI, field=field, squares=squares)
        self._products: Products = []
        self._scaled: Products = []
        self._grad_BJEI: Tensor | None = None

    def weighted_sum(self, coupling: Tensor | float) -> Tensor:  # noqa: D102
        batch, parents, _, children = self.shape
        if not isinstance(coupling, Tensor):
            coupling = self._votes_BJEI.new_full((), coupling)
        coupling_BJI = coupling.expand(batch, parents, children).contiguous()
        return cast("Tensor", _Sum.apply(coupling_BJI, self._votes_BJEI, self._products))  # type: ignore[no-untyped-call]

    def agreement(self, parents_BJE: Tensor) -> Tensor:  # noqa: D102
        return cast("Tensor", _Agreement.apply(parents_BJE, self._votes_BJEI, self._products))  # type: ignore[no-untyped-call]

    def scatter(self, weights_BJI: Tensor, mean_BJE: Tensor) -> Tensor:  # noqa: D102
        return scatter(weights_BJI, mean_BJE, self._votes_BJEI, self._squares, self._record)

    def distances(self, mean_BJE: Tensor, precision_BJE: Tensor) -> Tensor:  # noqa: D102
        return distances(mean_BJE, precision_BJE, self._votes_BJEI, self._squares, self._record)

    def differentiate(
        self, parts: Iterable[Tensor], grads: Iterable[Tensor | None], wanted: list[Tensor]
    ) -> tuple[Tensor | None, ...]:
        """The gradients of ``wanted``; that of the votes is stored for :meth:`gradient`."""
        pairs = [(part, grad) for part, grad in zip(parts, grads, strict=True) if grad is not None]
        pairs = [(part, grad) for part, grad in pairs if part.requires_grad]
        if not pairs:
            return (None,) * len(wanted)
        outputs, given = zip(*pairs, strict=True)
        self._grad_BJEI, *found = torch.autograd.grad(outputs, (self._votes_BJEI, *wanted), given, allow_unused=True)
        return tuple(found)

    def gradient(self, out: Tensor) -> Tensor:
        """The gradient of the votes, written to ``out``, which may be the memory of the votes."""
        if self._scaled:
            room_BJEI = self._squares.room(out)
            torch.bmm(*_side_by_side(self._scaled), out=room_BJEI.flatten(0, 1))
            torch.mul(self._votes_BJEI.detach(), room_BJEI, out=out)
            out.flatten(0, 1).baddbmm_(*_side_by_side(self._products))
        elif self._products:
            torch.bmm(*_side_by_side(self._products), out=out.flatten(0, 1))
        else:
            out.zero_()
        return out if self._grad_BJEI is None else out.add_(self._grad_BJEI)

    def _record(self, y_BJI: Tensor, x_BJE: Tensor, mean_BJE: Tensor) -> None:
        twice_BJE = 2 * x_BJE
        self._scaled.append((y_BJI, twice_BJE))
        self._products.append((y_BJI, -twice_BJE * mean_BJE))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coupling_BJI: Tensor, votes_BJEI: Tensor, products: Products) -> Tensor:
        ctx.save_for_backward(coupling_BJI, votes_BJEI)
        ctx.products = products
        return sum_built(coupling_BJI, votes_BJEI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BJE: Tensor) -> tuple[Tensor | None, ...]:
        coupling_BJI, votes_BJEI = ctx.saved_tensors
        ctx.products.append((coupling_BJI.detach(), grad_BJE))  # with its graph it would reference itself
        return agree_built(grad_BJE, votes_BJEI) if ctx.needs_input_grad[0] else None, None, None


class _Agreement(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parents_BJE: Tensor, votes_BJEI: Tensor, products: Products) -> Tensor:
        ctx.save_for_backward(parents_BJE, votes_BJEI)
        ctx.products = products
        return agree_built(parents_BJE, votes_BJEI)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_BJI: Tensor) -> tuple[Tensor | None, ...]:
        parents_BJE, votes_BJEI = ctx.saved_tensors
        ctx.products.append((grad_BJI, parents_BJE.detach()))
        return sum_built(grad_BJI, votes_BJEI) if ctx.needs_input_grad[0] else None, None, None


def _side_by_side(products: Products) -> tuple[Tensor, Tensor]:
    """The factors x (B*J, E, number) and y (B*J, number, I) of the sum of the products."""
    y_BJI, x_BJE = products[0]
    batch, parents, children = y_BJI.shape
    y_BJKI = y_BJI.new_empty(batch, parents, len(products), children)
    x_BJKE = y_BJI.new_empty(batch, parents, len(products), x_BJE.shape[2])
    for number, (y, x) in enumerate(products):
        y_BJKI[:, :, number], x_BJKE[:, :, number] = y, x
    return x_BJKE.flatten(0, 1).mT, y_BJKI.flatten(0, 1)
