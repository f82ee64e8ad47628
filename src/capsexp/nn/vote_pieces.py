"""Routing on votes that are built for some images at a time, and built again in the backward pass.

Votes of a few images stay in the cache of the processor for all iterations, and operators pass over B x J x E x I
numbers.  The backward pass needs only poses and weight.  The gradient of the votes is a sum of outer products, one per
operator; batched products compute it at the end.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from capsexp.nn import vote_operators
from capsexp.nn.autocast import without_autocast
from capsexp.nn.field import Field
from capsexp.nn.moments import Squares
from capsexp.nn.recording_votes import RecordingVotes
from capsexp.nn.vote_makers import Recipe, VoteMaker
from capsexp.nn.vote_operators import PIECE_BYTES
from capsexp.nn.votes import GivenVotes, LinearVotes, Votes

Work = Callable[..., tuple[Tensor, ...]]
"""A function from votes, and the tensors alongside, to tensors whose first dimension counts the images (or windows).

Images do not depend on each other; windows of one image may, if the votes have a field.
"""


FEWEST_ROUNDS = 3
"""Weighted sums from which on votes that are built pay: with two, the factored form takes two thirds of the time."""

BUILT_PIECES = 2
"""Factor of the size of a piece where votes must be built: their algorithms have more operations to begin per piece."""


def in_pieces(
    work: Work,
    votes: Votes,
    parameters: Iterable[Tensor],
    alongside: Sequence[Tensor] = (),
    *,
    rounds: int = FEWEST_ROUNDS,
    built: bool = False,
) -> tuple[Tensor, ...]:
    """``work(votes, *alongside)``, computed for some images at a time if the form of the votes is ``pieces``.

    Args:
        work: the function; it runs again in the backward pass, so it must draw no random numbers and change nothing.
        votes: the votes of all images.
        parameters: further tensors that ``work`` uses and that may need a gradient.
        alongside: tensors whose first dimension counts the images as well, such as the children's activations.
        rounds: number of weighted sums; below :data:`FEWEST_ROUNDS` all images are computed at once.
        built: True if ``work`` needs more of votes than weighted sums and agreements: they are then built for it,
            whatever their form.
    """
    recipe = None if torch.compiler.is_compiling() else votes.recipe()
    if built:
        if recipe is not None and _Pieces.of(recipe, votes.field, BUILT_PIECES).several:
            return _apply(work, votes, recipe, parameters, alongside, BUILT_PIECES)
        return work(GivenVotes(votes.materialise(), votes.mask_BI, votes.poses_BID, votes.field), *alongside)
    if rounds < FEWEST_ROUNDS or recipe is None:
        return work(votes, *alongside)
    if not isinstance(votes, LinearVotes) or votes.form != "pieces":
        return work(votes, *alongside)
    if not votes.shape[0]:
        return work(votes, *alongside)  # no image, no piece
    return _apply(work, votes, recipe, parameters, alongside, 1)


def _apply(
    work: Work, votes: Votes, recipe: Recipe, parameters: Iterable[Tensor], alongside: Sequence[Tensor], larger: int
) -> tuple[Tensor, ...]:
    setting = _Setting(work, recipe.kind, recipe.product_type, votes.field, larger, len(alongside))
    arguments = setting, votes.mask_BI, recipe.offset_EI, recipe.poses_BDI, recipe.weight_JEDI, *alongside, *parameters
    return cast("tuple[Tensor, ...]", _InPieces.apply(*arguments))  # type: ignore[no-untyped-call]


class _Setting(NamedTuple):
    """What both passes need beside tensors."""

    work: Work
    kind: type[VoteMaker]
    product_type: torch.dtype | None
    field: Field | None
    larger: int
    alongside: int


class _InPieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        setting: _Setting,
        mask_BI: Tensor | None,
        offset_EI: Tensor | None,
        poses_BDI: Tensor,
        weight_JEDI: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor, ...]:
        alongside = others[: setting.alongside]
        ctx.save_for_backward(mask_BI, offset_EI, poses_BDI, weight_JEDI, *alongside)
        ctx.set_materialize_grads(False)
        ctx.setting, ctx.parameters = setting, others[setting.alongside :]
        found: list[Tensor] = []
        pieces = _Pieces.of(_recipe(setting, poses_BDI, weight_JEDI, offset_EI), setting.field, setting.larger)
        squares = Squares()
        for images, votes_BJEI in pieces.each():
            squares.forget()  # in inference mode it cannot notice that the votes are others
            with without_autocast(poses_BDI.device.type):
                votes = GivenVotes(votes_BJEI, _of(mask_BI, images), field=setting.field, squares=squares)
                parts = setting.work(votes, *(each[images] for each in alongside))
            found = found or [part.new_empty(len(poses_BDI), *part.shape[1:]) for part in parts]
            for whole, part in zip(found, parts, strict=True):
                whole[images] = part
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        mask_BI, offset_EI, poses_BDI, weight_JEDI, *alongside = ctx.saved_tensors
        setting: _Setting = ctx.setting
        wanted = [each for each in ctx.parameters if each.requires_grad]
        totals = {id(each): torch.zeros_like(each) for each in wanted}
        places = [place for place in range(len(alongside)) if ctx.needs_input_grad[5 + place]]
        grads_alongside = {place: torch.zeros_like(alongside[place]) for place in places}
        pieces = _Pieces.of(_recipe(setting, poses_BDI, weight_JEDI, offset_EI), setting.field, setting.larger)
        squares = Squares()
        pieces.maker.expect_gradients()
        for images, votes_BJEI in pieces.each():
            leaf_BJEI = votes_BJEI.detach().requires_grad_()
            votes = RecordingVotes(leaf_BJEI, _of(mask_BI, images), setting.field, squares)
            here = [each[images].detach() for each in alongside]
            inputs = [here[place].requires_grad_() for place in places]
            with torch.enable_grad(), without_autocast(poses_BDI.device.type):
                parts = setting.work(votes, *here)
            some = [_of(grad, images) for grad in grads]
            each_grad = votes.differentiate(parts, some, [*wanted, *inputs])
            for parameter, grad in zip(wanted, each_grad, strict=False):
                totals[id(parameter)] += 0 if grad is None else grad
            for place, grad in zip(places, each_grad[len(wanted) :], strict=True):
                if grad is not None:
                    grads_alongside[place][images] = grad
            pieces.maker.pull(images, votes.gradient(out=votes_BJEI))
            del parts, votes, here, inputs, each_grad, some  # or two pieces' intermediate results are there at once
        grad_u_BDI, grad_w_JEDI = pieces.maker.gradients()
        beside = (grads_alongside.get(place) for place in range(len(alongside)))
        return None, None, None, grad_u_BDI, grad_w_JEDI, *beside, *(totals.get(id(each)) for each in ctx.parameters)


def _recipe(setting: _Setting, poses_BDI: Tensor, weight_JEDI: Tensor, offset_EI: Tensor | None) -> Recipe:
    return Recipe(setting.kind, poses_BDI, weight_JEDI, setting.product_type, offset_EI)


# -- the votes of a piece ---------------------------------------------------------------------------------------------


class _Pieces:
    """The votes of some images at a time; all pieces share their memory."""

    def __init__(self, recipe: Recipe, rows: int) -> None:
        self._recipe, self._rows, self._images = recipe, rows, len(recipe.poses_BDI)
        self._maker: VoteMaker | None = None

    @classmethod
    def of(cls, recipe: Recipe, field: Field | None, larger: int) -> "_Pieces":
        """Pieces of one size, of whole images: the windows of an image stay together where they share children."""
        images, together = len(recipe.poses_BDI), 1 if field is None else field.windows
        most = larger * PIECE_BYTES.get(recipe.poses_BDI.device.type, vote_operators.OTHER_PIECE_BYTES)
        size = recipe.kind.size_per_image(recipe.weight_JEDI) * recipe.poses_BDI.element_size()
        units, most_units = images // together, max(1, most // max(1, size * together))
        return cls(recipe, together * (math.ceil(units / max(1, math.ceil(units / most_units))) or 1))

    @property
    def several(self) -> bool:
        """True if one piece does not hold all images."""
        return self._images > self._rows

    @property
    def maker(self) -> VoteMaker:
        """The builder of the votes."""
        if self._maker is None:
            kind, poses_BDI, weight_JEDI, product_type, _ = self._recipe
            self._maker = kind(poses_BDI, weight_JEDI, product_type, self._rows)
        return self._maker

    def each(self) -> Iterator[tuple[slice, Tensor]]:
        """The images of each piece with their votes (B, J, E, I)."""
        weight_JEDI, offset_EI = self._recipe.weight_JEDI, self._recipe.offset_EI
        parents, components, children = len(weight_JEDI), self.maker.components(weight_JEDI), weight_JEDI.shape[3]
        room = self._recipe.poses_BDI.new_empty(self._rows * parents * components * children)
        for row in range(0, self._images, self._rows):
            images = slice(row, min(row + self._rows, self._images))
            count = images.stop - row
            votes_BJEI = room[: count * parents * components * children].view(count, parents, components, children)
            self.maker.make(images, votes_BJEI)
            if offset_EI is not None:
                votes_BJEI += offset_EI
            yield images, votes_BJEI
            if vote_operators.only_first_piece():
                return


def _of(tensor: Tensor | None, images: slice) -> Tensor | None:
    return None if tensor is None else tensor[images]
