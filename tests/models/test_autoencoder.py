import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from capsexp import build, records
from capsexp.errors import ConfigError
from capsexp.models.autoencoder import Autoencoder, SharedDeconvolution
from capsexp.models.base import count_parameters
from tests.references import autoencoder as reference

Shape = tuple[int, int, int]
GRAY: Shape = (1, 28, 28)
NODE = {"_target_": "capsexp.models.autoencoder.Autoencoder", "module": {"_target_": "not.read.Here"}}
KINDS = ["own", "shared"]


def make(shape: Shape = GRAY, seed: int = 0, **changes: Any) -> Autoencoder:
    torch.manual_seed(seed)
    return Autoencoder(image_shape=shape, classes=46, **changes)


def images(shape: Shape = GRAY, count: int = 2) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))


def weights(model: nn.Module) -> dict[str, Any]:
    return {name: value.numpy() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("shape", [GRAY, (3, 24, 24), (1, 8, 8), (2, 4, 12)])
@pytest.mark.parametrize("kind", KINDS)
def test_shapes(shape: Shape, kind: str) -> None:
    model = make(shape, decoder=kind)
    batch = images(shape, 5)
    assert model.encode(batch).latent_BCHW.shape == (5, 6, shape[1] // 4, shape[2] // 4)
    assert model.reconstruct(batch).shape == batch.shape
    assert model(batch).shape == (5, 46)
    assert model(batch).dtype == model.reconstruct(batch).dtype == torch.float32


def test_the_latent_maps_of_the_paper() -> None:
    assert make().encode(images()).latent_BCHW.shape == (2, 6, 7, 7)
    assert make().linear.weight.shape == (46, 294)


@pytest.mark.parametrize(("shape", "kernel"), [((1, 8, 8), 3), ((2, 4, 8), 5), ((3, 8, 4), 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_matches_the_nested_loops(shape: Shape, kernel: int, kind: str) -> None:
    model = make(shape, c1=3, c2=4, latent=2, kernel=kernel, decoder=kind).double().eval()
    batch = images(shape).double()
    scores = [reference.scores(image.numpy(), weights(model), kernel) for image in batch]
    drawn = [reference.reconstruct(image.numpy(), weights(model), kernel, shared=kind == "shared") for image in batch]
    np.testing.assert_allclose(model(batch).detach(), scores, rtol=0, atol=1e-12)
    np.testing.assert_allclose(model.reconstruct(batch).detach(), drawn, rtol=0, atol=1e-12)
    assert np.ptp(drawn) > 0.01  # the image is not flat: a layer that lets nothing through would go unseen


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_and_classifying_a_code_is_the_whole_model(kind: str) -> None:
    model = make(decoder=kind).eval()
    code = model.encode(images())
    assert torch.equal(model.decode(code), model.reconstruct(images()))
    assert torch.equal(model.classify(code), model(images()))


def test_the_drawn_image_may_take_any_value() -> None:
    model = make(c1=4, c2=4).eval()
    nn.init.constant_(model.decoder.deconv3.bias, -3.0)
    low = model.reconstruct(images())
    nn.init.constant_(model.decoder.deconv3.bias, 3.0)
    torch.testing.assert_close(model.reconstruct(images()) - low, torch.full_like(low, 6.0))
    assert low.max() < -1


def seen_by(layer: nn.Module) -> list[Tensor]:
    """A list that fills with the layer's inputs."""
    inputs: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].detach()))
    return inputs


@pytest.mark.parametrize("kind", KINDS)
def test_values_go_back_to_where_the_mirrored_pooling_took_them(kind: str) -> None:
    model = make(decoder=kind, dropout=0.0).eval()
    taken = {1: [], 2: []}
    for number, conv in ((1, model.encoder.conv1), (2, model.encoder.conv2)):
        conv.register_forward_hook(lambda _, __, maps, number=number: taken[number].append(maps.detach()))
    put = {2: seen_by(model.decoder.deconv2), 1: seen_by(model.decoder.deconv3)}
    model.reconstruct(images())
    for number, (maps,) in taken.items():
        _, places = F.max_pool2d(maps, 2, return_indices=True)
        largest = torch.zeros_like(maps).flatten(2).scatter(2, places.flatten(2), 1.0).view_as(maps) > 0
        (filled,) = put[number]
        assert filled.shape == maps.shape
        assert not filled[~largest].any()
        assert filled[largest].count_nonzero() > 0.2 * largest.sum()


def test_equal_largest_values_go_back_to_the_first() -> None:
    model = make((1, 8, 8), dropout=0.0)
    nn.init.zeros_(model.encoder.conv1.weight)  # every window of the first layer holds four equal values
    inputs = seen_by(model.decoder.deconv3)
    model.reconstruct(images((1, 8, 8)))
    assert inputs[0][..., ::2, ::2].any()
    assert not inputs[0][..., 1::2, :].any()
    assert not inputs[0][..., 1::2].any()


@pytest.mark.parametrize("c1", [2, 9, 16])
@pytest.mark.parametrize("c2", [2, 13])
def test_parameter_counts(c1: int, c2: int) -> None:
    kernels = 9 * c1 + 9 * c1 * c2 + 9 * c2 * 6
    encoder, decoder = kernels + c1 + c2 + 6, c2 + c1 + 1
    own, shared, none = (make(c1=c1, c2=c2, decoder=kind) for kind in (*KINDS, None))
    assert (own.params_paper(), shared.params_paper()) == (2 * kernels, kernels)
    assert own.count_autoencoder() == encoder + kernels + decoder
    assert shared.count_autoencoder() == encoder + decoder
    head = 294 * 46
    assert count_parameters(shared) == encoder + decoder + head + 46
    assert (none.params_paper(), none.count_autoencoder()) == (kernels + head, encoder)
    assert own.count_classifier() == shared.count_classifier() == count_parameters(none) == encoder + head + 46


def test_the_numbers_of_the_paper() -> None:
    assert make(c1=9, c2=13).params_paper() == 3_672
    assert make(c1=9, c2=13, decoder="shared").params_paper() == 1_836


def test_frozen_parameters_still_count() -> None:
    model = make()
    before = model.count_autoencoder(), model.count_classifier(), model.params_paper()
    model.requires_grad_(False)
    assert (model.count_autoencoder(), model.count_classifier(), model.params_paper()) == before


def test_the_shared_state_holds_each_weight_once() -> None:
    model, other = make(decoder="shared"), make(decoder="shared", seed=1)
    state = model.state_dict()
    convs = {f"encoder.conv{number}.{part}" for number in (1, 2, 3) for part in ("weight", "bias")}
    biases = {f"decoder.deconv{number}.bias" for number in (1, 2, 3)}
    assert set(state) == convs | biases | {"linear.weight", "linear.bias"}
    assert len({value.data_ptr() for value in state.values()}) == len(state) == len(list(model.parameters()))
    assert not torch.equal(other.eval().reconstruct(images()), model.eval().reconstruct(images()))
    other.load_state_dict(state)
    assert torch.equal(other.reconstruct(images()), model.reconstruct(images()))


def test_the_normal_one_has_deconvolutions_of_its_own() -> None:
    decoder = make(c1=9, c2=13).decoder
    shapes = {name: tuple(value.shape) for name, value in decoder.state_dict().items()}
    assert shapes == {
        "deconv1.weight": (6, 13, 3, 3),
        "deconv1.bias": (13,),
        "deconv2.weight": (13, 9, 3, 3),
        "deconv2.bias": (9,),
        "deconv3.weight": (9, 1, 3, 3),
        "deconv3.bias": (1,),
    }
    assert all(isinstance(getattr(decoder, f"deconv{number}"), nn.ConvTranspose2d) for number in (1, 2, 3))


def backward(model: Autoencoder) -> None:
    model.zero_grad()
    F.mse_loss(model.reconstruct(images()), images()).backward()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_step_changes_both_uses_of_a_shared_tensor(number: int) -> None:
    model = make(decoder="shared", dropout=0.0)
    code, drawn = model.encode(images()), model.reconstruct(images()).detach()
    weight = getattr(model.encoder, f"conv{number}").weight
    backward(model)
    torch.optim.SGD([weight], lr=0.1).step()
    assert not torch.allclose(model.encode(images()).latent_BCHW, code.latent_BCHW)
    assert not torch.allclose(model.decode(code), drawn)  # the old code: the decoder alone differs


def test_the_gradient_of_a_shared_tensor_is_the_sum_of_both_uses() -> None:
    shared, own = make(decoder="shared", dropout=0.0), make(dropout=0.0)
    state = shared.state_dict()
    for number in (1, 2, 3):
        state[f"decoder.deconv{number}.weight"] = state[f"encoder.conv{4 - number}.weight"].clone()
    own.load_state_dict(state)
    assert torch.equal(own.reconstruct(images()), shared.reconstruct(images()))
    backward(shared)
    backward(own)
    for number in (1, 2, 3):
        conv, deconv = getattr(own.encoder, f"conv{number}").weight, getattr(own.decoder, f"deconv{4 - number}").weight
        assert deconv.grad.abs().max() > 0
        torch.testing.assert_close(getattr(shared.encoder, f"conv{number}").weight.grad, conv.grad + deconv.grad)


def test_reconstruction_and_classification_train_what_they_use() -> None:
    model = make()
    backward(model)
    assert {name for name, p in model.named_parameters() if p.grad is None} == {"linear.weight", "linear.bias"}
    model.zero_grad()
    model(images()).sum().backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is None} == {"decoder"}


def test_encoder_and_linear_layer_start_alike_whatever_the_decoder() -> None:
    own, shared, none = (weights(make(decoder=kind)) for kind in (*KINDS, None))
    assert all(np.array_equal(value, own[name]) and np.array_equal(value, shared[name]) for name, value in none.items())


def test_a_shared_deconvolution_starts_its_bias_as_torch_does() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(500, 3, 3)
    torchs = nn.ConvTranspose2d(3, 500, 3).bias.abs().max()
    torch.testing.assert_close(SharedDeconvolution(conv).bias.abs().max(), torchs, rtol=0.02, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_acts_in_training_alone(kind: str) -> None:
    model = make(decoder=kind)
    for run in (model, model.reconstruct):
        assert not torch.equal(run(images()), run(images()))
    model.eval()
    for run in (model, model.reconstruct):
        assert torch.equal(run(images()), run(images()))
    still = make(decoder=kind, dropout=0.0)
    assert torch.equal(still.reconstruct(images()), still.reconstruct(images()))


@contextmanager
def only(model: Autoencoder, chosen: nn.Dropout) -> Iterator[None]:
    """Within, one dropout of a half acts, and no other."""
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.5 if layer is chosen else 0.0
    model.train()
    yield
    model.eval()


@pytest.mark.parametrize(("dropout", "reader"), [("dropout1", "deconv2"), ("dropout2", "deconv3")])
def test_dropout_behind_unpooling_takes_values_or_doubles_them(dropout: str, reader: str) -> None:
    model = make().eval()
    inputs = seen_by(getattr(model.decoder, reader))
    model.reconstruct(images())
    with only(model, getattr(model.decoder, dropout)):
        model.reconstruct(images())
    still, dropped = inputs
    kept = dropped != 0
    torch.testing.assert_close(dropped[kept], 2 * still[kept])
    assert 0.4 < kept.sum() / (still != 0).sum() < 0.6


@pytest.mark.parametrize(("dropout", "reader"), [("dropout1", "conv2"), ("dropout2", "conv3")])
def test_dropout_behind_pooling(dropout: str, reader: str) -> None:
    model = make().eval()
    inputs = seen_by(getattr(model.encoder, reader))
    model(images())
    with only(model, getattr(model.encoder, dropout)):
        model(images())
    still, dropped = inputs
    torch.testing.assert_close(dropped[dropped != 0], 2 * still[dropped != 0])
    assert 0.4 < (dropped != 0).sum() / (still != 0).sum() < 0.6


@pytest.mark.parametrize("kind", KINDS)
def test_draws_in_single_precision_under_autocast(kind: str) -> None:
    model = make(decoder=kind).eval()
    with torch.autocast("cpu", torch.bfloat16):
        drawn = model.reconstruct(images())
    assert drawn.dtype == torch.float32
    torch.testing.assert_close(drawn, model.reconstruct(images()), rtol=0, atol=0.05)


def test_learns_to_draw() -> None:
    for kind in KINDS:
        model = make((1, 8, 8), decoder=kind, dropout=0.0)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        batch, losses = images((1, 8, 8), 4), []
        for _ in range(25):
            optimizer.zero_grad()
            losses.append(F.mse_loss(model.reconstruct(batch), batch))
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < 0.8 * losses[0]


def test_the_configurations() -> None:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(version_base="1.3", config_dir=str(records.CONF / "model")):
        own, shared = (dict(compose(name)) for name in ("autoencoder", "shared_autoencoder"))
    assert (own.pop("decoder"), shared.pop("decoder")) == ("own", "shared")
    assert own == shared
    assert own.pop("module")._target_ == "capsexp.lightning_modules.autoencoder.AutoencoderModule"
    assert own == {"_target_": NODE["_target_"], "c1": 16, "c2": 16, "latent": 6, "kernel": 3, "dropout": 0.25}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("c1", 0, "model.c1 must be a whole number >= 1, got 0"),
        ("c2", 2.5, "model.c2 must be a whole number >= 1, got 2.5"),
        ("latent", True, "model.latent must be a whole number >= 1, got True"),
        ("kernel", "big", "model.kernel must be a whole number >= 1, got 'big'"),
        ("kernel", 4, "model.kernel must be an odd size, got 4"),
        ("dropout", 1.0, "model.dropout must be a number in [0, 1), got 1.0"),
        ("dropout", math.nan, "model.dropout must be a number in [0, 1), got nan"),
        ("decoder", "both", "model.decoder must be own, shared, or null for none, got 'both'"),
        ("decoder", [512], "model.decoder must be own, shared, or null for none, got [512]"),
    ],
)
def test_errors_name_key_rule_and_value(key: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build.make_model({"seed": 0, "model": {**NODE, key: value}}, image_shape=GRAY, classes=46)
    assert str(caught.value) == words


@pytest.mark.parametrize("shape", [(1, 30, 28), (1, 28, 30), (1, 27, 28), (1, 2, 28), (1, 28, 0)])
def test_an_image_that_does_not_pool_evenly_is_refused(shape: Shape) -> None:
    rule = r"^image_shape must give images whose sides are multiples of 4.*\(data and augment choose the size\), got \("
    with pytest.raises(ConfigError, match=rule):
        make(shape)


def test_without_a_decoder_nothing_is_drawn() -> None:
    model = make(decoder=None)
    assert model.decoder is None
    assert model(images()).shape == (2, 46)
    with pytest.raises(ConfigError, match=r"^decoder must be own or shared, to draw images, got None"):
        model.reconstruct(images())
