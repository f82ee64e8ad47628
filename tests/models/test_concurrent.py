"""Networks whose layers do a round of routing at once, against plain loops and against their sequential form."""

import copy
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from capsexp.callbacks.dead_capsules import DeadCapsuleLogger
from capsexp.errors import ConfigError
from capsexp.memory_estimate import trace
from capsexp.models.backbones import Plain
from capsexp.models.layered_capsnet import LayeredCapsNet
from capsexp.nn.capsules import CapsuleLayer, ConvCapsules, capsule_layers
from capsexp.nn.routing_hooks import ClassReader, RoutingReader
from capsexp.nn.votes import Votes
from capsexp.routing import Dynamic, InvertedAttention
from capsexp.stacking.folding import foldable
from capsexp.types import Batch, RoutingOutput, StepOutput
from tests.references import inverted_attention as reference
from tests.references.votes import scalars, stacked

SHAPE = (1, 7, 7)


def made(iterations: int = 3, *, concurrent: bool = True, gradient: str = "full") -> LayeredCapsNet:
    """Primary capsules on 3x3 places, windows of 3 with a border, 2 and then 3 types, and three classes."""
    torch.manual_seed(0)
    model = LayeredCapsNet(
        image_shape=SHAPE,
        classes=3,
        routing=partial(InvertedAttention, iterations=iterations, gradient=gradient),
        backbone=partial(Plain, channels=[4], kernels=[3], strides=[2]),
        primary={"types": 2, "dim": 4, "kernel": 1, "normaliser": "layer_norm"},
        layers=[
            {"types": 2, "dim": 3, "stride": 2, "padding": 1},
            {"types": 3, "dim": 5, "kernel": 2},
        ],
        concurrent=concurrent,
        dim_class=4,
        head="linear",
    ).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def routed(model: LayeredCapsNet) -> list[CapsuleLayer]:
    return list(capsule_layers(model).values())


# -- its numbers ------------------------------------------------------------------------------------------------------


def windows(layer: CapsuleLayer, types: int, side: int) -> list[dict[int, int]]:
    """The number of the child at each position of each window, as far as there is one."""
    if not isinstance(layer, ConvCapsules):
        return [{number: number for number in range(types * side**2)}]
    kernel, found = layer.kernel, []
    corners = range(-layer.padding, side + layer.padding - kernel + 1, layer.stride)
    for top, left in product(corners, corners):
        window = {}
        for kind, row, column in product(range(types), range(kernel), range(kernel)):
            y, x = top + row, left + column
            if 0 <= y < side and 0 <= x < side:
                window[(kind * kernel + row) * kernel + column] = (kind * side + y) * side + x
        found.append(window)
    return found


def by_loops(model: LayeredCapsNet, image_CHW: Tensor, gradient: str) -> list[list[Tensor]]:
    """The poses (L, J, E) of every layer after each round, for one image, by the reference."""
    primary_TDHW = model.primary(model.backbone(image_CHW[None])).poses[0]
    first_ID = primary_TDHW.flatten(2).transpose(1, 2).flatten(0, 1)  # type by type, place by place
    types, side = primary_TDHW.shape[0], primary_TDHW.shape[2]
    layers: list[Any] = []
    for layer in routed(model):
        norm, places = layer.routing.finish, windows(layer, types, side)
        weight_JIED = scalars(layer.weight.permute(0, 3, 1, 2))
        layers.append((places, weight_JIED, scalars(norm.weight), scalars(norm.bias)))  # type: ignore[arg-type]
        types, side = len(weight_JIED), round(len(places) ** 0.5)
    iterations = model.class_capsules.routing.iterations
    rounds = reference.concurrent(scalars(first_ID), layers, iterations=iterations, gradient=gradient)
    return [[stacked(poses) for poses in each] for each in rounds]


@pytest.mark.parametrize("gradient", ["full", "last"])
@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_equals_the_loops(iterations: int, gradient: str) -> None:
    """With gradient=last couplings are constants, and the children's poses of the round before are not.

    The scores depend on the first layer's own poses from the fourth round on.
    """
    model, (image_CHW,) = made(iterations, gradient=gradient), images(1)
    scores_K = model(image_CHW[None])[0]
    expected_K = model.head(by_loops(model, image_CHW, gradient)[-1][-1])[0]  # type: ignore[misc]
    torch.testing.assert_close(scores_K, expected_K, rtol=1e-10, atol=1e-10)
    judge = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found, expected = (
        torch.autograd.grad((each * judge).sum(), list(model.parameters())) for each in (scores_K, expected_K)
    )
    for (name, _), one, other in zip(model.named_parameters(), found, expected, strict=True):
        assert one.any(), name
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


def test_one_round_is_the_sequential_form_and_three_are_not() -> None:
    for iterations, equal in ((1, True), (2, False), (3, False)):
        both = [made(iterations, concurrent=concurrent)(images()) for concurrent in (True, False)]
        assert torch.equal(*both) == equal
        assert torch.allclose(*both, atol=1e-3) == equal


def test_both_forms_have_the_same_parameters() -> None:
    one, other = made(), made(concurrent=False)
    other.load_state_dict(one.state_dict())


# -- what listens -----------------------------------------------------------------------------------------------------


def test_what_reads_couplings_has_those_of_the_last_round() -> None:
    model, (image_CHW,), reader, classes = made(), images(1), RoutingReader(), ClassReader()
    reader.listen(model)
    classes.listen(model)
    model(image_CHW[None])
    last = by_loops(model, image_CHW, "full")[-1]
    for (name, layer), poses_LJE in zip(capsule_layers(model).items(), last, strict=True):
        output, mask_BI = reader[name].output, reader[name].mask_BI
        torch.testing.assert_close(output.poses_BJE, poses_LJE)
        assert output.coupling_BJI.shape == (len(poses_LJE), layer.weight.shape[0], layer.weight.shape[3])
        assert (mask_BI is None) == (layer.padding == 0 if isinstance(layer, ConvCapsules) else True)
    assert classes.last.poses_BJE is reader["class_capsules"].output.poses_BJE


def test_hooks_of_the_layers_see_an_image_once_and_with_its_last_poses() -> None:
    model, (image_CHW,), seen = made(), images(1), list[Tensor]()
    for layer in routed(model):
        layer.register_forward_hook(lambda *given: seen.append(given[-1].poses_BJE))
    model(image_CHW[None])
    *on_grids, classes_BJE = seen
    last = by_loops(model, image_CHW, "full")[-1]
    for poses_BTDHW, poses_LJE in zip(on_grids, last, strict=False):
        torch.testing.assert_close(poses_BTDHW[0].flatten(2).permute(2, 0, 1), poses_LJE)
    torch.testing.assert_close(classes_BJE, last[-1])
    assert len(seen) == 3


def test_dead_capsules_are_judged_by_the_poses_of_the_last_round() -> None:
    model, (image_CHW,) = made(), images(1)
    callback, module = DeadCapsuleLogger(), cast("Any", SimpleNamespace(model=model, device=torch.device("cpu")))
    callback.on_test_start(cast("Any", None), module)
    with torch.no_grad():
        model(image_CHW[None])
    callback.on_test_end(cast("Any", None), module)
    found = callback.result_arrays(module)
    for name, poses_LJE in zip(("layer1", "layer2"), by_loops(model, image_CHW, "full")[-1], strict=False):
        expected_JL = torch.linalg.vector_norm(poses_LJE.detach(), dim=2).T
        torch.testing.assert_close(torch.from_numpy(found[f"activity/{name}"]).flatten(1), expected_JL.float())


# -- elsewhere --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, of itself
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_compiles_to_one_graph() -> None:
    model = made(2)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), model(images()))


def test_under_autocast_the_poses_are_of_single_precision() -> None:
    model, reader = made().float(), RoutingReader()
    expected_BK = model(images().float())
    reader.listen(model)
    with torch.autocast("cpu", torch.bfloat16):
        scores_BK = model(images().float())
    assert {reader[name].output.poses_BJE.dtype for name in capsule_layers(model)} == {torch.float32}
    assert not torch.equal(scores_BK, expected_BK)
    torch.testing.assert_close(scores_BK.float(), expected_BK, atol=0.1, rtol=0.1)


class Step(nn.Module):
    """A training step of a network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def step(self, batch: Batch) -> StepOutput:
        loss = self.model(batch.images_BCHW).sum()
        return StepOutput(loss, None)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters())


def test_the_memory_of_a_step_grows_with_the_rounds() -> None:
    batch = Batch(images(64).float(), torch.zeros(64, dtype=torch.int64), torch.zeros(64, *SHAPE, dtype=torch.uint8))
    found = [trace(Step(made(iterations).float()), batch).live for iterations in (1, 2, 3)]
    assert found == sorted(set(found))
    assert found[0] == trace(Step(made(1, concurrent=False).float()), batch).live


def test_members_of_a_stack_are_trained_apart() -> None:
    """As those of the sequential form: no stack routes by this routing."""
    assert not foldable(made())


def test_a_copy_stays_concurrent() -> None:
    model = made()
    assert torch.equal(copy.deepcopy(model)(images()), model(images()))


class NoIterations(Dynamic):
    """One with a round that does not say how many there are."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        del self.iterations

    def one_round(self, votes: Votes, parents_BJE: Tensor | None = None) -> RoutingOutput:
        return self.weigh(votes, self.first_coupling)


class NoRound(InvertedAttention):
    """One that needs activations, and has a round that is given none."""

    needs_activations = True


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"concurrent": 1}, "concurrent must be true or false, got 1"),
        ({"concurrent": True, "routing": Dynamic}, "concurrent must be false: Dynamic has no one_round, got True"),
        (
            {"concurrent": True, "routing": NoIterations},
            "concurrent must be false: NoIterations has no iterations, got True",
        ),
        (
            {"concurrent": True, "routing": NoRound},
            "concurrent must be false: one_round of NoRound is given no activations, which it needs, got True",
        ),
        (
            {"concurrent": True, "layer_normaliser": "batch_norm"},
            "layer_normaliser must be none with concurrent=true: it would count every round, got 'batch_norm'",
        ),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], line: str) -> None:
    given: dict[str, Any] = {"image_shape": SHAPE, "classes": 3, "routing": InvertedAttention, "head": "linear"}
    given |= {"backbone": partial(Plain, channels=[4]), "primary": {"types": 2, "dim": 4}}
    with pytest.raises(ConfigError) as caught:
        LayeredCapsNet(**given | options)
    assert str(caught.value) == line
