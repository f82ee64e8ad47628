"""Networks with EM and variational-Bayes routing in all that goes on around a network."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from capsexp.errors import ConfigError
from capsexp.models.backbones import Plain
from capsexp.models.layered_capsnet import LayeredCapsNet
from capsexp.nn import vote_operators
from capsexp.nn.capsules import capsule_layers
from capsexp.nn.routing_hooks import RoutingReader
from capsexp.routing import EM, VariationalBayes
from capsexp.stacking.folding import foldable

SHAPE = (1, 9, 9)
ROUTINGS = {"em": (partial(EM, inverse_temperature=0.5), "none"), "variational_bayes": (VariationalBayes, "type_norm")}


@pytest.fixture(params=ROUTINGS)
def model(request: pytest.FixtureRequest) -> LayeredCapsNet:
    """Windows that share children, matrix poses, and the class layer of these papers."""
    torch.manual_seed(0)
    routing, normaliser = ROUTINGS[request.param]
    return LayeredCapsNet(
        image_shape=SHAPE,
        classes=3,
        routing=routing,
        backbone=partial(Plain, channels=[4]),
        primary={"types": 2, "dim": 4, "kernel": 1, "normaliser": normaliser, "activation": "logistic"},
        layers=[{"types": 3, "dim": 4, "stride": 2}],
        matrix=True,
        class_shared=True,
        class_coordinates=True,
        dim_class=4,
    )


def images(batch: int = 4) -> Tensor:
    return torch.rand(batch, *SHAPE, generator=torch.Generator().manual_seed(1))


def statistics(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.named_buffers() if "running" in name or "num_" in name}


def test_pieces_are_whole_images_and_count_statistics_once(
    model: LayeredCapsNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores, gradients and statistics of a training step do not depend on the size of the pieces."""
    found = []
    for size in (1, 1 << 30):
        monkeypatch.setitem(vote_operators.PIECE_BYTES, "cpu", size)
        made = copy.deepcopy(model).double().train()
        scores_BK = made(images().double())
        scores_BK.square().sum().backward()
        gradients = {name: each.grad for name, each in made.named_parameters() if each.grad is not None}
        found.append((scores_BK.detach(), gradients, statistics(made)))
    torch.testing.assert_close(*found, rtol=1e-7, atol=1e-10)
    counts = [int(value) for name, value in found[0][2].items() if name.endswith("num_batches_tracked")]
    assert set(counts) <= {1}


def test_under_autocast_all_but_the_products_is_of_single_precision(model: LayeredCapsNet) -> None:
    model.train()(images(16))  # statistics of its own
    reader, expected_BK = RoutingReader(), model.eval()(images())
    reader.listen(model)
    with torch.autocast("cpu", torch.bfloat16):
        scores_BK = model(images())
        in_training_BK = model.train()(images())
    in_training_BK.sum().backward()
    types = {part.dtype for name in capsule_layers(model) for part in reader[name].output}
    assert types == {torch.float32} == {scores_BK.dtype, in_training_BK.dtype}
    assert {value.dtype for value in statistics(model).values()} <= {torch.float32, torch.int64}
    assert not torch.equal(scores_BK, expected_BK)
    torch.testing.assert_close(scores_BK, expected_BK, rtol=0.02, atol=0.02)
    assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, of itself
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_compiles_to_one_graph(model: LayeredCapsNet) -> None:
    found = []
    for run in (model, torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)):
        scores_BK = run(images())
        scores_BK.square().sum().backward()
        gradients = [each.grad for each in run.parameters() if each.grad is not None]
        found.append([scores_BK.detach(), *gradients])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_members_of_a_stack_are_trained_apart(model: LayeredCapsNet) -> None:
    assert not foldable(model)


def test_a_master_is_refused_by_the_name_of_the_routing(model: LayeredCapsNet) -> None:
    layer = model.class_capsules
    with pytest.raises(ConfigError, match=r"^master must be absent: (EM|VariationalBayes) has no master coefficients"):
        layer.set_master(torch.rand(3, layer.child_count))


@pytest.mark.parametrize("routing", [EM, VariationalBayes])
def test_rounds_of_all_layers_at_once_are_refused(routing: Any) -> None:
    sizes: dict[str, Any] = {"image_shape": SHAPE, "classes": 3, "primary": {"types": 2, "dim": 4}}
    rule = f"^concurrent must be false: {routing.__name__} has no one_round, got True$"
    with pytest.raises(ConfigError, match=rule):
        LayeredCapsNet(routing=routing, backbone=partial(Plain, channels=[4]), concurrent=True, **sizes)
