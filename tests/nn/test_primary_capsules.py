"""Primary capsules with other normalisers and with activations of their own."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.nn.primary import PrimaryCapsules

B, C, T, D, SIDE = 3, 5, 2, 4, 6


def made(**options: Any) -> PrimaryCapsules:
    """In float64, with numbers that matter."""
    torch.manual_seed(0)
    layer = PrimaryCapsules(C, T * D, D, kernel=3, **options).double()
    with torch.no_grad():
        for value in layer.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand_like(value) + 0.5)
    return layer.eval()


def maps() -> Tensor:
    return torch.randn(B, C, SIDE, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def normalised(values_BCHW: Tensor, norm: Any) -> Tensor:
    """Batch normalisation in evaluation, written out."""
    mean, variance, gain, shift = (
        each[:, None, None] for each in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (values_BCHW - mean) / (variance + norm.eps).sqrt() * gain + shift


def poses_of(layer: PrimaryCapsules, maps_BCHW: Tensor) -> Tensor:
    return F.conv2d(maps_BCHW, layer.conv.weight, layer.conv.bias)


def test_batch_normalisation_stands_in_place_of_the_squash() -> None:
    layer = made(normaliser="batch_norm")
    assert layer.conv.bias is None
    expected = normalised(poses_of(layer, maps()), layer.norm).view(B, T, D, 4, 4)
    torch.testing.assert_close(layer(maps()).poses, expected, rtol=1e-10, atol=1e-10)


def test_layer_normalisation_of_every_capsule_with_one_gain_for_all_types() -> None:
    layer = made(normaliser="layer_norm")
    assert layer.conv.bias is None
    raw_BTDHW = poses_of(layer, maps()).view(B, T, D, 4, 4)
    centred = raw_BTDHW - raw_BTDHW.mean(2, keepdim=True)
    gain, shift = (each.view(D, 1, 1) for each in (layer.norm.weight, layer.norm.bias))  # type: ignore[union-attr,operator]
    expected = centred / (centred.square().mean(2, keepdim=True) + 1e-5).sqrt() * gain + shift
    torch.testing.assert_close(layer(maps()).poses, expected, rtol=1e-10, atol=1e-10)


def test_without_a_normaliser_poses_are_the_maps() -> None:
    layer = made(normaliser="none")
    expected = poses_of(layer, maps()).view(B, T, D, 4, 4)
    torch.testing.assert_close(layer(maps()).poses, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("normaliser", ["squash", "batch_norm", "none"])
def test_logistic_activations_come_from_a_convolution_of_their_own(normaliser: str) -> None:
    layer: Any = made(activation="logistic", normaliser=normaliser)
    logits = F.conv2d(maps(), layer.activation_conv.weight, layer.activation_conv.bias)
    assert (layer.activation_conv.bias is None) == (normaliser == "batch_norm")
    expected = (normalised(logits, layer.activation_norm) if normaliser == "batch_norm" else logits).sigmoid()
    found = layer(maps()).activations
    assert found.shape == (B, T, 4, 4)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_lengths_are_left_to_those_who_need_them() -> None:
    assert made()(maps()).activations is None


def test_a_capsule_of_one_component_keeps_its_value_under_layer_normalisation() -> None:
    layer = PrimaryCapsules(C, 3, 1, kernel=3, normaliser="layer_norm").double()
    assert layer.norm is None
    torch.testing.assert_close(layer(maps()).poses.flatten(1, 2), poses_of(layer, maps()))


def test_under_autocast_statistics_and_activations_are_float32() -> None:
    layer = made(normaliser="batch_norm", activation="logistic").float().train()
    with torch.autocast("cpu", torch.bfloat16):
        poses, activations = layer(maps().float())
    assert poses.dtype == torch.float32
    assert activations is not None
    assert activations.dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normaliser": "x"}, r"^normaliser must be one of squash, batch_norm, type_norm, layer_norm, none, got 'x'$"),
        ({"activation": "x"}, r"^activation must be one of length, logistic, got 'x'$"),
        ({"epsilon": -1}, r"^epsilon must be a number in \[0, inf\], got -1$"),
        ({"depthwise": 1}, r"^depthwise must be true or false, got 1$"),
        ({"depthwise": True}, r"^depthwise must be false where maps of 5 channels become 8: it keeps their number"),
    ],
)
def test_refuses(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrimaryCapsules(C, T * D, D, kernel=3, **options)  # type: ignore[arg-type]


def test_refuses_depthwise_capsules_with_activations_of_their_own() -> None:
    with pytest.raises(ConfigError, match=r"^depthwise must be false with activation=logistic, got True$"):
        PrimaryCapsules(8, 8, 4, kernel=3, depthwise=True, activation="logistic")
