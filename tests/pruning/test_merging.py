"""Merged networks against whole ones where that is exact, and against nested loops where it is not."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from capsexp.callbacks.channel_pruning import ChannelPruning
from capsexp.callbacks.resume import ResumeCheckpoint
from capsexp.errors import ConfigError
from capsexp.lightning_modules.classifier import ClassifierModule
from capsexp.models.capsnet import CapsNet
from capsexp.models.cnn import CNN
from capsexp.models.deep_capsnet import DeepCapsNet
from capsexp.nn.channels import Prunable
from capsexp.pruning.merging import Into, partners
from capsexp.pruning.selection import Selection
from capsexp.pruning.surgery import shrink
from capsexp.records import RESUME_CHECKPOINT
from capsexp.routing.dynamic import Dynamic
from tests.references import merging as reference

Make = Callable[..., Any]

CAPSULES: dict[str, Any] = {"classes": 3, "routing": Dynamic, "dim": 2, "dim_class": 4}
NETS: dict[str, Make] = {
    "cnn": partial(CNN, image_shape=(2, 8, 17), classes=3, c1=4, c2=6, c3=5),
    "capsnet": partial(CapsNet, image_shape=(1, 8, 7), c1=5, c2=4, kernel=3, decoder=None, **CAPSULES),
    "deep": partial(DeepCapsNet, image_shape=(1, 7, 8), capsules=4, **CAPSULES),
}
LAYERS = [
    ("cnn", "conv1"),
    ("cnn", "conv2"),
    ("cnn", "conv3"),
    ("capsnet", "conv1"),
    ("deep", "conv2"),
    ("deep", "conv3"),
]
"""Layers without a norm and with one, read by convolutions, a linear layer and primary capsules."""


def lived_in(net: str, seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """A network in which every number matters, in evaluation mode: so dropout is there, and does nothing.

    Scores are around 1: those of a CNN if its numbers keep their scale, those of capsules if poses are not short.
    """
    torch.manual_seed(seed)
    model = NETS[net]().to(dtype)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.randn_like(value) * (0.4 * value.abs().mean() if net == "cnn" else 0.3)
            value.copy_(noise.abs() + 0.5 if name.endswith("running_var") else value + noise)
    return model.eval()


def maker(net: str, dtype: torch.dtype = torch.float64) -> Make:
    return lambda **sizes: NETS[net](**sizes).to(dtype)


def images(net: str, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = NETS[net].keywords["image_shape"]  # type: ignore[attr-defined]
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


def without(model: Prunable, name: str, *gone: int) -> Tensor:
    """The channels of a layer that stay."""
    return torch.tensor([channel for channel in range(model.widths()[name]) if channel not in gone])


@torch.no_grad()
def make_proportional(model: Prunable, name: str, one: int, other: int, ratio: float, sign: float = 1) -> None:
    """Let channel ``one`` be ``ratio`` times channel ``other``: before the activation, whatever normalises both.

    Args:
        model: is changed.
        name: the layer.
        one: its channel that changes.
        other: the one that stays as it is.
        ratio: of the two.
        sign: of the two kernels' own ratio, where a normalisation can turn it round.
    """
    conv, norm_name = model.convolution(name), model.channel_layers()[name].norm
    if norm_name is None:
        conv.weight[one], conv.bias[one] = ratio * conv.weight[other], ratio * conv.bias[other]
        return
    norm: Any = model.get_submodule(norm_name)
    scale_O = norm.weight / (norm.running_var + norm.eps).sqrt()
    conv.weight[one] = 0.7 * sign * conv.weight[other]
    scale = ratio * scale_O[other] / (0.7 * sign)
    norm.weight[one] = scale * (norm.running_var[one] + norm.eps).sqrt()
    bias = norm.bias[other] - scale_O[other] * norm.running_mean[other]
    norm.bias[one] = ratio * bias + scale * norm.running_mean[one]


def type_of(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def shrunk(model: Any, net: str, kept: Mapping[str, Tensor], into: Mapping[str, Into] | None = None) -> Any:
    return shrink(model, kept, maker(net, type_of(model)), into=into).eval()


@torch.no_grad()
def scores_of(model: nn.Module, net: str) -> Tensor:
    scores_BK: Tensor = model(images(net, type_of(model)))
    return scores_BK


def assert_same_scores(found: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(1, float(expected.abs().max())))


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


# -- exact -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
@given(
    at=st.sampled_from(LAYERS),
    ratio=st.floats(0.1, 10),
    order=st.permutations(range(4)),
    sign=st.sampled_from([1, -1]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=20)
def test_a_channel_proportional_to_one_that_stays_goes_without_a_trace(
    dtype: torch.dtype, tolerance: float, at: tuple[str, str], ratio: float, order: list[int], sign: int, seed: int
) -> None:
    (net, name), (gone, stays, *_) = at, order
    model = lived_in(net, seed, dtype)
    make_proportional(model, name, gone, stays, ratio, sign)
    kept = {name: without(model, name, gone)}
    into = {name: partners(model, name, kept[name])}
    assert into == {name: {gone: (stays, pytest.approx(ratio, rel=1e-6 if dtype == torch.float32 else 1e-12))}}
    assert_same_scores(scores_of(shrunk(model, net, kept, into), net), scores_of(model, net), tolerance)


@pytest.mark.parametrize("net", ["cnn", "deep"])
def test_all_layers_at_once_and_several_channels_into_one(net: str) -> None:
    model = lived_in(net)
    gone = {"cnn": {"conv1": (0, 2), "conv2": (1, 4, 5), "conv3": (3,)}, "deep": {"conv2": (1,), "conv3": (0, 5, 6)}}
    stays = {"conv1": 3, "conv2": 2, "conv3": 4}
    for name, channels in gone[net].items():
        for number, channel in enumerate(channels):
            make_proportional(model, name, channel, stays[name], 0.4 + 1.3 * number)
    kept = {name: without(model, name, *channels) for name, channels in gone[net].items()}
    into = {name: partners(model, name, index) for name, index in kept.items()}
    for name, channels in gone[net].items():
        expected = {
            channel: (stays[name], pytest.approx(0.4 + 1.3 * number)) for number, channel in enumerate(channels)
        }
        assert into[name] == expected
    assert_same_scores(scores_of(shrunk(model, net, kept, into), net), scores_of(model, net), 1e-12)
    with pytest.raises(AssertionError, match="not close"):
        assert_same_scores(scores_of(shrunk(model, net, kept), net), scores_of(model, net), 1e-3)


def test_kernels_alone_are_not_enough() -> None:
    """Where the biases are not proportional, merging is an approximation, nearer than removal."""
    model = lived_in("cnn")
    make_proportional(model, "conv2", 0, 3, 2)
    with torch.no_grad():
        model.convolution("conv2").bias[0] += 0.1
    kept = {"conv2": without(model, "conv2", 0)}
    expected = scores_of(model, "cnn")
    merged, removed = (
        float((scores_of(shrunk(model, "cnn", kept, into), "cnn") - expected).abs().max())
        for into in ({"conv2": partners(model, "conv2", kept["conv2"])}, None)
    )
    assert 1e-3 < merged < removed / 3


# -- what shrink makes of it -------------------------------------------------------------------------------------------

SOME: dict[str, tuple[dict[str, Into], dict[str, tuple[int, ...]]]] = {
    "cnn": (
        {"conv1": {0: (3, 0.7)}, "conv2": {5: (2, 1.9), 0: (2, 0.3), 1: (4, 2.5)}, "conv3": {4: (0, 1.1)}},
        {"conv1": (0,), "conv2": (0, 1, 5), "conv3": (2, 4)},
    ),
    "capsnet": ({"conv1": {1: (2, 0.6), 4: (2, 0.8)}}, {"conv1": (1, 3, 4), "primary": (0, 1)}),
    "deep": ({"conv2": {0: (1, 1.7)}, "conv3": {7: (6, 0.2), 3: (6, 3.3)}}, {"conv2": (0,), "conv3": (3, 7)}),
}
"""Ratios of no meaning, and the channels that go; some of them without a partner."""


def some(net: str, dtype: torch.dtype) -> tuple[Any, dict[str, Tensor], dict[str, Into]]:
    model = lived_in(net, dtype=dtype)
    into, gone = SOME[net]
    return model, {name: without(model, name, *channels) for name, channels in gone.items()}, into


@torch.no_grad()
def standing_in(model: Prunable, net: str, kept: Mapping[str, Tensor], into: Mapping[str, Into]) -> Tensor:
    """The scores of the whole model when the maps that go are those of their partners, times the ratio, or zero."""

    def replace(name: str, maps_BCHW: Tensor) -> Tensor:
        found = torch.zeros_like(maps_BCHW)
        found[:, kept[name]] = maps_BCHW[:, kept[name]]
        for gone, (partner, ratio) in into.get(name, {}).items():
            found[:, gone] = ratio * maps_BCHW[:, partner]
        return found

    hooks = []
    for name in kept:
        module = model.get_submodule(model.channel_layers()[name].maps)
        hooks.append(module.register_forward_hook(lambda _, __, maps_BCHW, name=name: replace(name, maps_BCHW)))
    found = scores_of(model, net)
    for hook in hooks:
        hook.remove()
    return found


@pytest.mark.parametrize("net", SOME)
def test_a_merged_model_gives_the_scores_of_one_whose_partners_stand_in(net: str) -> None:
    model, kept, into = some(net, torch.float64)
    found = scores_of(shrunk(model, net, kept, into), net)
    assert_same_scores(found, standing_in(model, net, kept, into), 1e-12)
    with pytest.raises(AssertionError, match="not close"):
        assert_same_scores(found, standing_in(model, net, kept, {}), 1e-3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("net", SOME)
def test_the_readers_weights_are_the_references_rounded_once(net: str, dtype: torch.dtype) -> None:
    model, kept, into = some(net, dtype)
    found = shrunk(model, net, kept, into)
    folded = copy.deepcopy(model)
    for name, folds in into.items():
        (reader,) = model.channel_layers()[name].readers
        weight: Any = model.get_submodule(reader.name).weight
        expected = reference.folded(weight.detach().double().numpy(), reader.places, folds)
        folded.get_submodule(reader.name).weight.data = torch.from_numpy(expected).to(dtype)
    assert_same_state(found, shrunk(folded, net, kept))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_whole_model_stays_as_it_is(dtype: torch.dtype) -> None:
    model, kept, into = some("cnn", dtype)
    before = copy.deepcopy(model)
    shrunk(model, "cnn", kept, into)
    assert_same_state(model, before)


@pytest.mark.parametrize("net", SOME)
def test_ratio_zero_and_no_partners_are_plain_removal(net: str) -> None:
    model, kept, into = some(net, torch.float32)
    removed = shrunk(model, net, kept)
    nothing = {name: {gone: (partner, 0.0) for gone, (partner, _) in folds.items()} for name, folds in into.items()}
    for each in (nothing, {name: {} for name in into}, {}):
        torch.manual_seed(0)
        assert_same_state(shrunk(model, net, kept, each), removed)
    with pytest.raises(AssertionError):
        assert_same_state(shrunk(model, net, kept, into), removed)


# -- who stands in for whom --------------------------------------------------------------------------------------------


def used(model: Any, name: str) -> reference.Array:
    """A layer's filters as the network uses them."""
    layer, weight = model.channel_layers()[name], model.convolution(name).weight.detach().double().numpy()
    if layer.norm is None:
        return weight
    norm = model.get_submodule(layer.norm)
    gamma_O, variance_O = (each.detach().double().numpy() for each in (norm.weight, norm.running_var))
    return reference.as_used(weight, gamma_O, variance_O, norm.eps)


@given(st.sampled_from(LAYERS), st.integers(0, 2**32 - 1), st.data())
@settings(deadline=None, max_examples=40)
def test_partners_are_the_references(at: tuple[str, str], seed: int, data: st.DataObject) -> None:
    net, name = at
    model = lived_in(net, seed, data.draw(st.sampled_from([torch.float32, torch.float64])))
    order = data.draw(st.permutations(range(model.widths()[name])))
    kept = order[: data.draw(st.integers(1, len(order)))]
    found, expected = partners(model, name, torch.tensor(kept)), reference.partners(used(model, name), kept)
    assert list(found) == list(expected)
    for gone, (partner, ratio) in expected.items():
        assert found[gone] == (partner, pytest.approx(ratio, rel=1e-10))


def with_filters(*rows: list[float]) -> Any:
    """A network whose second convolution has these filters, each along a few directions."""
    model = lived_in("cnn")
    with torch.no_grad():
        weight = model.convolution("conv2").weight.zero_().flatten(1)
        for channel, row in enumerate(rows):
            weight[channel, : len(row)] = torch.tensor(row, dtype=weight.dtype)
    return model


@pytest.mark.parametrize(
    ("rows", "kept", "expected"),
    [
        # The least squares ratio, not that of the norms.
        ([[1, 1], [3, 0], [0, 5], [0, 0, 1], [0, 0, 1], [0, 0, 1]], [1, 3], {0: (1, 1 / 3), 4: (3, 1), 5: (3, 1)}),
        # Opposite filters, filters at a right angle and zero filters have no partner.
        ([[1, 0], [-1, 0], [0, 1], [0, 0], [-2, 0], [0, -1]], [0], {}),
        ([[0, 0], [1, 0], [2, 0], [3, 0], [0, 1], [0, 2]], [0, 4], {5: (4, 2)}),
        # Of equally similar ones the lowest index, also where rounding sees a difference.
        ([[1, 0], [0.1, 0.3], [0.3, 0.9], [0.7, 2.1], [0.1, 0.3], [-1, 0]], [4, 3, 2, 0], {1: (2, 1 / 3)}),
        # A similarity that is rounding alone is none.
        ([[1, 0], [1e-14, 1], [1, 0], [1, 0], [1, 0], [1, 0]], [0, 2, 3, 4, 5], {}),
        # A filter that has all but vanished is zero: as a partner it would get a ratio of millions.
        ([[1, 0], [1e-8, 0], [1, 1], [0, 1e-5], [0, 1], [1e-30, 1e-30]], [1, 2, 3], {0: (2, 0.5), 4: (3, 1e5)}),
        ([[1e-20, 0], [3e-20, 1e-20], [0, 1e-20], [0, 0], [0, 0], [0, 0]], [0, 3, 4], {1: (0, 3)}),
        # Nobody goes.
        ([[1, 0]] * 6, [0, 1, 2, 3, 4, 5], {}),
    ],
)
def test_partners_by_hand(rows: list[list[float]], kept: list[int], expected: Into) -> None:
    found = partners(with_filters(*rows), "conv2", torch.tensor(kept))
    assert found == {gone: (partner, pytest.approx(ratio)) for gone, (partner, ratio) in expected.items()}
    assert list(found) == sorted(found)


def test_the_sign_of_the_normalisation_counts() -> None:
    model = lived_in("deep")
    make_proportional(model, "conv3", 2, 5, 1.5)
    kept = without(model, "conv3", 2)
    assert partners(model, "conv3", kept)[2] == (5, pytest.approx(1.5))
    with torch.no_grad():
        model.backbone.norm3.weight[2] *= -1
    assert partners(model, "conv3", kept).get(2, (None,))[0] != 5


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("net", ["capsnet", "deep"])
def test_channels_that_become_capsules_have_no_partners(net: str, dim: int) -> None:
    """Not even of one component: squash is not homogeneous."""
    model = NETS[net](dim=dim)
    with torch.no_grad():
        model.primary.conv.weight[:] = model.primary.conv.weight[0]
    assert partners(model, "primary", torch.arange(2)) == {}
    kept = {"primary": torch.arange(2)}
    with pytest.raises(ConfigError, match="do not become capsules"):
        shrink(model, kept, partial(NETS[net], dim=dim), into={"primary": {2: (0, 1.0)}})


def test_partners_touch_nothing() -> None:
    model = lived_in("deep")
    before, random_state = copy.deepcopy(model), torch.random.get_rng_state()
    found = partners(model, "conv3", torch.tensor([0, 3]))
    assert partners(model, "conv3", torch.tensor([3, 0])) == found != {}
    assert_same_state(model, before)
    assert torch.equal(torch.random.get_rng_state(), random_state)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("into", "line"),
    [
        ({"conv9": {0: (1, 1.0)}}, "into.conv9 must name one of the layers that are cut (conv1, conv2), got 'conv9'"),
        ({"conv3": {0: (1, 1.0)}}, "into.conv3 must name one of the layers that are cut (conv1, conv2), got 'conv3'"),
        ({"conv1": {1: (2, 1.0)}}, "into.conv1 must merge removed channels into kept channels, got [1, 2]"),
        ({"conv1": {0: (3, 1.0)}}, "into.conv1 must merge removed channels into kept channels, got [0, 3]"),
        ({"conv1": {0: (0, 1.0)}}, "into.conv1 must merge removed channels into kept channels, got [0, 0]"),
        ({"conv1": {-4: (1, 1.0)}}, "into.conv1 must merge removed channels into kept channels, got [-4, 1]"),
        ({"conv1": {0: (-3, 1.0)}}, "into.conv1 must merge removed channels into kept channels, got [0, -3]"),
        ({"conv1": {4: (1, 1.0)}}, "into.conv1 must merge removed channels into kept channels, got [4, 1]"),
        ({"conv1": {0: (1, -0.1)}}, "into.conv1 must be a number in [0, inf), got -0.1"),
        ({"conv1": {0: (1, float("nan"))}}, "into.conv1 must be a number in [0, inf), got nan"),
        ({"conv2": {0: (1, float("inf"))}}, "into.conv2 must be a number in [0, inf), got inf"),
    ],
)
def test_what_cannot_be_merged_is_one_line(into: dict[str, Into], line: str) -> None:
    kept = {"conv1": torch.tensor([1, 2]), "conv2": torch.tensor([1, 3])}
    with pytest.raises(ConfigError) as caught:
        shrink(NETS["cnn"](), kept, NETS["cnn"], into=into)
    assert str(caught.value) == line


def test_primary_capsules_are_refused_by_name() -> None:
    with pytest.raises(ConfigError) as caught:
        shrink(NETS["deep"](), {"primary": torch.arange(6)}, NETS["deep"], into={"primary": {6: (0, 1.0)}})
    rule = "name a layer whose channels do not become capsules: these cannot be merged"
    assert str(caught.value) == f"into.primary must {rule}, got 'primary'"


def test_a_network_that_has_diverged_is_one_line() -> None:
    model = lived_in("cnn")
    with torch.no_grad():
        model.convolution("conv2").weight[0, 0] = torch.nan
    with pytest.raises(ConfigError, match=r"^conv2\.weight must be finite"):
        partners(model, "conv2", torch.tensor([1, 2]))


# -- at the moment of cutting ------------------------------------------------------------------------------------------


def test_a_selection_says_whether_it_merges() -> None:
    assert Selection(0.5).merge is False
    assert Selection(0.5, merge=True).merge is True
    with pytest.raises(ConfigError, match=r"^merge must be true or false, got 'yes'$"):
        Selection(0.5, merge="yes")  # type: ignore[arg-type]


def module_of(model: Any) -> ClassifierModule:
    sizes = {"image_shape": [2, 8, 17], "classes": 3}
    return ClassifierModule(model=model, make_optimizer=partial(torch.optim.SGD, lr=0.1), sizes=sizes)


def pruned(pruning: ChannelPruning, folder: Path, *callbacks: L.Callback) -> Any:
    """The network that a fit would train."""
    module = module_of(lived_in("cnn", dtype=torch.float32))
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar"), False)
    quiet["enable_checkpointing"] = bool(callbacks)
    trainer = L.Trainer(callbacks=[pruning, *callbacks], default_root_dir=folder, accelerator="cpu", **quiet)
    pruning.setup(trainer, module, "fit")
    return module.model


def scores(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(width, generator=generator) for name, width in NETS["cnn"]().widths().items()}


def test_a_fit_merges_all_layers_by_the_model_that_is_not_cut_anywhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pruning = ChannelPruning(Selection(0.5, merge=True), scores(), NETS["cnn"])
    with caplog.at_level("INFO", "capsexp"):
        found = pruned(pruning, tmp_path)
    whole = lived_in("cnn", dtype=torch.float32)
    into = {name: reference.partners(used(whole, name), stay.tolist()) for name, stay in pruning.kept.items()}
    expected = shrink(whole, pruning.kept, NETS["cnn"], into=into)
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-6, atol=1e-7)
    assert f"merged: conv1 {len(into['conv1'])} of 2, conv2 {len(into['conv2'])} of 3, conv3" in caplog.text
    assert any(into.values())


def test_without_merge_a_fit_only_removes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pruning = ChannelPruning(Selection(0.5), scores(), NETS["cnn"])
    with caplog.at_level("INFO", "capsexp"):
        found = pruned(pruning, tmp_path)
    assert_same_state(found, shrink(lived_in("cnn", dtype=torch.float32), pruning.kept, NETS["cnn"]))
    assert "merged" not in caplog.text


def test_a_resumed_fit_merges_the_same(tmp_path: Path) -> None:
    first = ChannelPruning(Selection(0.5, merge=True), scores(0), NETS["cnn"])
    expected = pruned(first, tmp_path)
    (tmp_path / RESUME_CHECKPOINT).parent.mkdir()
    states = {first.state_key: first.state_dict(), ResumeCheckpoint(0).state_key: {"torch": 1}}
    parts = {"state_dict": {"weight": torch.ones(1)}, "optimizer_states": [{}], "loops": {"fit_loop": 1}}
    torch.save({"callbacks": states, **parts}, tmp_path / RESUME_CHECKPOINT)
    again = ChannelPruning(Selection(0.5, merge=True), scores(1), NETS["cnn"])
    assert_same_state(pruned(again, tmp_path, ResumeCheckpoint(0)), expected)
    with pytest.raises(AssertionError):
        assert_same_state(pruned(again, tmp_path), expected)  # without the checkpoint the scores of now count
