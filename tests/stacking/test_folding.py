"""A folded model against each of its members alone, in double precision."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from capsexp.models.autoencoder import Autoencoder
from capsexp.models.baseline_cnn import BaselineCNN
from capsexp.models.capsnet import CapsNet
from capsexp.models.cnn import CNN
from capsexp.models.deep_capsnet import DeepCapsNet
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.fixed import Fixed
from capsexp.stacking.adam import StackedAdam
from capsexp.stacking.convolutions import Impl, apart
from capsexp.stacking.folding import Slots, fold, foldable, tensors_of
from capsexp.stacking.layers import Fold

IMPLS: tuple[Impl, ...] = get_args(Impl)
SIDE = 12
GIVEN: dict[str, Any] = {"image_shape": (1, SIDE, SIDE), "classes": 3}
STEPS = 5


@pytest.fixture(autouse=True)
def _double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(5)
    yield
    torch.set_default_dtype(before)


# -- members, whose widths, shares of dropout and (AdamW) optimizers differ -------------------------------------------


def cnns() -> list[nn.Module]:
    sizes = [(4, 2, 0.0), (1, 3, 0.5), (2, 1, 0.25), (3, 3, 0.5)]
    return [CNN(**GIVEN, c1=3, c2=c2, c3=c3, kernels=(5, 3, 1), dropout=share) for c2, c3, share in sizes]


def baselines() -> list[nn.Module]:
    sizes = [(2, 3, 7, 0.5), (1, 4, 5, 0.25), (3, 2, 6, 0.0), (2, 2, 4, 0.75)]
    return [BaselineCNN(**GIVEN, c1=c1, c2=c2, hidden=hidden, dropout=share) for c1, c2, hidden, share in sizes]


def autoencoders(decoder: str) -> list[nn.Module]:
    sizes = [(2, 3, 4, 0.5), (3, 1, 2, 0.5), (1, 2, 3, 0.25), (2, 2, 2, 0.0)]
    return [Autoencoder(**GIVEN, c1=c1, c2=c2, latent=d, dropout=p, decoder=decoder) for c1, c2, d, p in sizes]


class Normed(nn.Module):
    """Strides, dilation, rectangles, no biases, dropout behind a flattening, and batch normalisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, (3, 2), stride=(2, 3), bias=False),
            nn.BatchNorm2d(width, momentum=0.3),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(width, width + 1, 3, stride=(2, 3), padding=(1, 0), output_padding=(1, 2), bias=False),
            nn.BatchNorm2d(width + 1, affine=False),
            nn.Conv2d(width + 1, width, (2, 3), stride=3, dilation=(2, 1), padding=(0, 2)),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(width * 3 * 6, 3, bias=False),
        )

    def forward(self, images_BCHW: Tensor) -> Tensor:
        scores: Tensor = self.layers(images_BCHW)
        return scores


MEMBERS: dict[str, Callable[[], list[nn.Module]]] = {
    "cnn": cnns,
    "baseline": baselines,
    "own": lambda: autoencoders("own"),
    "shared": lambda: autoencoders("shared"),
    "normed": lambda: [Normed(width) for width in (2, 1, 3, 2)],
}


def outputs(model: Any, images_BCHW: Tensor) -> list[Tensor]:
    """Scores (B, K), and of an autoencoder the images that it draws."""
    if not hasattr(model, "decoder"):
        return [model(images_BCHW)]
    code = model.encode(images_BCHW)
    return [model.classify(code), model.decode(code)]


def losses(made: Sequence[Tensor], members: int) -> Tensor:
    """Of each member (N,), from outputs (B, N*...)."""
    each = [(output.sin() + output.square()).unflatten(1, (members, -1)) for output in made]
    return torch.stack([values.movedim(1, 0).flatten(1).mean(1) for values in each]).sum(0)


def optimizer_of(model: nn.Module, member: int, *, alike: bool) -> Optimizer:
    if alike:
        return Adam(model.parameters(), lr=0.01, weight_decay=0.1, fused=True)
    return AdamW(model.parameters(), lr=0.01 * (member + 1), weight_decay=0.2 * member)


def in_format(models: Sequence[nn.Module], layout: torch.memory_format) -> None:
    for layer in (layer for model in models for layer in model.modules() if isinstance(layer, nn.Conv2d)):
        layer.to(memory_format=layout)  # type: ignore[call-overload]


# -- alone, and in a stack --------------------------------------------------------------------------------------------


def train_alone(model: nn.Module, optimizer: Optimizer, batches: Sequence[Tensor]) -> list[Tensor]:
    seen = []
    for images_BCHW in batches:
        made = outputs(model, images_BCHW)
        optimizer.zero_grad()
        losses(made, 1).sum().backward()
        optimizer.step()
        seen += [part.detach() for part in made]
    return seen


class Stacked:
    """Members in a stack, loaded."""

    def __init__(self, models: Sequence[nn.Module], optimizers: Sequence[Optimizer], impl: Impl) -> None:
        self.models, self.optimizers = models, optimizers
        self.folded, self.fold = fold(models, impl)
        own = [tensors_of(model) for model in models]
        self.slots = Slots(tensors_of(self.folded), [{k: v.shape for k, v in each.items()} for each in own])
        self.slots.load(own)
        self.parameters = [dict(model.named_parameters()) for model in models]
        decoupled = isinstance(optimizers[0], AdamW)
        self.adam = StackedAdam(dict(self.folded.named_parameters()), self.parameters, decoupled=decoupled)
        self.adam.load(optimizers, self.parameters)
        self.fold.generators = [torch.Generator().manual_seed(member) for member in range(len(models))]

    def train(self, batches: Sequence[Tensor]) -> list[Tensor]:
        seen = []
        for images_BCHW in batches:
            made = outputs(self.folded, images_BCHW)
            self.adam.zero_grad()
            losses(made, len(self.models)).sum().backward()
            self.adam.step()
            seen += [part.detach() for part in made]
        return seen

    def store(self) -> None:
        self.slots.store([tensors_of(model) for model in self.models])
        self.adam.store(self.optimizers, self.parameters)

    def padding(self) -> Iterator[Tensor]:
        """All stacked tensors and moments; zero where members have something of their own."""
        shapes = [{name: tensor.shape for name, tensor in tensors_of(model).items()} for model in self.models]
        named = {name: tensor for name, tensor in tensors_of(self.folded).items()}
        moments = ({k: self.adam.state[p][key] for k, p in named.items() if p in self.adam.state} for key in MOMENTS)
        for tensors in (named, *moments):
            for name, tensor in tensors.items():
                rest = tensor.detach().clone()
                for member, own in enumerate(shapes):
                    rest[member][tuple(map(slice, own[name]))] = 0
                yield rest


MOMENTS = ("exp_avg", "exp_avg_sq")

STREAMS = {"grouped": (1, 2, 4), "vmap": (4,), "unfold": (2,), "loop": (1,)}
CASES = [(name, impl, streams) for name in MEMBERS for impl in IMPLS for streams in STREAMS[impl]]


@pytest.mark.parametrize(("name", "impl", "streams"), CASES)
def test_a_stack_trains_as_each_member_alone(name: str, impl: Impl, streams: int) -> None:
    models, again = MEMBERS[name](), MEMBERS[name]()
    if streams != 2 or name in ("own", "shared"):  # as cells do; unpooling lays maps out like this in any case
        in_format([*models, *again], torch.channels_last)
    for model, same in zip(models, again, strict=True):
        same.load_state_dict(model.state_dict())
    batches = [torch.randn(3, streams, SIDE, SIDE) for _ in range(STEPS)]
    alike = impl in ("vmap", "loop")
    stack = Stacked(models, [optimizer_of(model, m, alike=alike) for m, model in enumerate(models)], impl)
    seen = stack.train(batches)
    stack.store()
    for member, model in enumerate(again):
        torch.manual_seed(member)
        own = [images_BCHW.chunk(streams, 1)[member * streams // 4] for images_BCHW in batches]
        optimizer = optimizer_of(model, member, alike=alike)
        for expected, together in zip(train_alone(model, optimizer, own), seen, strict=True):
            torch.testing.assert_close(apart(together, 4)[:, member], expected, rtol=1e-12, atol=1e-12)
        close(models[member].state_dict(), model.state_dict())
        for key, state in stack.optimizers[member].state_dict()["state"].items():
            close(state, optimizer.state_dict()["state"][key])
        gradients = {key: parameter.grad for key, parameter in stack.folded.named_parameters()}
        for key, parameter in model.named_parameters():
            corner = gradients[key][member][tuple(map(slice, parameter.shape))]  # type: ignore[index]
            torch.testing.assert_close(corner, parameter.grad, rtol=1e-12, atol=1e-12)
    assert all(not rest.any() for rest in stack.padding())


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", MEMBERS)
def test_in_evaluation_nothing_is_dropped_nor_counted(name: str) -> None:
    models = MEMBERS[name]()
    for model in models:
        model.eval()
    stack = Stacked(models, [optimizer_of(model, 0, alike=True) for model in models], "grouped")
    before = {key: tensor.clone() for key, tensor in tensors_of(stack.folded).items()}
    images_BCHW = torch.randn(3, 1, SIDE, SIDE)
    for made, *own in zip(outputs(stack.folded, images_BCHW), *(outputs(m, images_BCHW) for m in models), strict=True):
        torch.testing.assert_close(apart(made, 4), torch.stack(own, 1), rtol=1e-12, atol=1e-12)
    assert all(tensor.equal(before[key]) for key, tensor in tensors_of(stack.folded).items())


def test_frozen_parts_stay_frozen() -> None:
    models = autoencoders("own")
    for model in models:
        model.encoder.requires_grad_(False).eval()  # type: ignore[union-attr, operator]
    stack = Stacked(models, [Adam([p for p in m.parameters() if p.requires_grad]) for m in models], "grouped")
    frozen = {name: not parameter.requires_grad for name, parameter in stack.folded.named_parameters()}
    assert frozen == {name: name.startswith("encoder") for name in frozen}
    noise = torch.Generator().manual_seed(1)
    stack.fold.generators = [noise] * 4
    images_BCHW, before = torch.randn(2, 1, SIDE, SIDE), noise.get_state()
    stack.folded.encode(images_BCHW)  # type: ignore[operator]
    assert noise.get_state().equal(before)
    old = {name: parameter.clone() for name, parameter in stack.folded.named_parameters()}
    stack.train([images_BCHW])
    assert {name for name, parameter in stack.folded.named_parameters() if parameter.equal(old[name])} == {
        name for name in frozen if frozen[name]
    }


# -- folding ----------------------------------------------------------------------------------------------------------


def test_names_shapes_and_flags_are_the_members() -> None:
    models = [CNN(**GIVEN, c2=2, c3=5).float(), CNN(**GIVEN, c2=3, c3=4).float()]
    folded, shared = fold(models, "loop")
    assert [name for name, _ in folded.named_parameters()] == [name for name, _ in models[0].named_parameters()]
    assert folded.layers.conv3.weight.shape == (2, 5, 3, 3, 3)  # type: ignore[union-attr]
    assert {parameter.dtype for parameter in folded.parameters()} == {torch.float32}
    assert isinstance(folded, CNN)
    assert (shared.members, shared.impl, shared.format) == (2, "loop", torch.contiguous_format)
    assert all(parameter.requires_grad and not parameter.any() for parameter in folded.parameters())
    in_format(models, torch.channels_last)
    assert fold(models, "loop")[1].format == torch.channels_last


def test_a_layer_alone_is_folded_too() -> None:
    models = [nn.Linear(4, 3), nn.Linear(4, 2)]
    folded, _ = fold(models, "grouped")
    Slots(tensors_of(folded), [{k: v.shape for k, v in tensors_of(m).items()} for m in models]).load(
        [tensors_of(model) for model in models]
    )
    values_BC = torch.randn(5, 4)
    made = apart(folded(values_BC), 2)
    torch.testing.assert_close(made[:, 0], models[0](values_BC))
    torch.testing.assert_close(made[:, 1, :2], models[1](values_BC))
    assert not made[:, 1, 2].any()


def test_a_layer_used_under_two_names_is_folded_under_both() -> None:
    def model() -> nn.Module:
        drop = nn.Dropout(1.0)
        return nn.Sequential(nn.Linear(4, 3), drop, nn.Linear(3, 3), drop)

    folded, _ = fold([model(), model()], "grouped")
    assert folded[1].fold is folded[3].fold  # type: ignore[index]


def test_on_a_cpu_the_channels_of_a_pixel_lie_side_by_side() -> None:
    folded, _ = fold(cnns(), "grouped")
    maps_BCHW = folded.layers.conv1(torch.randn(2, 1, SIDE, SIDE))  # type: ignore[operator, union-attr]
    assert maps_BCHW.is_contiguous(memory_format=torch.channels_last)


def test_members_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="is not the same kind of layer in all models"):
        fold([autoencoders("own")[0], autoencoders("shared")[0]], "grouped")


def test_an_idle_place_is_zero_and_stores_nothing() -> None:
    models = cnns()
    stack = Stacked(models, [optimizer_of(model, 0, alike=True) for model in models], "grouped")
    before = {key: tensor.clone() for key, tensor in models[1].state_dict().items()}
    for parameter in stack.folded.parameters():
        parameter.data.fill_(torch.nan)  # as a member that has diverged leaves it
    own: list[dict[str, Tensor]] = [tensors_of(model) for model in models]
    stack.slots.load([*own[:1], {}, *own[2:]])
    assert all(not parameter[1].any() for parameter in stack.folded.parameters())
    assert all(parameter.isfinite().all() for parameter in stack.folded.parameters())
    assert all(not rest.any() for rest in stack.padding())
    stack.slots.store([*own[:1], {}, *own[2:]])
    close(models[1].state_dict(), before)


@pytest.mark.parametrize("make", MEMBERS.values(), ids=MEMBERS)
def test_known_layers_are_foldable(make: Callable[[], list[nn.Module]]) -> None:
    assert all(map(foldable, make()))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight


class Bare(nn.Module):
    def __init__(self, *, buffer: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        if buffer:
            self.register_buffer("own", torch.zeros(2))
        else:
            self.own = nn.Parameter(torch.zeros(2))


class MyLinear(nn.Linear):
    """It may do anything."""


UNKNOWN: list[nn.Module] = [
    nn.Conv2d(2, 2, 3, groups=2),
    nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
    nn.Conv2d(2, 2, 3, padding="same"),
    nn.ConvTranspose2d(2, 2, 3, groups=2),
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout2d()),
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.AlphaDropout()),
    nn.Sequential(nn.Linear(3, 2), nn.Sigmoid()),  # padding would not stay zero
    nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)),
    nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2, elementwise_affine=False)),
    nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)),
    nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(2)),
    nn.BatchNorm2d(3, momentum=None),
    nn.Conv1d(1, 2, 3),
    MyLinear(2, 2),
    Tied(),
    Bare(buffer=True),
    Bare(buffer=False),
    CapsNet(image_shape=(1, 28, 28), classes=2, routing=Fixed, c1=8, c2=8),
    DeepCapsNet(image_shape=(1, 16, 16), classes=2, routing=Dynamic, capsules=2, dim=4),
]


@pytest.mark.parametrize("model", UNKNOWN, ids=lambda model: str(model).split("\n")[0])
def test_what_is_not_known_is_not_folded(model: nn.Module) -> None:
    assert not foldable(model)


def test_a_part_of_padded_channels_is_a_members_own() -> None:
    shared = Fold(3, "grouped", widths_N=[4, 1, 3])
    assert [shared.own(member, 4) for member in range(3)] == [4, 1, 3]
    assert [shared.own(member, 4 * 9) for member in range(3)] == [36, 9, 27]
