"""Capsule layers: from feature maps to capsules, and from capsules to capsules."""

from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capsexp.errors import ConfigError, require, require_choice, require_int
from capsexp.nn.functional import SQUASHES, at_least_single
from capsexp.nn.votes import FoldCache, GivenVotes, LinearVotes
from capsexp.types import RoutingOutput

MakeRouting = Callable[..., nn.Module]
"""Constructor of routing from ``children``, ``parents``, ``dim_in`` and ``dim_out``; see ``routing/base.py``."""

Inference = Literal["dynamic", "fast", "folded"]
"""Source of a layer's coupling: routing of every image (``dynamic``), or the master coefficients (the other two).

``fast`` builds the votes and weights them, as in the fast inference of Zhao et al. (2019).  ``folded`` multiplies the
master into the transformation matrices, and the layer is one matrix product.  Both give the same poses.
"""


class PrimaryCapsules(nn.Module):
    """A convolution whose channels are read as capsules: Sabour et al. (2017), section 4.

    Capsule type t has ``dim`` neighbouring channels, t * dim to (t + 1) * dim - 1, and one capsule at every position.
    The components of a capsule come from one position of the image.

    Args:
        in_channels: channels of the input maps.
        channels: output channels of the convolution, a multiple of ``dim``.
        dim: D, components of a capsule.
        kernel: kernel size of the convolution.
        stride: stride of the convolution.
        padding: padding of the convolution.
        squash: squashing function of the poses, one of :data:`~capsexp.nn.functional.SQUASHES`.

    Example:
        >>> primary = PrimaryCapsules(16, 32, dim=8, kernel=3, stride=2)  # 4 types of capsules of 8 components
        >>> primary(torch.rand(2, 16, 9, 9)).shape
        torch.Size([2, 4, 8, 4, 4])
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        dim: int,
        *,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        squash: str = "classic",
    ) -> None:
        super().__init__()
        self.dim = require_int("dim", dim, 1)
        require(channels % dim == 0, "channels", f"be a multiple of the capsules' dimension, {dim}", channels)
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride=stride, padding=padding)
        self.squash = SQUASHES[require_choice("squash", squash, tuple(SQUASHES))]

    def forward(self, maps_BCHW: Tensor) -> Tensor:
        """Poses (B, T, D, H', W') of T = channels / dim types at every position, in float32 or better."""
        maps_BCHW = at_least_single(self.conv(maps_BCHW))
        batch, _, height, width = maps_BCHW.shape
        return self.squash(maps_BCHW.reshape(batch, -1, self.dim, height, width), 2)


def as_children(poses_BTDHW: Tensor) -> Tensor:
    """Capsules on a grid as one list (B, I, D), I = T * H * W, with the positions of a type adjacent.

    Example:
        >>> as_children(torch.rand(2, 4, 8, 3, 3)).shape
        torch.Size([2, 36, 8])
    """
    poses_BDI = poses_BTDHW.flatten(3).transpose(1, 2).flatten(2)
    return poses_BDI.transpose(1, 2)  # a view: votes are fastest where the components vary slowest


class CapsuleLayer(nn.Module):
    """Transformation matrices and routing between I children and J parents; the base of the two layers below.

    The weight is (J, E, D, I).  Flattened, it is the (J*E, D*I) matrix of a linear layer.  So a coupling that all
    images share can be multiplied into it, and the layer is one matrix product.

    Attributes:
        inference: source of the coupling, see :data:`Inference`.
        master_JI: a coupling for all images, or None (Zhao et al. 2019: master routing coefficients).

    Args:
        children: I.
        parents: J.
        dim_in: D.
        dim_out: E.
        routing: constructor of the layer's routing from these four.
        weight_std: standard deviation of the initial matrices; None takes that of the routing.

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
    ) -> None:
        super().__init__()
        made = isinstance(routing, nn.Module) or not callable(routing)
        rule = "be the constructor of a routing, such as the class capsexp.routing.Dynamic"
        require(not made, "routing", rule, type(routing).__name__)
        try:
            self.routing = routing(children=children, parents=parents, dim_in=dim_in, dim_out=dim_out)
        except ConfigError as error:  # routing is a config group of its own, not a part of the model's
            raise error.within("routing", outermost=True) from error
        std = cast("float", self.routing.weight_std) if weight_std is None else weight_std
        self.weight = nn.Parameter(torch.randn(parents, dim_out, dim_in, children) * std)
        self.inference: Inference = "dynamic"
        self.register_buffer("master_JI", None)
        self._folds = FoldCache()

    def set_master(self, coupling_JI: Tensor) -> None:
        """Set a coupling for all images, which is part of the checkpoint.

        Raises:
            ConfigError: its shape is wrong, or it holds NaN or infinite values.
        """
        parents, _, _, children = self.weight.shape
        rule = f"have the shape (parents, children) = {(parents, children)}"
        require(coupling_JI.shape == (parents, children), "master", rule, tuple(coupling_JI.shape))
        require(bool(coupling_JI.isfinite().all()), "master", "hold finite numbers", "NaN or infinity")
        self.master_JI = coupling_JI.detach().to(self.weight, copy=True)

    def train(self, mode: bool = True) -> "CapsuleLayer":
        """Switch between training and evaluation; evaluation folds a shared coupling into the weight once."""
        self._folds.clear()
        return super().train(mode)

    def route(self, poses_BID: Tensor, mask_BI: Tensor | None = None) -> RoutingOutput:
        """The output of routing for the votes of the children."""
        folds = None if self.training else self._folds
        votes = LinearVotes(poses_BID, self.weight, mask_BI, folds=folds)
        if self.inference == "dynamic":
            return cast("RoutingOutput", self.routing(votes))
        given = votes if self.inference == "folded" else GivenVotes(votes.materialise(), mask_BI)
        weigh = cast("Callable[..., RoutingOutput]", self.routing.weigh)
        return weigh(given, self.master_JI)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        """Allocate the master if the checkpoint has one, and remove it if not."""
        there = f"{prefix}master_JI" in state_dict
        parents, _, _, children = self.weight.shape
        self.master_JI = self.weight.new_empty(parents, children) if there else None
        if not there:
            self.inference = "dynamic"
        super()._load_from_state_dict(state_dict, prefix, *rest)


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

    Example:
        >>> from functools import partial
        >>> from capsexp.routing import Dynamic
        >>> layer = ClassCapsules(36, 10, 8, 16, partial(Dynamic, iterations=2))
        >>> output = layer(torch.rand(5, 36, 8))
        >>> output.poses_BJE.shape, output.activations_BJ.shape, output.coupling_BJI.shape
        (torch.Size([5, 10, 16]), torch.Size([5, 10]), torch.Size([5, 10, 36]))
    """

    def forward(self, poses_BID: Tensor) -> RoutingOutput:
        """Poses (B, J, E), activations (B, J) and coupling (B, J, I) of the classes."""
        return self.route(poses_BID)


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
        weight_std: standard deviation of the initial matrices; None takes that of the routing.

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
    ) -> None:
        super().__init__(in_types * kernel**2, out_types, dim_in, dim_out, routing, weight_std=weight_std)
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def forward(self, poses_BTDHW: Tensor) -> RoutingOutput:
        """Poses (B, J, E, H', W'), activations (B, J, H', W') and coupling (B, L, J, I)."""
        batch, _, _, height, width = poses_BTDHW.shape
        rows, columns = self._places(height), self._places(width)
        output = self.route(self._windows(poses_BTDHW), self._mask(poses_BTDHW))
        poses = output.poses_BJE.view(batch, rows, columns, *output.poses_BJE.shape[1:]).permute(0, 3, 4, 1, 2)
        activations = output.activations_BJ.view(batch, rows, columns, -1).permute(0, 3, 1, 2)
        coupling = output.coupling_BJI.view(batch, rows * columns, *output.coupling_BJI.shape[1:])
        return RoutingOutput(poses, activations, coupling)

    def _places(self, size: int) -> int:
        rule = f"be at most the grid's side and its padding ({size} + 2 * {self.padding})"
        require(self.kernel <= size + 2 * self.padding, "kernel", rule, self.kernel)
        return (size + 2 * self.padding - self.kernel) // self.stride + 1

    def _windows(self, poses_BTDHW: Tensor) -> Tensor:
        """The children of every window, (B*L, I, D)."""
        batch, types, dim = poses_BTDHW.shape[:3]
        columns = F.unfold(poses_BTDHW.flatten(1, 2), self.kernel, padding=self.padding, stride=self.stride)
        windows = columns.view(batch, types, dim, self.kernel**2, -1).permute(0, 4, 2, 1, 3)  # B, L, D, T, kernel^2
        return windows.flatten(0, 1).flatten(2).transpose(1, 2)

    def _mask(self, poses_BTDHW: Tensor) -> Tensor | None:
        """Mask of the children that exist in every window, (B*L, I); None where all exist."""
        if not self.padding:
            return None
        there = poses_BTDHW.new_ones(1, 1, 1, *poses_BTDHW.shape[3:]).expand(1, poses_BTDHW.shape[1], -1, -1, -1)
        mask_LI = self._windows(there).squeeze(2).bool()
        return mask_LI.repeat(poses_BTDHW.shape[0], 1)
