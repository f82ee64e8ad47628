"""Pruning in a plain script: one function for all of it, and one for each of its steps."""

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar, cast

from torch import Tensor, nn

from capsexp.errors import require
from capsexp.nn.channels import ChannelNetwork, FeatureMaps, convolution_of, widths_of
from capsexp.nn.passes import device_of, evaluation, images_of
from capsexp.pruning.base import Criterion, Layer
from capsexp.pruning.contract import check_network
from capsexp.pruning.merging import Into, partners
from capsexp.pruning.selection import Fewer, Selection
from capsexp.pruning.surgery import shrink

M = TypeVar("M", bound=ChannelNetwork)


class Pruned(NamedTuple, Generic[M]):
    """The result of :func:`prune`.

    Attributes:
        model: the smaller network.
        kept: the indices of the kept channels of each layer, in order, int64 on the CPU.
        scores: the scores (O,) that chose them, float64 on the CPU.

    Example:
        >>> Pruned(model=None, kept={"conv1": torch.tensor([0, 3])}, scores={}).kept["conv1"]
        tensor([0, 3])
    """

    model: M
    kept: Mapping[str, Tensor]
    scores: Mapping[str, Tensor]


def prune(
    model: M,
    criterion: Criterion,
    ratio: float | Selection | Fewer,
    batches: Iterable[Any] | None = None,
    *,
    make: Callable[..., M] | None = None,
    layers: Collection[str] | None = None,
    renew: bool = False,
) -> Pruned[M]:
    """Score the channels of a network, and construct the smaller one without those of the lowest scores.

    The steps, each a function of its own, are :func:`score`, :func:`select`, :func:`find_partners` where the selection
    merges, and :func:`shrink`.

    Args:
        model: the network, which meets the contract of :class:`~capsexp.nn.ChannelNetwork`; it is not changed.
        criterion: ranks the channels.
        ratio: share of each layer's channels to remove, or a selection with further options.
        batches: images for a criterion that reads feature maps, see :func:`score`.
        make: constructor of the architecture from the result of ``model.sized``; its other arguments must be those of
            ``model`` (``functools.partial(CapsNet, image_shape=(1, 28, 28), classes=10, routing=Dynamic)``).  None for
            the model's class, if ``sized`` returns all that it needs.
        layers: names of the layers to prune; None for all.
        renew: True lets all capsule layers begin with new matrices, see :func:`shrink`.

    Returns:
        The smaller network, on the device and in the mode of ``model``, with the kept channels and the scores.

    Raises:
        ConfigError: the network does not meet the contract, a layer does not exist or cannot be pruned in this way,
            ``batches`` are lacking or hold no images, ``make`` takes other arguments or makes another architecture.

    Example:
        >>> from functools import partial
        >>> from capsexp.models import CNN
        >>> make = partial(CNN, image_shape=(1, 8, 8), classes=10)
        >>> smaller, kept, scores = prune(make(), Chip(), 0.5, [torch.rand(4, 1, 8, 8)], make=make)
        >>> smaller.widths(), {name: len(index) for name, index in kept.items()}
        ({'conv1': 3, 'conv2': 8, 'conv3': 8}, {'conv1': 3, 'conv2': 8, 'conv3': 8})
        >>> prune(make(), Cosine(), Selection(0.5, merge=True), make=make, layers=["conv2"]).model.widths()
        {'conv1': 6, 'conv2': 8, 'conv3': 16}
    """
    selection = Selection(ratio) if isinstance(ratio, int | float) else ratio
    rule = "be a number in [0, 1), or a Selection or Fewer"
    require(isinstance(selection, Selection | Fewer), "ratio", rule, selection)
    scores = score(model, criterion, batches, layers=layers)
    kept = select(model, scores, selection)
    into = find_partners(model, kept) if selection.merge else {}
    smaller = shrink(model, kept, type(model) if make is None else make, renew=renew, into=into)
    whole, module = cast("nn.Module", model), cast("nn.Module", smaller)
    module.to(next(whole.parameters())).train(whole.training)
    return Pruned(smaller, kept, scores)


def score(
    model: ChannelNetwork,
    criterion: Criterion,
    batches: Iterable[Any] | None = None,
    *,
    layers: Collection[str] | None = None,
) -> dict[str, Tensor]:
    """The scores of the channels of a network's layers.

    A criterion that reads feature maps scores each batch; the scores are averaged over the images.  The model runs in
    evaluation mode, without gradients; afterwards its modes are as before.

    Args:
        model: the network, see :class:`~capsexp.nn.ChannelNetwork`.
        criterion: the criterion.
        batches: tensors of images (B, C, H, W), or sequences that begin with one, such as (images, labels); they are
            moved to the model's device.  None for a criterion that reads weights.
        layers: names of the layers to score; None for all.

    Returns:
        The scores (O,) of each layer, float64 on the CPU, higher = keep.

    Raises:
        ConfigError: the network does not meet the contract, a layer does not exist, or ``batches`` are lacking or hold
            no images.

    Example:
        >>> from capsexp.models import CNN
        >>> model = CNN(image_shape=(1, 8, 8), classes=10)
        >>> {name: tuple(each.shape) for name, each in score(model, Magnitude()).items()}
        {'conv1': (6,), 'conv2': (16,), 'conv3': (16,)}
        >>> score(model, Chip(), [torch.rand(4, 1, 8, 8)], layers=["conv3"])["conv3"].shape
        torch.Size([16])
    """
    check_network(model)
    rule = "be a criterion, such as capsexp.pruning.Chip()"
    require(isinstance(criterion, Criterion), "criterion", rule, criterion)
    names = list(model.channel_layers()) if layers is None else list(layers)
    for name in names:
        require(name in model.channel_layers(), "layers", f"be among {', '.join(model.channel_layers())}", name)
    if criterion.needs == "weights":
        return {name: criterion.scores(Layer(name, convolution_of(model, name).weight)) for name in names}
    rule = f"hold images, since {type(criterion).__name__} scores feature maps"
    require(batches is not None, "batches", rule, None)
    sums, images = _sums(model, criterion, cast("Iterable[Any]", batches), names)
    require(images > 0, "batches", rule, "none")
    return {name: total / images for name, total in sums.items()}


def _sums(
    model: ChannelNetwork, criterion: Criterion, batches: Iterable[Any], names: list[str]
) -> tuple[dict[str, Tensor], int]:
    """The sums of the scores over the images, by layer, and the number of images."""
    module, sums, images = cast("nn.Module", model), dict[str, Tensor](), 0
    for batch in batches:
        images_BCHW = images_of(batch, device_of(module))
        with evaluation(module), FeatureMaps(model) as maps:
            module(images_BCHW)
            for name in names:
                there = name in maps.last
                require(there, f"{name}.maps", "name a module that each forward pass calls", _maps_name(model, name))
                layer = Layer(name, convolution_of(model, name).weight, maps.last[name])
                found = criterion.scores(layer) * len(images_BCHW)
                sums[name] = sums[name] + found if name in sums else found
        images += len(images_BCHW)
    return sums, images


def _maps_name(model: ChannelNetwork, name: str) -> str:
    return model.channel_layers()[name].maps


def select(
    model: ChannelNetwork, scores: Mapping[str, Tensor], selection: float | Selection | Fewer
) -> dict[str, Tensor]:
    """The channels of each layer to keep.

    Args:
        model: the network.
        scores: the scores (O,) of the layers to prune, higher = keep.
        selection: share of each layer's channels to remove, or a selection with further options.

    Returns:
        The indices of the kept channels of each of these layers, in order, int64 on the CPU.

    Raises:
        ConfigError: a layer does not exist, or has another number of channels than scores.

    Example:
        >>> from capsexp.models import CNN
        >>> model = CNN(image_shape=(1, 8, 8), classes=10, c1=4)
        >>> select(model, {"conv1": torch.tensor([0.1, 0.4, 0.3, 0.2])}, 0.5)
        {'conv1': tensor([1, 2])}
    """
    check_network(model)
    chosen = Selection(selection) if isinstance(selection, int | float) else selection
    layers, widths = model.channel_layers(), widths_of(model)
    for name, scores_O in scores.items():
        require(name in layers, f"scores.{name}", f"name one of the layers {', '.join(layers)}", name)
        rule = f"have the shape ({widths[name]},), one number per channel"
        require(scores_O.shape == (widths[name],), f"scores.{name}", rule, tuple(scores_O.shape))
    return {name: chosen.keep(layers[name], scores_O) for name, scores_O in scores.items()}


def find_partners(model: ChannelNetwork, kept: Mapping[str, Tensor]) -> dict[str, Into]:
    """For the removed channels of all layers, the most similar kept ones, as :func:`shrink` merges them.

    Args:
        model: the network before pruning.
        kept: the indices of the kept channels of each pruned layer.

    Returns:
        By layer, the result of :func:`~capsexp.pruning.partners`; without layers whose channels cannot be merged.

    Example:
        >>> from capsexp.models import CNN
        >>> model = CNN(image_shape=(1, 8, 8), classes=10, c1=2)
        >>> with torch.no_grad():
        ...     model.convolution("conv1").weight[1] = 3 * model.convolution("conv1").weight[0]
        >>> found = find_partners(model, {"conv1": torch.tensor([0])})["conv1"]
        >>> {gone: (partner, round(ratio, 3)) for gone, (partner, ratio) in found.items()}
        {1: (0, 3.0)}
    """
    found = {name: partners(model, name, index) for name, index in kept.items()}
    return {name: into for name, into in found.items() if into}
