"""Capsule layers: from capsules to capsules, by transformation matrices and routing."""

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.errors import ConfigError, require, require_choice
from capsexp.nn.field import Field
from capsexp.nn.functional import at_least_single, lengths
from capsexp.nn.matrix_votes import MatrixVotes, side_of
from capsexp.nn.shifted_votes import ShiftedVotes, centres
from capsexp.nn.votes import FoldCache, Form, GivenVotes, LinearVotes, Votes
from capsexp.types import Capsules, RoutingOutput

MakeRouting = Callable[..., nn.Module]
"""Constructor of routing from ``children``, ``parents``, ``dim_in`` and ``dim_out``; see ``routing/base.py``."""

Inference = Literal["dynamic", "fast", "folded"]
"""Source of a layer's coupling: routing of every image (``dynamic``), or the master coefficients (the other two).

``fast`` builds the votes and weights them, as in the fast inference of Zhao et al. (2019).  ``folded`` multiplies the
master into the transformation matrices, and the layer is one matrix product.  Both give the same poses.
"""


Given = Tensor | Capsules | RoutingOutput
"""The input of a capsule layer: the poses of its children alone, or with their activations."""


def capsules_of(given: Given) -> Capsules:
    """Poses with their activations, or with None if only poses are given.

    Raises:
        ConfigError: the activations do not have the shape of the poses without their components.
    """
    if isinstance(given, Tensor):
        return Capsules(given)
    poses, activations = given[:2]
    shape = (*poses.shape[:2], *poses.shape[3:])
    if activations is not None and activations.shape != shape:
        rule = f"have the shape {shape} of the poses without their components"
        raise ConfigError("activations", rule, tuple(activations.shape))
    return Capsules(poses, activations)


def as_children(given: Given) -> Capsules:
    """Capsules on a grid as one list, I = T * H * W, with the positions of a type adjacent.

    Args:
        given: poses (B, T, D, H, W), alone or with activations (B, T, H, W).

    Returns:
        Poses (B, I, D), and the activations (B, I) if they are given.

    Example:
        >>> as_children(torch.rand(2, 4, 8, 3, 3)).poses.shape
        torch.Size([2, 36, 8])
    """
    poses_BTDHW, activations_BTHW = capsules_of(given)
    poses_BDI = poses_BTDHW.flatten(3).transpose(1, 2).flatten(2)
    # A view of the poses: votes are fastest where the components vary slowest.
    return Capsules(poses_BDI.transpose(1, 2), None if activations_BTHW is None else activations_BTHW.flatten(1))


class CapsuleLayer(nn.Module):
    """Transformation matrices and routing between I children and J parents; the base of the two layers below.

    The weight is (J, E, D, I).  Flattened, it is the (J*E, D*I) matrix of a linear layer.  So a coupling that all
    images share can be multiplied into it, and the layer is one matrix product.

    Attributes:
        inference: source of the coupling, see :data:`Inference`.
        master_JI: a coupling for all images, or None (Zhao et al. 2019: master routing coefficients).
        one_round: True if a call does one round of a routing that has ``one_round``, from the parents' poses it is
            given; a concurrent network sets it.

    Args:
        children: I.
        parents: J.
        dim_in: D.
        dim_out: E.
        routing: constructor of the layer's routing from these four.
        weight_std: standard deviation of the initial matrices; None begins as the routing does.
        matrix: True for poses that are square matrices, D = E = m * m, multiplied by matrices (m, m): the weight is
            then (J, m, m, I).
        shared: number of transformation matrices per parent if neighbouring children share them, each as many; None for
            one of each child.

    Example:
        >>> from capsexp.routing import Uniform
        >>> layer = CapsuleLayer(6, 2, 4, 8, Uniform)
        >>> layer.weight.shape
        torch.Size([2, 8, 4, 6])
        >>> layer.set_master(torch.full((2, 6), 0.5))  # a coupling for all images
        >>> layer.inference = "folded"
        >>> layer.route(torch.rand(3, 6, 4)).poses_BJE.shape
        torch.Size([3, 2, 8])
    """

    master_JI: Tensor | None

    def __init__(
        self,
        children: int,
        parents: int,
        dim_in: int,
        dim_out: int,
        routing: MakeRouting,
        *,
        weight_std: float | None = None,
        matrix: bool = False,
        shared: int | None = None,
    ) -> None:
        super().__init__()
        self.routing = _routing(routing, children, parents, dim_in, dim_out)
        name, whole = type(self.routing).__name__, self.routing.poses_optional and dim_out == 0
        require(whole or dim_out > 0, "dim_class", f"be at least 1: {name} gives no activations without poses", dim_out)
        self.dim_in, self.dim_out, self.matrix, self.child_count = dim_in, dim_out, matrix, children
        weight_JEDI = torch.empty(parents, *self._sides(), children if shared is None else shared)
        if weight_std is None:
            self.routing.start(weight_JEDI)
        else:
            weight_JEDI = torch.randn_like(weight_JEDI) * weight_std
        self.weight = nn.Parameter(weight_JEDI)
        self.inference: Inference = "dynamic"
        self.one_round = False
        self.register_buffer("master_JI", None)
        self._folds = FoldCache()

    def set_master(self, coupling_JI: Tensor) -> None:
        """Set a coupling for all images, which is part of the checkpoint.

        Raises:
            ConfigError: its shape is wrong, or it holds NaN or infinite values, or the routing has no master.
        """
        name = type(self.routing).__name__
        require(self.routing.has_master, "master", f"be absent: {name} has no master coefficients", name)
        shape = (self.weight.shape[0], self.child_count)
        rule = f"have the shape (parents, children) = {shape}"
        require(coupling_JI.shape == shape, "master", rule, tuple(coupling_JI.shape))
        require(bool(coupling_JI.isfinite().all()), "master", "hold finite numbers", "NaN or infinity")
        self.master_JI = coupling_JI.detach().to(self.weight, copy=True)

    def train(self, mode: bool = True) -> "CapsuleLayer":
        """Switch between training and evaluation; evaluation folds a shared coupling into the weight once."""
        self._folds.clear()
        return super().train(mode)

    def route(
        self,
        poses_BID: Tensor,
        mask_BI: Tensor | None = None,
        activations_BI: Tensor | None = None,
        field: Field | None = None,
        parents_BJE: Tensor | None = None,
    ) -> RoutingOutput:
        """The output of routing for the votes of the children.

        Args:
            poses_BID: poses of the children.
            mask_BI: True where a child exists, or None if all exist.
            activations_BI: activations of the children; None for the lengths of their poses.
            field: the children that windows share, where the routing shares them out over all windows.
            parents_BJE: with ``one_round``: poses of the parents before the round, None in the first one.
        """
        votes = self.votes(poses_BID, mask_BI)
        votes.field = field
        if self.inference == "dynamic" and self.one_round:
            return cast("RoutingOutput", self.routing.one_round(votes, parents_BJE))
        if self.inference == "dynamic":
            used_BI = self.activations_for_routing(poses_BID, mask_BI, activations_BI)
            return cast("RoutingOutput", self.routing(votes) if used_BI is None else self.routing(votes, used_BI))
        given = votes if self.inference == "folded" else GivenVotes(votes.materialise(), mask_BI)
        return cast("RoutingOutput", self.routing.weigh(given, self.master_JI))

    def votes(self, poses_BID: Tensor, mask_BI: Tensor | None = None, form: Form | None = None) -> Votes:
        """The votes of children with these poses."""
        weight_JEDI: Tensor = self.weight
        own = weight_JEDI.shape[3] == self.child_count
        if not own:
            weight_JEDI = weight_JEDI.repeat_interleave(self.child_count // weight_JEDI.shape[3], 3)
        if self.matrix:
            return MatrixVotes(poses_BID, weight_JEDI, mask_BI, form)
        return LinearVotes(poses_BID, weight_JEDI, mask_BI, form, self._folds if own and not self.training else None)

    def _sides(self) -> tuple[int, int]:
        """Rows and columns of a transformation matrix."""
        if not self.matrix:
            return self.dim_out, self.dim_in
        side = side_of(self.dim_in)
        rule = f"be false: matrices need a square number of components, and as many after ({self.dim_out}) as before"
        require(side is not None and self.dim_in == self.dim_out, "matrix", f"{rule} ({self.dim_in})", self.matrix)
        return cast("int", side), cast("int", side)

    def activations_for_routing(
        self, poses_BID: Tensor, mask_BI: Tensor | None, activations_BI: Tensor | None
    ) -> Tensor | None:
        """Activations of the children, 0 for those that do not exist; None if the routing needs none."""
        if not self.routing.needs_activations:
            return None
        if activations_BI is None:
            activations_BI = lengths(at_least_single(poses_BID))
        return activations_BI if mask_BI is None else activations_BI * mask_BI

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Allocate the master if the checkpoint has one, and remove it if not."""
        there = f"{prefix}master_JI" in state_dict
        self.master_JI = self.weight.new_empty(self.weight.shape[0], self.child_count) if there else None
        if not there:
            self.inference = "dynamic"
        super()._load_from_state_dict(state_dict, prefix, *rest)


DECLARED = (
    "activation",
    "shares",
    "children_at",
    "needs_activations",
    "poses_optional",
    "has_master",
    "start",
    "weigh",
)
"""The attributes of a routing that a layer uses, see :class:`capsexp.routing.Routing`."""


def _routing(make: MakeRouting, children: int, parents: int, dim_in: int, dim_out: int) -> Any:
    """The routing of a layer, checked to be one."""
    made = isinstance(make, nn.Module) or not callable(make)
    rule = "be the constructor of a routing, such as the class capsexp.routing.Dynamic"
    require(not made, "routing", rule, type(make).__name__)
    try:
        routing = make(children=children, parents=parents, dim_in=dim_in, dim_out=dim_out)
    except ConfigError as error:  # routing is a config group of its own, not a part of the model's
        raise error.within("routing", outermost=True) from error
    whole = all(hasattr(routing, name) for name in DECLARED)
    require(whole, "routing", "make a capsexp.routing.Routing", type(routing).__name__)
    return routing


def capsule_layers(model: nn.Module) -> dict[str, CapsuleLayer]:
    """The capsule layers of a model that route, by name, in the order of the model.

    Example:
        >>> from capsexp.routing import Dynamic
        >>> list(capsule_layers(torch.nn.Sequential(ClassCapsules(6, 2, 4, 8, Dynamic))))
        ['0']
    """
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, CapsuleLayer)}


def set_inference(model: nn.Module, inference: Inference) -> None:
    """Set the source of the coupling, see :data:`Inference`, in every capsule layer of a model.

    Raises:
        ConfigError: a layer has no master coefficients.

    Example:
        >>> from capsexp.routing import Dynamic
        >>> layer = ClassCapsules(6, 2, 4, 8, Dynamic)
        >>> set_inference(layer, "fast")
        Traceback (most recent call last):
        ...
        capsexp.errors.ConfigError: inference must be dynamic: ClassCapsules has no master coefficients, got 'fast'
    """
    require_choice("inference", inference, get_args(Inference))
    layers = capsule_layers(model)
    for name, layer in layers.items():
        known = inference == "dynamic" or layer.master_JI is not None
        rule = f"be dynamic: {name or type(layer).__name__} has no master coefficients"
        require(known, "inference", rule, inference)
    for layer in layers.values():
        layer.inference = inference


class ClassCapsules(CapsuleLayer):
    """The class capsules, for which every child votes: Sabour et al. (2017), DigitCaps.

    Args:
        children: I.
        parents: J.
        dim_in: D.
        dim_out: E.
        routing: constructor of the layer's routing from these four.
        weight_std: standard deviation of the initial matrices; None begins as the routing does.
        matrix: see :class:`CapsuleLayer`.
        grid: height and width of the children's grid, with the places of a type adjacent; the next two need it.
        shared: True if the places of a type share their transformation matrices (Hinton et al. 2018).
        coordinates: True adds every child's place to its votes, see :func:`~capsexp.nn.shifted_votes.centres`.

    Example:
        >>> from functools import partial
        >>> from capsexp.routing import Dynamic
        >>> layer = ClassCapsules(36, 10, 8, 16, partial(Dynamic, iterations=2))
        >>> output = layer(torch.rand(5, 36, 8))
        >>> output.poses_BJE.shape, output.activations_BJ.shape, output.coupling_BJI.shape
        (torch.Size([5, 10, 16]), torch.Size([5, 10]), torch.Size([5, 10, 36]))
        >>> ClassCapsules(36, 10, 8, 16, Dynamic, grid=(3, 3), shared=True).weight.shape  # of 4 types
        torch.Size([10, 16, 8, 4])
    """

    offset_EI: Tensor | None

    def __init__(
        self,
        children: int,
        parents: int,
        dim_in: int,
        dim_out: int,
        routing: MakeRouting,
        *,
        weight_std: float | None = None,
        matrix: bool = False,
        grid: tuple[int, int] | None = None,
        shared: bool = False,
        coordinates: bool = False,
    ) -> None:
        require(grid is not None or not (shared or coordinates), "grid", "be given for shared and coordinates", grid)
        height, width = grid or (1, 1)
        fits = min(height, width) > 0 and children % (height * width) == 0
        require(fits, "grid", f"have a number of places that divides the children, {children}", grid)
        types = children // (height * width)
        super().__init__(
            children,
            parents,
            dim_in,
            dim_out,
            routing,
            weight_std=weight_std,
            matrix=matrix,
            shared=types if shared else None,
        )
        own = not self.routing.children_at
        rule = f"be false: {type(self.routing).__name__} has parameters of every child"
        require(own or not shared, "shared", rule, shared)
        offset_EI = None
        if coordinates:
            side = self._sides()[0] if matrix else 1
            found, what = (side, "rows") if matrix else (dim_out, "components")
            require(found >= 2, "coordinates", f"be false: votes need 2 {what} for them", coordinates)
            offset_EI = centres(height, width, types, dim_out, side)
        self.register_buffer("offset_EI", offset_EI, persistent=False)

    def votes(self, poses_BID: Tensor, mask_BI: Tensor | None = None, form: Form | None = None) -> Votes:
        """The votes of children with these poses, with their coordinates if they have them."""
        votes = super().votes(poses_BID, mask_BI, form)
        return votes if self.offset_EI is None else ShiftedVotes(votes, self.offset_EI)

    def forward(self, children: Given, parents: Tensor | None = None) -> RoutingOutput:
        """Poses (B, J, E), activations (B, J) and coupling (B, J, I) of the classes.

        Args:
            children: poses (B, I, D), alone or with activations (B, I).
            parents: with ``one_round``: poses (B, J, E) of the classes before the round, None in the first one.
        """
        poses_BID, activations_BI = capsules_of(children)
        return self.route(poses_BID, None, activations_BI, None, parents)


class ConvCapsules(CapsuleLayer):
    """Capsules whose children are a window of capsules; all positions share the transformation matrices.

    Sahu and Altahhan (2024), IntermediateCaps: J types at each of L positions route from the I = T * kernel^2 children
    of their window.  Each position routes separately, so routing is that of the class layer with the positions as part
    of the batch.

    Args:
        in_types: T, capsule types of the input.
        out_types: J.
        dim_in: D.
        dim_out: E.
        routing: constructor of the layer's routing from children, parents, dim_in and dim_out.
        kernel: side of the window.
        stride: distance between neighbouring windows.
        padding: border of positions without capsules; there are no votes from there, and ``Votes.mask_BI`` is False.
        weight_std: standard deviation of the initial matrices; None begins as the routing does.
        normaliser: ``batch_norm`` normalises each component of each type's poses over images and positions; ``none``
            leaves them.
        matrix: see :class:`CapsuleLayer`.

    Example:
        >>> from capsexp.routing import Dynamic
        >>> layer = ConvCapsules(4, 6, 8, 8, Dynamic, kernel=3, padding=1)
        >>> layer(torch.rand(2, 4, 8, 5, 5)).poses_BJE.shape
        torch.Size([2, 6, 8, 5, 5])
    """

    def __init__(
        self,
        in_types: int,
        out_types: int,
        dim_in: int,
        dim_out: int,
        routing: MakeRouting,
        *,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 1,
        weight_std: float | None = None,
        normaliser: str = "none",
        matrix: bool = False,
    ) -> None:
        children = in_types * kernel**2
        super().__init__(children, out_types, dim_in, dim_out, routing, weight_std=weight_std, matrix=matrix)
        self.kernel, self.stride, self.padding = kernel, stride, padding
        normal = require_choice("normaliser", normaliser, ("none", "batch_norm")) == "batch_norm"
        self.norm = nn.BatchNorm2d(out_types * dim_out) if normal else None
        self._fields: dict[tuple[int, int, torch.device], Field] = {}

    def forward(self, children: Given, parents: Tensor | None = None) -> RoutingOutput:
        """Poses (B, J, E, H', W'), activations (B, J, H', W') and coupling (B, L, J, I).

        Args:
            children: poses (B, T, D, H, W), alone or with activations (B, T, H, W).
            parents: with ``one_round``: poses (B, J, E, H', W') before the round, None in the first one.
        """
        poses_BTDHW, activations_BTHW = capsules_of(children)
        batch, _, _, height, width = poses_BTDHW.shape
        rows, columns = self._places(height), self._places(width)
        activations_BI = None
        if self.routing.needs_activations and activations_BTHW is not None:
            activations_BI = self.windows(activations_BTHW[:, :, None]).squeeze(2)
        field = self._field(height, width, poses_BTDHW.device)
        parents_BJE = None if parents is None else parents.permute(0, 3, 4, 1, 2).flatten(0, 2)
        mask_BI = self.mask(poses_BTDHW)
        output = self.route(self.windows(poses_BTDHW), mask_BI, activations_BI, field, parents_BJE)
        poses = output.poses_BJE.view(batch, rows, columns, *output.poses_BJE.shape[1:]).permute(0, 3, 4, 1, 2)
        if self.norm is not None:
            poses = self.norm(poses.flatten(1, 2)).view_as(poses)
        activations = output.activations_BJ.view(batch, rows, columns, poses.shape[1]).permute(0, 3, 1, 2)
        coupling = output.coupling_BJI.view(batch, rows * columns, *output.coupling_BJI.shape[1:])
        return RoutingOutput(poses, activations, coupling)

    def _field(self, height: int, width: int, device: torch.device) -> Field | None:
        """The windows' field if the routing needs it; None where every child lies in one window."""
        alone = self.stride >= self.kernel or self._places(height) * self._places(width) == 1
        if alone or self.routing.shares != "field":
            return None
        key = height, width, device
        if key in self._fields:
            return self._fields[key]
        sizes = self.kernel, self.stride, self.padding
        if torch.compiler.is_compiling():
            return Field.of_grid(height, width, *sizes, device)
        with torch.inference_mode(False):  # a later training step uses it, too
            field = Field.of_grid(height, width, *sizes, device)
        if type(field.place_LP) is Tensor:  # a tracer's tensor is of no use after it
            self._fields[key] = field
        return field

    def _places(self, size: int) -> int:
        rule = f"be at most the grid's side and its padding ({size} + 2 * {self.padding})"
        require(self.kernel <= size + 2 * self.padding, "kernel", rule, self.kernel)
        return (size + 2 * self.padding - self.kernel) // self.stride + 1

    def windows(self, poses_BTDHW: Tensor) -> Tensor:
        """The children of every window, (B*L, I, D)."""
        batch, types, dim = poses_BTDHW.shape[:3]
        columns = F.unfold(poses_BTDHW.flatten(1, 2), self.kernel, padding=self.padding, stride=self.stride)
        windows = columns.view(batch, types, dim, self.kernel**2, columns.shape[2])
        windows = windows.permute(0, 4, 2, 1, 3)  # B, L, D, T, kernel^2
        return windows.flatten(0, 1).flatten(2).transpose(1, 2)

    def mask(self, poses_BTDHW: Tensor) -> Tensor | None:
        """Mask of the children that exist in every window, (B*L, I); None where all exist."""
        if not self.padding:
            return None
        there = poses_BTDHW.new_ones(1, 1, 1, *poses_BTDHW.shape[3:]).expand(1, poses_BTDHW.shape[1], -1, -1, -1)
        mask_LI = self.windows(there).squeeze(2).bool()
        return mask_LI.repeat(poses_BTDHW.shape[0], 1)
