"""Routings and layers compute what other people's implementations computed in float64, gradients included.

Of optimised routing there is no public code: its files hold plain loops of the formulas.  All files and their layouts
are described in ``tests/golden/routing/README.md``.
"""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from capsexp.models.backbones import Plain
from capsexp.models.layered_capsnet import LayeredCapsNet
from capsexp.nn.capsules import ClassCapsules, ConvCapsules, as_children
from capsexp.nn.functional import lengths
from capsexp.nn.primary import PrimaryCapsules
from capsexp.nn.votes import GivenVotes
from capsexp.routing import Dynamic, InvertedAttention, Optimised, Routing, SelfAttention, SelfRouting
from capsexp.types import Capsules, RoutingOutput
from tests.golden.other_code import File, layer_of, replace, same

# -- inverted attention -----------------------------------------------------------------------------------------------


def norms(file: File) -> dict[str, Tensor]:
    return {"routing.finish.weight": file["ln_weight"], "routing.finish.bias": file["ln_bias"]}


@pytest.mark.parametrize("name", ["att_fc_vector", "att_fc_matrix", "att_fc_matrix_one", "att_fc_matrix_two"])
def test_inverted_attention_of_a_class_layer(name: str) -> None:
    file = File(name)
    matrix = "matrix" in name
    # (I, x, y, J) of a matrix pose's W, or (I, D, J, E)
    weight_JEDI = file["w"].permute(3, 2, 1, 0) if matrix else file["w"].permute(2, 3, 1, 0)
    (_, children, dim_in), (_, parents, dim_out) = file["poses"].shape, file["out_poses"].shape
    routing = partial(InvertedAttention, iterations=file.iterations)
    make = partial(ClassCapsules, children, parents, dim_in, dim_out, routing, matrix=matrix)
    output = layer_of(make, weight_JEDI, **norms(file))(file["poses"])
    same(output.poses_BJE, file["out_poses"])
    same(output.coupling_BJI, file["coupling"].transpose(1, 2))
    file.check(output.poses_BJE)


def windowed(file: File, iterations: int) -> RoutingOutput:
    """The convolutional layer of a file: K x K x T children, here T x K x K."""
    w = file["w"]
    matrix = w.dim() == 6 and w.shape[3] == w.shape[4] and w.shape[3] ** 2 == file["poses"].shape[4]
    kernel, _, types = w.shape[:3]
    children_last = w.permute(5, 4, 3, 2, 0, 1) if matrix else w.permute(4, 5, 3, 2, 0, 1)
    poses_BTDHW = file["poses"].permute(0, 1, 4, 2, 3)
    dim_in, dim_out, parents = poses_BTDHW.shape[2], file["out_poses"].shape[4], file["out_poses"].shape[1]
    side, after = poses_BTDHW.shape[3], file["out_poses"].shape[2]
    stride = 1 if side - kernel + 1 == after else 2
    routing = partial(InvertedAttention, iterations=iterations)
    sizes = {"kernel": kernel, "stride": stride, "padding": 0, "matrix": matrix}
    make = partial(ConvCapsules, types, parents, dim_in, dim_out, routing, **sizes)
    output: RoutingOutput = layer_of(make, children_last.flatten(3), **norms(file))(poses_BTDHW)
    return output


@pytest.mark.parametrize("name", ["att_conv_matrix", "att_conv_matrix_stride2", "att_conv_vector"])
def test_inverted_attention_of_a_convolutional_layer(name: str) -> None:
    file = File(name)
    poses_BJHWE = windowed(file, file.iterations).poses_BJE.permute(0, 1, 3, 4, 2)
    same(poses_BJHWE, file["out_poses"])
    file.check(poses_BJHWE)


@pytest.mark.parametrize("name", ["att_conv_matrix", "att_conv_vector", "att_fc_vector"])
def test_inverted_attention_round_by_round(name: str) -> None:
    """The poses after each round are those of a layer with so many rounds."""
    file = File(name)
    for number in range(file.iterations):
        if "conv" in name:
            same(windowed(file, number + 1).poses_BJE.permute(0, 1, 3, 4, 2), file[f"state_{number}"])
            continue
        routing = partial(InvertedAttention, iterations=number + 1)
        make = partial(ClassCapsules, 6, 4, 5, 7, routing)
        output = layer_of(make, file["w"].permute(2, 3, 1, 0), **norms(file))(file["poses"])
        same(output.poses_BJE, file[f"state_{number}"])


def test_windows_are_not_read_in_the_order_of_the_first_release() -> None:
    """apple's ``CapsuleCONV`` (before its pull request 1) expands windows by a view that mixes places and channels."""
    file, scrambled = File("att_conv_matrix"), File("att_conv_matrix_scrambled")
    assert torch.equal(file["poses"], scrambled["poses"])
    found = windowed(scrambled, scrambled.iterations).poses_BJE.permute(0, 1, 3, 4, 2)
    same(found, file["out_poses"])
    assert float((found - scrambled["out_poses"]).detach().abs().max()) > 1


@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("form", ["sequential", "concurrent"])
def test_a_network_of_inverted_attention(form: str, iterations: int) -> None:
    file = File(f"att_network_{form}_{iterations}")
    model = LayeredCapsNet(
        image_shape=(1, 8, 8),
        classes=4,
        routing=partial(InvertedAttention, iterations=iterations),
        backbone=partial(Plain, channels=[6], kernels=[3], strides=[2], paddings=[1]),
        primary={"types": 3, "dim": 4, "kernel": 1, "normaliser": "layer_norm"},
        layers=[{"types": 3, "dim": 4, "kernel": 3}, {"types": 5, "dim": 4, "kernel": None}],
        matrix=True,
        concurrent=form == "concurrent",
        dim_class=4,
        head="linear",
    ).double()
    first = file["capsule_layers__0__w"].permute(5, 4, 3, 2, 0, 1).flatten(3)
    second, last = (file[f"capsule_layers__{number}__w"].permute(3, 2, 1, 0) for number in (1, 2))
    values = {
        "backbone.layers.0.weight": file["pre_caps__pre_caps__0__weight"],
        "backbone.layers.0.bias": file["pre_caps__pre_caps__0__bias"],
        "primary.conv.weight": file["pc_layer__weight"],
        "primary.norm.weight": file["nonlinear_act__weight"],
        "primary.norm.bias": file["nonlinear_act__bias"],
        "layers.layer1.weight": first,
        "layers.layer2.weight": second,
        "class_capsules.weight": last,
        "head.weight_E": file["final_fc__weight"][0],
        "head.bias": file["final_fc__bias"][0],
    }
    for number, name in enumerate(("layers.layer1", "layers.layer2", "class_capsules")):
        for part in ("weight", "bias"):
            values[f"{name}.routing.finish.{part}"] = file[f"capsule_layers__{number}__nonlinear_act__{part}"]
    assert values.keys() == dict(model.named_parameters()).keys()
    replace(model, values)
    scores_BK = model(file["image"])
    same(scores_BK, file["out_logits"])
    file.check(scores_BK)


# -- self-routing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "stride", "padding"), [("sr_self_conv", 2, 1), ("sr_self_conv_overlap", 1, 0), ("sr_self_class", 1, 0)]
)
def test_self_routing(name: str, stride: int, padding: int) -> None:
    file = File(name)
    activations_BTHW = file["activations"]
    (batch, types, height, width), parents, dim = activations_BTHW.shape, 4, 5
    poses_BTDHW = file["poses"].view(batch, types, dim, height, width)
    places = len(file["W2"]) // types

    def ours(children_first: Tensor) -> Tensor:
        """(place * T + type, ...) with the children last, in the order type * places + place."""
        rest = children_first.shape[1:]
        return children_first.view(places, types, *rest).transpose(0, 1).reshape(-1, *rest).movedim(0, -1)

    own = {"routing.weight_JDI": ours(file["W2"]), "routing.bias_JI": ours(file["b2"][0, 0])}
    if name == "sr_self_class":
        make: Any = partial(ClassCapsules, types * places, parents, dim, 0, SelfRouting)
        given: Capsules = as_children(Capsules(poses_BTDHW, activations_BTHW))
        weight_JEDI = torch.zeros(parents, 0, dim, types * places, dtype=torch.float64)
        output = layer_of(make, weight_JEDI, **own)(given)
        coupling_BLJI = output.coupling_BJI[:, None]
        outputs = [output.activations_BJ]
    else:
        make = partial(ConvCapsules, types, parents, dim, 6, SelfRouting, kernel=3, stride=stride, padding=padding)
        given = Capsules(poses_BTDHW, activations_BTHW)
        weight_JEDI = ours(file["W1"].view(-1, parents, 6, dim))
        output = layer_of(make, weight_JEDI, **own)(given)
        coupling_BLJI = output.coupling_BJI
        outputs = [output.activations_BJ, output.poses_BJE.flatten(1, 2)]
        same(outputs[1], file["out_poses"])
    same(output.activations_BJ, file["out_activations"])
    theirs = file["coupling"].view(batch, -1, places, types, parents).transpose(2, 3).flatten(2, 3)
    same(coupling_BLJI, theirs.transpose(2, 3))
    file.check(*outputs)


# -- self-attention ---------------------------------------------------------------------------------------------------


def test_self_attention_with_the_papers_scale_and_priors() -> None:
    file = File("effcn_attention")
    routing = partial(SelfAttention, scale="children")
    make = partial(ClassCapsules, 6, 4, 5, 5, routing)
    weight_JEDI = file["W"].permute(1, 3, 2, 0)
    output = layer_of(make, weight_JEDI, **{"routing.prior_JI": file["B"].T})(file["poses"])
    same(output.poses_BJE, file["out_poses"])
    same(output.coupling_BJI, file["coupling"].transpose(1, 2))
    file.check(output.poses_BJE)


def test_self_attention_without_priors() -> None:
    file = File("effcn_attention_no_bias")
    make = partial(ClassCapsules, 6, 4, 5, 7, partial(SelfAttention, scale="children", prior=False))
    output = layer_of(make, file["W"].permute(1, 3, 2, 0))(file["poses"])
    same(output.poses_BJE, file["out_poses"])
    same(output.coupling_BJI, file["coupling"].transpose(1, 2))
    file.check(output.poses_BJE)


def test_self_attention_with_the_scale_of_the_authors_code() -> None:
    file = File("efficient_attention_numpy")
    make = partial(ClassCapsules, 6, 4, 5, 7, SelfAttention)
    weight_JEDI = file["W"].permute(0, 3, 2, 1)
    layer = layer_of(make, weight_JEDI, **{"routing.prior_JI": file["b"]})
    output = layer(file["poses"])
    same(output.poses_BJE, file["out_poses"])
    same(output.coupling_BJI, file["coupling"])
    weights_BJI = layer.routing.weights(output.coupling_BJI)
    same(layer.votes(file["poses"]).weighted_sum(weights_BJI), file["sums"])


def test_depthwise_primary_capsules_of_efficient_capsnet() -> None:
    file = File("effcn_primary")
    primary = PrimaryCapsules(12, 12, 4, kernel=3, depthwise=True, squash="exponential").double()
    replace(primary, {"conv.weight": file["weight"], "conv.bias": file["bias"]})
    poses_BTD = primary(file["maps"]).poses.flatten(2)
    same(poses_BTD, file["out_poses"])
    file.check(poses_BTD)


# -- optimised routing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["optimised_alpha1", "optimised_alpha0.1"])
def test_optimised_routing(name: str) -> None:
    """The file has rounds of unit vectors and couplings; its poses are a weighted sum more.

    It divides every matrix by its Frobenius norm, as ``start`` does.
    """
    file = File(name)
    routing = partial(Optimised, alpha=float(file["alpha"]), iterations=file.iterations + 1)
    weight_JEDI = file["W"] / file["W"].square().sum((1, 2), keepdim=True).sqrt()
    layer = layer_of(partial(ClassCapsules, 6, 4, 5, 7, routing), weight_JEDI)
    output = layer(file["poses"])
    same(output.coupling_BJI, file["coupling"])
    same(output.poses_BJE, file["out_poses"])
    same(layer.votes(file["poses"]).materialise(), file["votes"].transpose(2, 3))


# -- a squash with a bias and an epsilon ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["eidos_class", "eidos_class_one"])
@pytest.mark.parametrize("gradient", ["last", "full"])
def test_dynamic_routing_with_a_bias_and_an_epsilon(name: str, gradient: str) -> None:
    """Their code detaches votes in all rounds but the last, and the bias in none: so two of our settings are theirs."""
    file = File(name)
    routing = partial(Dynamic, iterations=file.iterations, gradient=gradient, bias=True, epsilon=1e-6)
    weight_JEDI = file["weight"].flatten(0, 2).permute(1, 2, 3, 0)
    own = {"routing.finish.bias_JE": file["routing_bias"].view(4, 6)}
    poses_BID = file["poses"].squeeze(5).flatten(1, 3)
    output = layer_of(partial(ClassCapsules, 24, 4, 5, 6, routing), weight_JEDI, **own)(poses_BID)
    same(output.poses_BJE, file["out_poses"])
    same(output.activations_BJ, file["out_activations"])
    same(output.coupling_BJI, file["coupling"].view(2, 4, 24))
    theirs = ("grad_poses", "grad_weight") if gradient == "full" else ("grad_routing_bias",)
    skipped = () if file.iterations == 1 else theirs
    file.check(output.poses_BJE, output.activations_BJ, but=skipped)


def test_primary_capsules_with_an_epsilon() -> None:
    file = File("eidos_primary")
    primary = PrimaryCapsules(5, 12, 4, kernel=2, epsilon=1e-6).double()
    replace(primary, {"conv.weight": file["weight"], "conv.bias": file["bias"]})
    poses_BTHWD = primary(file["maps"]).poses.movedim(2, -1)
    same(poses_BTHWD, file["out_poses"])
    file.check(poses_BTHWD, lengths(poses_BTHWD))


# -- the objective of optimised routing -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["optimised_alpha1", "optimised_alpha0.1"])
def test_the_objective_is_theirs_and_never_rises(name: str) -> None:
    file = File(name)
    votes = GivenVotes(file["votes"].transpose(2, 3))
    alpha, found = float(file["alpha"]), []
    for number in range(1, file.iterations + 1):
        routing: Routing = Optimised(children=6, parents=4, dim_in=5, dim_out=7, alpha=alpha, iterations=number + 1)
        before = Optimised(children=6, parents=4, dim_in=5, dim_out=7, alpha=alpha, iterations=number)
        coupling_BJI = routing(votes).coupling_BJI
        sums_BJE = votes.weighted_sum(before(votes).coupling_BJI)
        agreement_BJI = votes.agreement(sums_BJE / lengths(sums_BJE, keepdim=True))
        entropy_B = (coupling_BJI * coupling_BJI.log()).sum((1, 2))
        found.append(alpha * entropy_B - (coupling_BJI * agreement_BJI).sum((1, 2)))
    same(torch.stack(found), file["objective"])
    assert (torch.stack(found).diff(dim=0) <= 1e-12).all()
