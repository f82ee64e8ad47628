"""Master coefficients in a plain loop; their arithmetic with a Trainer is in tests/callbacks."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import capsexp
from capsexp.errors import ConfigError
from capsexp.filters import Everything, Filter, Pearson
from capsexp.models import CNN, CapsNet, DeepCapsNet
from capsexp.nn import ClassCapsules, ConvCapsules, capsule_layers, set_inference
from capsexp.routing import MaxMin, Uniform
from tests.references import accumulation as reference

Pairs = list[tuple[Tensor, Tensor]]

make = partial(
    CapsNet,
    image_shape=(1, 8, 8),
    classes=3,
    routing=MaxMin,
    c1=4,
    c2=8,
    kernel=3,
    dim=4,
    decoder=None,
    squash="linear",
)


@pytest.fixture
def model() -> CapsNet:
    torch.manual_seed(0)
    found = make()
    with torch.no_grad():
        found.class_capsules.weight.normal_()  # so that images couple differently
    return found


def batches(images: int = 30, size: int = 12) -> Pairs:
    generator = torch.Generator().manual_seed(1)
    images_NCHW = torch.rand(images, 1, 8, 8, generator=generator)
    return list(zip(images_NCHW.split(size), (torch.arange(images) % 3).split(size), strict=True))


@torch.no_grad()
def stored(model: CapsNet) -> tuple[np.ndarray, np.ndarray]:
    """Every image's couplings (N, J, I), and the labels (N,)."""
    found = [(model.capsules(images).coupling_BJI, labels) for images, labels in batches()]
    return tuple(torch.cat(each).numpy() for each in zip(*found, strict=True))  # type: ignore[return-value]


class EveryOther(Filter):
    """Looks once, and keeps every other image."""

    looks = 1

    def keep(self, columns_BI: Tensor, labels_B: Tensor) -> Tensor:
        return torch.arange(len(labels_B)) % 2 == 0


@pytest.mark.parametrize("chosen", [None, EveryOther()], ids=["all", "some"])
@pytest.mark.parametrize("columns", ["whole", "ground_truth"])
def test_the_master_is_that_of_all_stored_couplings(model: CapsNet, chosen: Filter | None, columns: str) -> None:
    couplings_NJI, labels_N = stored(model)
    masters = capsexp.accumulate(model, batches(), filter=chosen, columns=columns)
    kept_N = np.arange(30) % 2 == 0 if chosen else np.ones(30, dtype=bool)
    made = reference.master if columns == "whole" else reference.master_of_columns
    expected_JI = made(couplings_NJI[kept_N].astype(np.float64), labels_N[kept_N], reference.max_min)
    np.testing.assert_allclose(masters.by_layer["class_capsules"], expected_JI, rtol=0, atol=1e-6)
    assert masters.kept == kept_N.mean()
    set_master = capsule_layers(model)["class_capsules"].master_JI
    torch.testing.assert_close(set_master, masters.by_layer["class_capsules"].float())
    size = " x ".join(map(str, expected_JI.shape))
    assert repr(masters) == f"Masters(class_capsules: {size}; kept={masters.kept:g})"


def test_modes_gradients_and_inference_are_as_before(model: CapsNet) -> None:
    capsexp.accumulate(model, batches())
    set_inference(model, "folded")
    model.train()
    model.conv1.eval()
    first = capsexp.accumulate(model, batches(), filter=Pearson())  # routes, although inference is folded
    again = capsexp.accumulate(model, iter(batches()))
    assert (model.training, model.conv1.training, model.primary.training) == (True, False, True)
    assert model.class_capsules.inference == "folded"
    assert first.kept < again.kept == 1
    assert not model.class_capsules.routing._forward_hooks
    model(batches()[0][0]).sum().backward()
    assert model.conv1.weight.grad is not None


def test_the_layers_between_get_the_mean_over_images_and_places() -> None:
    torch.manual_seed(0)
    deep = DeepCapsNet(image_shape=(1, 12, 12), classes=3, routing=MaxMin, capsules=2, dim=4, depth=1)
    images, labels = torch.rand(9, 1, 12, 12), torch.arange(9) % 3
    couplings: list[Tensor] = []
    middle = deep.intermediate["layer1"]
    hook = middle.register_forward_hook(lambda _, __, output: couplings.append(output.coupling_BJI))
    masters = capsexp.accumulate(deep, [(images, labels, "more")])
    hook.remove()
    (coupling_BLJI,) = couplings
    assert list(masters.by_layer) == ["intermediate.layer1", "class_capsules"]
    there_B11I = middle.mask(torch.ones(9, 2, 4, *deep.grid)).view(*coupling_BLJI.shape[:2], 1, -1)  # type: ignore[operator]
    expected_JI = (coupling_BLJI * there_B11I).sum((0, 1)) / there_B11I.sum((0, 1))
    assert not there_B11I.all()
    torch.testing.assert_close(masters.by_layer["intermediate.layer1"].float(), expected_JI)


class Masterless(Uniform):
    has_master = False


def shrinking() -> Any:
    """Batches that hold fewer images in each pass."""

    class Shrinking:
        left = 30

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            self.left -= 10
            return iter(batches(self.left))

    return Shrinking()


IMAGES, LABELS = batches()[0]


@pytest.mark.parametrize(
    ("given", "options", "line"),
    [
        ([], {}, "batches must hold the same images in each pass, at least one, got '[0] images'"),
        (
            iter(batches()),
            {"filter": EveryOther()},
            "batches must be no iterator, since the filter takes 2 passes, got",
        ),
        (shrinking(), {"filter": EveryOther()}, "batches must hold the same images in each pass.*'[20, 10] images'"),
        ([IMAGES], {}, "batches must hold sequences that begin with images and labels.*(12, 1, 8, 8)'"),
        ([(IMAGES, LABELS[:3])], {}, "batches must hold sequences that begin with images and labels.*(3,)'"),
        ([(IMAGES, LABELS / 2)], {}, "batches must hold sequences that begin with images and labels.*float32 (12,)'"),
        ([(IMAGES, LABELS + 1)], {}, "batches must hold labels from 0 to 2, got [1, 3]"),
        ([(IMAGES.flatten(1), LABELS)], {}, "batches must hold tensors of images (B, C, H, W).*(12, 64)'"),
        ([(IMAGES, LABELS * 0)], {}, "filter must keep an image of every class (none of class [1]), got 'Everything'"),
        (batches(), {"columns": "half"}, "columns must be one of whole, ground_truth, got 'half'"),
    ],
)
def test_what_cannot_be_accumulated_is_one_line(model: CapsNet, given: Any, options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        capsexp.accumulate(model, given, **options)
    parts = line.split(".*")
    assert str(caught.value).startswith(parts[0])
    assert str(caught.value).endswith(parts[-1]) or len(parts) == 1
    assert model.class_capsules.master_JI is None
    assert not model.class_capsules.routing._forward_hooks


def test_a_network_without_capsules_or_with_another_routing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^model must be a network with capsule layers, got 'CNN'$"):
        capsexp.accumulate(CNN(image_shape=(1, 8, 8), classes=3), batches())
    other = ClassCapsules(4, 3, 2, 2, Masterless)
    with pytest.raises(ConfigError, match=r"^0\.routing must be one that has master coefficients, got 'Masterless'$"):
        capsexp.accumulate(nn.Sequential(other), batches(), filter=Everything())


def test_class_capsules_come_last_and_all_layers_are_used(model: CapsNet) -> None:
    middle = ConvCapsules(2, 2, 4, 4, MaxMin)
    with pytest.raises(ConfigError, match=r"^model must register its class capsules last, after the others, got '1'$"):
        capsexp.accumulate(nn.Sequential(model, middle), batches())
    model.primary.add_module("unused", middle)
    with pytest.raises(
        ConfigError, match=r"^model must use each of its capsule layers .*, got 'primary.unused unused'$"
    ):
        capsexp.accumulate(model, batches())


@pytest.mark.parametrize("routing", ["dynamic", MaxMin(children=4, parents=3, dim_in=2, dim_out=2)])
def test_a_layer_takes_the_constructor_of_its_routing(routing: Any) -> None:
    with pytest.raises(ConfigError, match=r"^routing must be the constructor of a routing, such as the class capsexp"):
        ClassCapsules(4, 3, 2, 2, routing)
