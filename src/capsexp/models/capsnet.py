"""The capsule network of Sabour, Frosst and Hinton (2017), with sizes as arguments."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from capsexp.errors import require, require_int
from capsexp.models.base import CapsuleClassifier, check_activations, check_image_shape, make_head
from capsexp.models.parts import make_decoder
from capsexp.nn.capsules import ClassCapsules, MakeRouting, as_children
from capsexp.nn.channels import ChannelLayer, Reader
from capsexp.nn.primary import PrimaryCapsules
from capsexp.types import RoutingOutput


class CapsNet(CapsuleClassifier):
    """Convolution, primary capsules, class capsules, and an optional decoder that reconstructs the image.

    Source: Sabour et al. (2017), section 4; the sizes that Zhao et al. (2019) and Wang (2019) use are options.  With
    28x28 gray images, kernel 9 and c1 = c2 = 256: 20x20x256, 6x6x256, 1152 capsules of 8, K capsules of 16.

    Args:
        image_shape: (C, H, W) of the images, each side at least 2 * kernel - 1 pixels.
        classes: number of classes K.
        routing: constructor of the class layer's routing from children, parents, dim_in and dim_out.
        c1: channels of the first convolution.
        c2: channels of the convolution of the primary capsules, a multiple of ``dim``.
        kernel: kernel size of both convolutions.
        dim: D, components of a primary capsule.
        dim_class: E, components of a class capsule.
        squash: squashing function of the primary capsules: classic, linear or exponential (the routing has its own).
        epsilon: of the primary capsules' squash, see :func:`~capsexp.nn.finish.squashed`.
        normaliser: what makes the primary capsules' poses: see :class:`~capsexp.nn.primary.PrimaryCapsules`.
        activation: the primary capsules' activations: as there.
        depthwise: True convolves each channel by itself in the primary capsules, where c1 = c2.
        head: source of the class scores: ``activations`` of the class capsules, or ``linear``, a map from their poses.
        decoder: widths of the decoder's hidden layers; None for no decoder.

    Example:
        >>> from functools import partial
        >>> from capsexp.routing import MaxMin
        >>> routing = partial(MaxMin, iterations=2)
        >>> model = CapsNet(image_shape=(1, 12, 12), classes=10, routing=routing, c1=8, c2=16, kernel=5, decoder=None)
        >>> model(torch.rand(2, 1, 12, 12)).shape  # the lengths of the class capsules
        torch.Size([2, 10])
        >>> model.capsules(torch.rand(2, 1, 12, 12)).poses_BJE.shape
        torch.Size([2, 10, 16])
    """

    stackable = frozenset({"c1", "c2"})

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        classes: int,
        routing: MakeRouting,
        c1: int = 256,
        c2: int = 256,
        kernel: int = 9,
        dim: int = 8,
        dim_class: int = 16,
        squash: str = "classic",
        epsilon: float = 0.0,
        normaliser: str = "squash",
        activation: str = "length",
        depthwise: bool = False,
        head: str = "activations",
        decoder: Sequence[int] | None = (512, 1024),
    ) -> None:
        super().__init__()
        for key, value in (("c1", c1), ("c2", c2), ("kernel", kernel), ("dim", dim), ("dim_class", dim_class)):
            require_int(key, value, 0 if key == "dim_class" else 1)
        require(c2 % dim == 0, "c2", f"be a multiple of dim ({dim}), so that its channels make whole capsules", c2)
        channels, height, width = check_image_shape(image_shape, smallest=2 * kernel - 1)
        self.conv1 = nn.Conv2d(channels, c1, kernel)
        self.relu1 = nn.ReLU(inplace=True)
        self.primary = PrimaryCapsules(
            c1,
            c2,
            dim,
            kernel=kernel,
            stride=2,
            squash=squash,
            epsilon=epsilon,
            normaliser=normaliser,
            activation=activation,
            depthwise=depthwise,
        )
        places = ((height - 2 * kernel + 1) // 2 + 1) * ((width - 2 * kernel + 1) // 2 + 1)
        self.class_capsules = ClassCapsules(c2 // dim * places, classes, dim, dim_class, routing)
        self._places = places
        check_activations(activation, self.class_capsules)
        self.head = make_head(head, self.class_capsules)
        self.decoder = make_decoder(classes, dim_class, image_shape, decoder)

    def capsules(self, images_BCHW: Tensor) -> RoutingOutput:
        """Poses (B, K, E), activations (B, K) and coupling (B, K, I) of the class capsules."""
        output: RoutingOutput = self.class_capsules(as_children(self.primary(self.relu1(self.conv1(images_BCHW)))))
        return output

    def params_paper(self) -> int:
        """81*c1 + 81*c2 + 46*16*8*36*(c2/8) on 28x28 gray images of 46 classes: Wang (2019), section 3.3.

        The formula lacks the factor c1 in the second convolution; it counts no biases and no decoder.
        """
        second = self.primary.conv.weight
        return self.conv1.weight.numel() + second[:, 0].numel() + self.class_capsules.weight.numel()

    def channel_layers(self) -> dict[str, ChannelLayer]:
        """The first convolution and that of the primary capsules, whose channels are pruned in multiples of D."""
        classes = (Reader("class_capsules", self._places),)
        first = ChannelLayer("conv1", "relu1", self.primary.readers("primary"))
        if self.primary.depthwise:
            return {"conv1": self.primary.made_of(first, "primary", classes)}
        return {"conv1": first, "primary": self.primary.channel_layer("primary", classes)}

    def sized(self, widths: Mapping[str, int]) -> dict[str, Any]:
        """The arguments c1 and c2."""
        now = {**self.widths(), **widths}
        return {"c1": now["conv1"], "c2": now.get("primary", now["conv1"])}
