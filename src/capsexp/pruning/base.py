"""What a pruning criterion is: a layer goes in, one score a channel comes out.

A criterion says *which* channels matter.  It does not know how many go, nor when, nor how a model gets smaller.  To
add one, write a module with a subclass of :class:`Criterion` and a ``conf/pruning/<name>.yaml`` whose ``_target_`` is
its full dotted path; there is nothing to register.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from capsexp.errors import require


@dataclass(frozen=True, eq=False)
class Layer:
    """What a criterion may look at: one convolution, seen from its output channels.

    Attributes:
        name: the layer's name in its model (``conv2``).
        weight_OCHW: (O, C, kH, kW), the filters; filter o makes channel o.
        maps_BCHW: (B, O, H, W), the layer's feature maps on a batch; None where the criterion needs none.

    Raises:
        ConfigError: the weight is no convolution's or holds NaN or infinity, or the maps do not have O channels.
    """

    name: str
    weight_OCHW: Tensor
    maps_BCHW: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse what no criterion could score."""
        weight, maps, key = self.weight_OCHW, self.maps_BCHW, f"{self.name}.weight"
        require(weight.ndim == 4, key, "have the shape (filters, channels, height, width)", tuple(weight.shape))
        require(bool(weight.isfinite().all()), key, "be finite", "NaN or infinity (did training diverge?)")
        if maps is not None:
            rule = f"have the shape (images, {len(weight)}, height, width)"
            require(maps.ndim == 4 and maps.shape[1] == len(weight), f"{self.name}.maps", rule, tuple(maps.shape))

    @property
    def channels(self) -> int:
        """O, the number of scores that the layer gets."""
        return len(self.weight_OCHW)

    @property
    def filters(self) -> Tensor:
        """(O, F), each filter as one float64 row, outside any gradient."""
        return self.weight_OCHW.detach().flatten(start_dim=1).double()


class Criterion(ABC):
    """Gives every channel of a layer a score; the channels with the lowest scores go first.

    Attributes:
        needs: whether :meth:`scores` reads the layer's weights or its feature maps.
        redundancy: whether a channel scores low because others can stand in for it.  Of two equal channels one is then
            the lowest.
        equivariant: whether permuting a layer's channels permutes the scores with them, as it must wherever the score
            comes from the channel and not from its place.
    """

    needs: ClassVar[Literal["weights", "maps"]]
    redundancy: ClassVar[bool] = False
    equivariant: ClassVar[bool] = True

    @abstractmethod
    def scores(self, layer: Layer) -> Tensor:
        """How much each channel is worth keeping.

        Args:
            layer: the layer, with its maps if the criterion ``needs`` them.

        Returns:
            (O,), float64, on the CPU, finite, higher = keep.  Only the order within one layer has a meaning.
        """
