"""Layers with EM and variational-Bayes routing compute what other people's code computed, gradients included.

The files and their layouts are described in ``tests/golden/routing/README.md``.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from capsexp.nn.capsules import CapsuleLayer, ClassCapsules, ConvCapsules, as_children
from capsexp.routing import EM, VariationalBayes
from capsexp.types import Capsules, RoutingOutput
from tests.golden.other_code import File, layer_of, same
from tests.references.windows import places

PARENTS = 4


def matrices(weight_TPJMM: Tensor) -> Tensor:
    """W of every pair as our layers hold it, its columns first: (J, m, m, T * P)."""
    return weight_TPJMM.permute(2, 4, 3, 0, 1).flatten(3)


def betas(file: File) -> dict[str, Tensor]:
    return {"routing.beta_u_J": file["beta_u"], "routing.beta_a_J": file["beta_a"]}


def grid(output: RoutingOutput) -> RoutingOutput:
    """The output of a class layer as that of a convolutional layer with one window."""
    poses_BJE, activations_BJ, coupling_BJI = output
    return RoutingOutput(poses_BJE[..., None, None], activations_BJ[..., None, None], coupling_BJI[:, None])


def windows_first(coupling_BLJI: Tensor, types: int) -> Tensor:
    """Couplings as the files of EM have them: (B, L, P, T, J)."""
    return coupling_BLJI.unflatten(3, (types, -1)).permute(0, 1, 4, 3, 2)


# -- EM ---------------------------------------------------------------------------------------------------------------


def em_given(file: File) -> tuple[Capsules, Tensor]:
    """Poses (B, T, D, H, W) with activations, and the matrices."""
    activations_BTHW, W = file["activations"], file["W"]
    types, side = activations_BTHW.shape[1], W.shape[-1]
    poses_BTDHW = file["poses"].view(-1, types, side**2, *activations_BTHW.shape[2:])
    weight_TPJMM = W.reshape(-1, types, PARENTS, side, side).transpose(0, 1)
    return Capsules(poses_BTDHW, activations_BTHW), matrices(weight_TPJMM)


def em_of(file: File, kind: type[EM], least_variance: float) -> Callable[..., EM]:
    heat = float(file["final_lambda"])
    return partial(kind, iterations=file.iterations, inverse_temperature=heat, least_variance=least_variance)


def em_conv(file: File, routing: Callable[..., EM], stride: int, padding: int) -> RoutingOutput:
    given, weight_JEDI = em_given(file)
    types, dim = given.poses.shape[1:3]
    sizes: Any = {"kernel": 3, "stride": stride, "padding": padding, "matrix": True}
    make = partial(ConvCapsules, types, PARENTS, dim, dim, routing, **sizes)
    output: RoutingOutput = layer_of(make, weight_JEDI, **betas(file))(given)
    return output


def em_class(file: File, routing: Callable[..., EM], **options: Any) -> RoutingOutput:
    given, weight_JEDI = em_given(file)
    children, dim = given.poses[0, :, 0].numel(), given.poses.shape[2]
    make = partial(ClassCapsules, children, PARENTS, dim, dim, routing, matrix=True, **options)
    layer = layer_of(make, weight_JEDI, **betas(file))
    if layer.offset_EI is not None:  # in float32, as the layer was made; centres of three places are odd sixths
        exact_EI = (6 * layer.offset_EI).round() / 6
        same(layer.offset_EI, exact_EI, 1e-7)
        layer.offset_EI = exact_EI
    return grid(layer(as_children(given)))


@pytest.mark.parametrize(
    ("name", "stride"), [("em_paper_conv_overlap", 1), ("em_paper_conv_stride2", 2), ("em_paper_class_coordinates", 0)]
)
def test_em_by_the_paper(name: str, stride: int) -> None:
    """The loops add nothing to variances; ours add next to nothing here."""
    file = File(name)
    routing = em_of(file, EM, least_variance=1e-30)
    if stride:
        output = em_conv(file, routing, stride, padding=0)
    else:
        output = em_class(file, routing, grid=(3, 3), shared=True, coordinates=True)
    same(output.poses_BJE.flatten(3).permute(0, 3, 1, 2), file["out_poses"])
    same(output.activations_BJ.flatten(2).transpose(1, 2), file["out_activations"])
    same(windows_first(output.coupling_BJI, 3), file["assignment"])


def test_what_multiplied_the_votes_is_theirs() -> None:
    file = File("em_paper_class_coordinates")
    given = as_children(em_given(file)[0])
    routing = EM(children=27, parents=PARENTS, dim_in=16, dim_out=16)
    coupling_BJI = file["assignment"][:, 0].permute(0, 3, 2, 1).flatten(2)
    expected_BJI = file["weights"][:, 0].permute(0, 3, 2, 1).flatten(2)
    same(routing.weights(coupling_BJI, given.activations), expected_BJI)


class OfWindows(EM):
    """EM as in SR-CapsNet, where a child's assignments add up to 1 over the parents of each window."""

    shares = "parents"


@pytest.mark.parametrize("name", ["sr_em_conv", "sr_em_conv_hot", "sr_em_class", "sr_em_class_one", "sr_em_class_two"])
def test_em_in_sr_capsnet(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours begins with equal shares that add up to 1; theirs begins with 1 for each parent."""
    monkeypatch.setattr("capsexp.routing.em.equal_shares", lambda votes, like: like[:, None].new_ones(_of(votes)))
    file = File(name)
    routing = em_of(file, OfWindows, least_variance=1e-12)
    conv = "conv" in name
    output = em_conv(file, routing, stride=2, padding=1) if conv else em_class(file, routing)
    poses_BXHW, activations_BJHW = output.poses_BJE.flatten(1, 2), output.activations_BJ
    same(poses_BXHW, file["out_poses"])
    same(activations_BJHW, file["out_activations"])
    types = file["activations"].shape[1]
    place_LP = torch.tensor(places(*file["activations"].shape[2:], 3, 2 if conv else 1, 1 if conv else 0))
    ours = windows_first(output.coupling_BJI, types)
    there = (place_LP >= 0)[None, :, :, None, None].expand_as(ours)
    same(ours[there], file["assignment"].view_as(ours)[there])
    file.check(activations_BJHW, poses_BXHW)


def _of(votes: Any) -> tuple[int, int, int]:
    batch, parents, _, children = votes.shape
    return batch, parents, children


@pytest.mark.parametrize("name", ["sr_em_conv", "sr_em_class"])
def test_em_differs_from_sr_capsnet_by_its_start_and_its_sums(name: str) -> None:
    file = File(name)
    routing = em_of(file, EM, least_variance=1e-12)
    output = em_conv(file, routing, stride=2, padding=1) if "conv" in name else em_class(file, routing)
    far = (output.poses_BJE.flatten(1, 2) - file["out_poses"].view(output.poses_BJE.flatten(1, 2).shape)).abs().max()
    assert float(far.detach()) > 1e-6


# -- variational Bayes ------------------------------------------------------------------------------------------------

VB_FILES = {
    "vb_conv_overlap": 1,
    "vb_conv_stride2": 2,
    "vb_conv_one": 1,
    "vb_conv_train": 1,
    "vb_class_shared_coordinates": 0,
    "vb_class_pose16": 0,
}
"""Strides of the convolutional layers."""


def vb_layer(name: str) -> tuple[File, Capsules, CapsuleLayer]:
    """The file, its capsules (B, T, D, H, W) and a layer that holds its numbers, in the file's mode."""
    file = File(name)
    activations_BTHW, W = file["activations"], file["W"]
    types, height, width = activations_BTHW.shape[1:]
    weight_TPJMM = W[0, :, :, 0, :, :, 0, 0].flatten(4).permute(0, 4, 1, 2, 3)
    given = Capsules(file["poses"].flatten(2, 3), activations_BTHW)
    dim = given.poses.shape[2]
    routing = partial(VariationalBayes, iterations=file.iterations)
    if VB_FILES.get(name):
        sizes: Any = {"kernel": 3, "stride": VB_FILES[name], "padding": 0, "matrix": True}
        make: Any = partial(ConvCapsules, types, PARENTS, dim, dim, routing, **sizes)
    else:
        together = "shared" in name
        options: Any = {"grid": (height, width), "shared": True, "coordinates": True} if together else {}
        make = partial(ClassCapsules, types * height * width, PARENTS, dim, dim, routing, matrix=True, **options)
    layer = layer_of(make, matrices(weight_TPJMM), **betas(file)).train(name == "vb_conv_train")
    if "coordinates" in name:  # that code adds a constant in their place
        constant_E1 = torch.tensor([0, 0.1, 0, 0.1], dtype=torch.float32).double()[:, None]
        layer.offset_EI = constant_E1.expand_as(layer.offset_EI).clone()  # type: ignore[arg-type]
    return file, given, layer


def vb_output(name: str) -> tuple[File, RoutingOutput]:
    file, given, layer = vb_layer(name)
    return file, layer(given) if VB_FILES.get(name) else grid(layer(as_children(given)))


@pytest.mark.parametrize("name", VB_FILES)
def test_variational_bayes(name: str) -> None:
    """The code rounds the 0.1 that it adds in place of coordinates to float32, and some more."""
    file, output = vb_output(name)
    tolerance = 1e-8 if "coordinates" in name else 1e-10
    same(output.poses_BJE, file["out_poses"], tolerance)
    same(output.activations_BJ, file["out_activations"], tolerance)
    types = file["activations"].shape[1]
    ours_BTJLP = output.coupling_BJI.unflatten(3, (types, -1)).permute(0, 3, 2, 1, 4)
    theirs = file["assignment"] if "assignment" in file else torch.full_like(ours_BTJLP, 1 / PARENTS)
    same(ours_BTJLP, theirs, tolerance)
    trained = name == "vb_conv_train"
    without = ("grad_beta_u", "grad_beta_a") if trained else ()
    if trained:
        outputs = output.activations_BJ.cos().sum() + output.poses_BJE.sin().sum()
        found = torch.autograd.grad(outputs, [file["beta_u"], file["beta_a"]], retain_graph=True)
        assert max(float(each.abs().max()) for each in found) < 1e-12
        assert max(float(file[key].abs().max()) for key in without) < 1e-12
    file.check(output.activations_BJ, output.poses_BJE, but=without)


def test_means_and_logits_before_the_normalisations() -> None:
    file, given, layer = vb_layer("vb_conv_overlap")
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda _, values: seen.__setitem__(name, values[0])

    for name in ("finish", "activation_norm"):
        layer.routing.get_submodule(name).register_forward_pre_hook(keep(name))
    layer(given)
    same(seen["finish"].unflatten(0, (2, 4)).permute(0, 2, 3, 1), file["posterior_mean"])
    same(seen["activation_norm"].unflatten(0, (2, 4)).transpose(1, 2), file["logits"])


def test_clamped_densities_are_not_reproduced() -> None:
    """That code exponentiates densities before it normalises them; those of a child may all vanish, and it counts 0."""
    file, output = vb_output("vb_class_pose16_clamped")
    theirs_BTP = file["assignment"].view(2, 3, PARENTS, 9).sum(2)
    assert float(theirs_BTP.median()) < 1e-30
    sums_BI = output.coupling_BJI[:, 0].sum(1)
    torch.testing.assert_close(sums_BI, torch.ones_like(sums_BI))
    far = (output.activations_BJ - file["out_activations"].view(2, PARENTS, 1, 1)).abs().max()
    assert float(far.detach()) > 1e-3
