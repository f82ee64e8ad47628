"""Pruning criteria: functions from a layer to one score per channel.

A criterion ranks the channels.  It does not determine how many channels are removed, nor when, nor how the model gets
smaller.  To add a criterion, write a module with a subclass of :class:`Criterion` and a ``conf/pruning/<name>.yaml``
whose ``_target_`` is its full dotted path; no registration is needed.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from capsexp.errors import require


@dataclass(frozen=True, eq=False)
class Layer:
    """The input of a criterion: one convolution with its output channels.

    Attributes:
        name: name of the layer in its model (``conv2``).
        weight_OCHW: (O, C, kH, kW), the filters; filter o makes channel o.
        maps_BCHW: (B, O, H, W), the layer's feature maps on a batch; None where the criterion needs none.

    Raises:
        ConfigError: the weight is no convolution's or holds NaN or infinity, or the maps do not have O channels.

    Example:
        >>> layer = Layer("conv1", torch.rand(8, 3, 5, 5), torch.rand(4, 8, 10, 10))
        >>> layer.channels, layer.filters.shape
        (8, torch.Size([8, 75]))
    """

    name: str
    weight_OCHW: Tensor
    maps_BCHW: Tensor | None = None

    def __post_init__(self) -> None:
        """Check shapes and values, see ``Raises``."""
        weight, maps, key = self.weight_OCHW, self.maps_BCHW, f"{self.name}.weight"
        require(weight.ndim == 4, key, "have the shape (filters, channels, height, width)", tuple(weight.shape))
        require(bool(weight.isfinite().all()), key, "be finite", "NaN or infinity (did training diverge?)")
        if maps is not None:
            rule = f"have the shape (images, {len(weight)}, height, width)"
            require(maps.ndim == 4 and maps.shape[1] == len(weight), f"{self.name}.maps", rule, tuple(maps.shape))

    @property
    def channels(self) -> int:
        """O, the number of output channels and of scores."""
        return len(self.weight_OCHW)

    @property
    def filters(self) -> Tensor:
        """(O, F), each filter as one float64 row, detached from the graph."""
        return self.weight_OCHW.detach().flatten(start_dim=1).double()


class Criterion(ABC):
    """A score for every channel of a layer; the channels with the lowest scores are pruned first.

    Attributes:
        needs: input of :meth:`scores`: the weights of the layer, or its feature maps.
        redundancy: True if a channel scores low because others can replace it.  Of two equal channels one is then the
            lowest.
        equivariant: True if a permutation of the channels permutes the scores with them.  It must be True if the score
            depends on the channel and not on its position.

    Example:
        A criterion of one's own, by which channels go that are rarely active:

        >>> class MeanActivation(Criterion):
        ...     needs = "maps"
        ...
        ...     def scores(self, layer):
        ...         return layer.maps_BCHW.double().mean((0, 2, 3)).cpu()
        >>> MeanActivation().scores(Layer("conv1", torch.ones(2, 1, 1, 1), torch.ones(4, 2, 3, 3)))
        tensor([1., 1.], dtype=torch.float64)
    """

    needs: ClassVar[Literal["weights", "maps"]]
    redundancy: ClassVar[bool] = False
    equivariant: ClassVar[bool] = True

    @abstractmethod
    def scores(self, layer: Layer) -> Tensor:
        """The score of each channel.

        Args:
            layer: the layer, with its maps if the criterion ``needs`` them.

        Returns:
            (O,), float64, on the CPU, finite, higher = keep.  Only the order within a layer has a meaning.
        """
