"""The base class of architectures, and counts of their parameters."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from capsexp.errors import require, require_choice
from capsexp.nn.capsules import ClassCapsules
from capsexp.nn.channels import Prunable
from capsexp.nn.decoder import Decoder
from capsexp.nn.head import SharedScore
from capsexp.types import RoutingOutput


class Classifier(Prunable, ABC):
    """An architecture that gives one score per class.

    Attributes:
        random_states: random states after its weights were drawn, see :mod:`capsexp.rng`; a fit starts from them.  None
            if they are not saved.

    Example:
        >>> from capsexp.models import CNN
        >>> model = CNN(image_shape=(1, 28, 28), classes=46, c1=6, c2=16, c3=16)
        >>> isinstance(model, Classifier), model(torch.rand(2, 1, 28, 28)).shape, model.params_paper()
        (True, torch.Size([2, 46]), 11622)
    """

    random_states: dict[str, Any] | None = None

    @classmethod
    def check_study(cls, study: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
        """Raise :class:`~capsexp.errors.ConfigError` if a study gives a network the name of another one.

        Args:
            study: the config's group ``study``, whose values are shown in reports.
            arguments: the config's group ``model``.
        """

    @abstractmethod
    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class scores of shape (B, K)."""

    @abstractmethod
    def params_paper(self) -> int:
        """The number of parameters by the paper's own formula, which may omit some."""


HEADS = ("activations", "linear")


class CapsuleClassifier(Classifier):
    """A classifier by class capsules, which :class:`~capsexp.lightning_modules.capsnet.CapsNetModule` trains.

    Attributes:
        head: makes the scores of the class capsules' poses; None where their activations are the scores.
        decoder: reconstructs the image, or None.

    Example:
        >>> from capsexp.nn import ClassCapsules, PrimaryCapsules, as_children
        >>> from capsexp.routing import Dynamic
        >>> class Net(CapsuleClassifier):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.primary = PrimaryCapsules(1, 8, 4, kernel=8)
        ...         self.class_capsules = ClassCapsules(2, 10, 4, 8, Dynamic)
        ...
        ...     def capsules(self, images_BCHW):
        ...         return self.class_capsules(as_children(self.primary(images_BCHW)))
        ...
        ...     def params_paper(self):
        ...         return count_parameters(self)
        >>> Net()(torch.rand(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    head: SharedScore | None
    decoder: Decoder | None

    def __init__(self) -> None:
        super().__init__()
        self.head = self.decoder = None

    @abstractmethod
    def capsules(self, images_BCHW: Tensor) -> RoutingOutput:
        """Poses (B, K, E), activations (B, K) and coupling (B, K, I) of the class capsules."""

    def scores(self, output: RoutingOutput) -> Tensor:
        """Class scores (B, K) of what :meth:`capsules` gives."""
        return output.activations_BJ if self.head is None else self.head(output.poses_BJE)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Class scores (B, K)."""
        return self.scores(self.capsules(images_BCHW))


def check_activations(kind: str, layer: ClassCapsules) -> None:
    """Refuse activations of primary capsules that no routing uses.

    Raises:
        ConfigError: ``kind`` is logistic, and the routing of this layer, and of all others, does not need activations.
    """
    name = type(layer.routing).__name__
    rule = f"be length: {name} does not use the activations of the capsules before it"
    require(kind == "length" or layer.routing.needs_activations, "activation", rule, kind)


def make_head(kind: str, layer: ClassCapsules) -> SharedScore | None:
    """The head of a network with these class capsules.

    Args:
        kind: ``activations`` for none: they are the scores; ``linear`` for a :class:`~capsexp.nn.head.SharedScore`.
        layer: the class capsules.

    Raises:
        ConfigError: the class capsules have no activations, or no poses, and the head needs them.
    """
    name, dim = type(layer.routing).__name__, layer.dim_out
    require_choice("head", kind, HEADS)
    if kind == "linear":
        require(dim > 0, "head", "be activations where class capsules have no poses (dim_class=0)", kind)
        return SharedScore(dim)
    require(layer.routing.activation != "none", "head", f"be linear: {name} has no activations", kind)
    return None


def count_parameters(model: nn.Module) -> int:
    """The true number of trainable parameters, including biases.

    Example:
        >>> count_parameters(torch.nn.Linear(3, 2))
        8
    """
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def count_weights(model: nn.Module) -> int:
    """The number of weights without biases, as in the formulas of Wang (2019).

    Example:
        >>> count_weights(torch.nn.Sequential(torch.nn.Linear(3, 2)))
        6
    """
    return sum(p.numel() for name, p in model.named_parameters() if name.endswith("weight"))


def check_image_shape(image_shape: tuple[int, int, int], smallest: int) -> tuple[int, int, int]:
    """``image_shape`` (C, H, W) if both sides have at least ``smallest`` pixels."""
    rule = f"give images of at least {smallest}x{smallest} pixels to this model"
    require(min(image_shape[1:]) >= smallest, "image_shape", rule, tuple(image_shape))
    return image_shape
