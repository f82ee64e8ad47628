"""The nested loops of EM and variational-Bayes routing compute what other code does, its gradients included."""

from functools import cache

import pytest
import torch
from torch import Tensor

from tests.golden.other_code import File, same
from tests.references import em, variational_bayes
from tests.references.votes import scalars, stacked
from tests.references.windows import children_of, places

PARENTS = 4


def windowed(maps_BTXHW: Tensor, place_LP: list[list[int]]) -> Tensor:
    """What stands in the windows of maps (B, T, ..., H, W): (B, L, T * P, ...), zero in the padding."""
    rows_BTXY = maps_BTXHW.flatten(-2)
    padded_BTXY = torch.cat([rows_BTXY, torch.zeros_like(rows_BTXY[..., :1])], -1)
    found_BTXLP = padded_BTXY[..., torch.tensor(place_LP)]
    found_BLTPX = found_BTXLP.movedim((-2, -1), (1, 3))
    return found_BLTPX.flatten(2, 3)


# -- EM ---------------------------------------------------------------------------------------------------------------

EM_FILES = {
    "em_paper_conv_overlap": (3, 1, 0),
    "em_paper_conv_stride2": (3, 2, 0),
    "em_paper_class_coordinates": (3, 1, 0),
    "sr_em_conv": (3, 2, 1),
    "sr_em_conv_hot": (3, 2, 1),
    "sr_em_class": (3, 1, 0),
    "sr_em_class_one": (3, 1, 0),
    "sr_em_class_two": (3, 1, 0),
}
"""Kernel, stride and padding."""


def em_maps(file: File, name: str) -> tuple[Tensor, Tensor]:
    """Poses (B, T, m, m, H, W) and activations (B, T, H, W)."""
    activations_BTHW, poses = file["activations"], file["poses"]
    batch, types, height, width = activations_BTHW.shape
    side = file["W"].shape[-1]
    return poses.view(batch, types, side, side, height, width), activations_BTHW


def em_weight(file: File) -> Tensor:
    """Matrices (T, P, J, m, m) of a file, whose positions vary slowest; P = 1 if all places share them."""
    W = file["W"]
    types = file["activations"].shape[1]
    return W.reshape(-1, types, PARENTS, *W.shape[-2:]).transpose(0, 1)


def em_votes(file: File, name: str) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Votes (B, L, J, I, E) and activations (B, L, I) of the windows, and the children in them."""
    poses_BTMMHW, activations_BTHW = em_maps(file, name)
    types, height, width = activations_BTHW.shape[1:]
    place_LP = places(height, width, *EM_FILES[name])
    positions = len(place_LP[0])
    weight_TPJMM = em_weight(file).expand(types, positions, *em_weight(file).shape[2:])
    poses_BLIMM = windowed(poses_BTMMHW, place_LP)
    votes_BLJIMM = torch.einsum("blixy,ijyz->bljixz", poses_BLIMM, weight_TPJMM.flatten(0, 1))
    if "coordinates" in name:
        place_P = torch.tensor(place_LP[0])
        row_P, column_P = (place_P // width + 0.5).double() / height, (place_P % width + 0.5).double() / width
        offset_IMM = torch.zeros(types * positions, *votes_BLJIMM.shape[-2:], dtype=torch.float64)
        offset_IMM[:, 0, -1], offset_IMM[:, 1, -1] = row_P.repeat(types), column_P.repeat(types)
        votes_BLJIMM = votes_BLJIMM + offset_IMM
    return votes_BLJIMM.flatten(-2), windowed(activations_BTHW, place_LP), children_of(place_LP, types)


@cache
def em_found(name: str) -> tuple[File, tuple[Tensor, Tensor, Tensor]]:
    """The file and poses (B, L, J, E), activations (B, L, J) and coupling (B, L, J, I) of the loops."""
    file = File(name)
    votes_BLJIE, activations_BLI, child_LI = em_votes(file, name)
    paper = name.startswith("em_paper")
    outputs = em.route_windows(
        scalars(votes_BLJIE, together=2),
        scalars(activations_BLI, together=1),
        child_LI,
        beta_u_J=scalars(file["beta_u"]),
        beta_a_J=scalars(file["beta_a"]),
        iterations=file.iterations,
        inverse_temperature=float(file["final_lambda"]),
        least_variance=0 if paper else 1e-12,
        start="field" if paper else "one",
        over="field" if paper else "window",
    )
    poses_BLJE, active_BLJ, coupling_BLJI = map(stacked, outputs)
    return file, (poses_BLJE, active_BLJ, coupling_BLJI)


def in_order(coupling_BLJI: Tensor, types: int) -> Tensor:
    """(B, L, P, T, J) as the files have it, of children in our order."""
    return coupling_BLJI.unflatten(3, (types, -1)).permute(0, 1, 4, 3, 2)


@pytest.mark.parametrize("name", EM_FILES)
def test_em(name: str) -> None:
    """SR-CapsNet's layer begins with 1, adds 1e-12 to variances, and sums over the parents of a window."""
    file, (poses_BLJE, active_BLJ, coupling_BLJI) = em_found(name)
    types = file["activations"].shape[1]
    ours = in_order(coupling_BLJI, types)
    if name.startswith("em_paper"):
        same(poses_BLJE, file["out_poses"])
        same(active_BLJ, file["out_activations"])
        same(ours, file["assignment"])
        return
    same(poses_BLJE.permute(0, 2, 3, 1), file["out_poses"])
    same(active_BLJ.transpose(1, 2), file["out_activations"])
    place_LP = places(*file["activations"].shape[2:], *EM_FILES[name])
    there_BLPTJ = (torch.tensor(place_LP) >= 0)[None, :, :, None, None].expand_as(ours)
    same(ours[there_BLPTJ], file["assignment"].view_as(ours)[there_BLPTJ])


@pytest.mark.parametrize("name", [name for name in EM_FILES if name.startswith("sr_em")])
def test_em_has_their_gradients(name: str) -> None:
    file, (poses_BLJE, active_BLJ, _) = em_found(name)
    file.check(active_BLJ.transpose(1, 2), poses_BLJE.permute(0, 2, 3, 1))


@pytest.mark.parametrize("name", [name for name in EM_FILES if name.startswith("em_paper")])
def test_assignments_of_a_child_add_up_to_1_over_all_windows(name: str) -> None:
    file, (_, _, coupling_BLJI) = em_found(name)
    _, _, child_LI = em_votes(file, name)
    sums = torch.zeros(2, 1 + max(map(max, child_LI)), dtype=torch.float64)
    sums.index_add_(1, torch.tensor(child_LI).flatten(), coupling_BLJI.sum(2).flatten(1))
    held = sorted({child for row in child_LI for child in row})
    torch.testing.assert_close(sums[:, held], torch.ones(2, len(held), dtype=torch.float64))


# -- variational Bayes ------------------------------------------------------------------------------------------------

VB_FILES = {
    "vb_conv_overlap": 1,
    "vb_conv_stride2": 2,
    "vb_conv_one": 1,
    "vb_conv_train": 1,
    "vb_class_shared_coordinates": 1,
    "vb_class_pose16": 1,
    "vb_class_pose16_clamped": 1,
}
"""Strides; there is no padding."""


def tolerance(name: str) -> float:
    """The code rounds the 0.1 that it adds in place of coordinates to float32."""
    return 1e-8 if "coordinates" in name else 1e-10


@cache
def vb_found(name: str) -> tuple[File, dict[str, Tensor]]:
    """The file, and what the loops give by its names."""
    file = File(name)
    activations_BTHW, weight = file["activations"], file["W"][0, :, :, 0]  # (T, J, m, m, 1, 1, K, K)
    types, height, width = activations_BTHW.shape[1:]
    kernel = 4 if "coordinates" in name else 3
    place_LP = places(height, width, kernel, VB_FILES[name])
    weight_TPJMM = weight[:, :, :, :, 0, 0].flatten(4).permute(0, 4, 1, 2, 3).expand(-1, kernel**2, -1, -1, -1)
    poses_BLIMM = windowed(file["poses"], place_LP)
    votes_BLJIE = torch.einsum("blixy,ijyz->bljixz", poses_BLIMM, weight_TPJMM.flatten(0, 1)).flatten(-2)
    if "coordinates" in name:
        offset_E = torch.tensor([0, 0.1, 0, 0.1], dtype=torch.float32).double()  # a constant: see the folder's page
        votes_BLJIE = votes_BLJIE + offset_E
    fitted = variational_bayes.fit_windows(
        scalars(votes_BLJIE, together=2),
        scalars(windowed(activations_BTHW, place_LP), together=1),
        children_of(place_LP, types),
        beta_u_J=scalars(file["beta_u"]),
        beta_a_J=scalars(file["beta_a"]),
        iterations=file.iterations,
    )
    zeros, ones = (scalars(each(PARENTS, dtype=torch.float64)) for each in (torch.zeros, torch.ones))
    running = None if name == "vb_conv_train" else (zeros, ones)
    poses_BLJE = stacked(variational_bayes.normalised(fitted.means_BLJE, running))
    active_BLJ = stacked(variational_bayes.normalised(fitted.logits_BLJ, running)).sigmoid()
    return file, {
        "posterior_mean": stacked(fitted.means_BLJE).permute(0, 2, 3, 1),
        "logits": stacked(fitted.logits_BLJ).transpose(1, 2),
        "assignment": stacked(fitted.coupling_BLJI).unflatten(3, (types, -1)).permute(0, 3, 2, 1, 4),  # (B, T, J, L, P)
        "out_poses": poses_BLJE.permute(0, 2, 3, 1),
        "out_activations": active_BLJ.transpose(1, 2),
    }


@pytest.mark.parametrize("name", [name for name in VB_FILES if "clamped" not in name])
def test_variational_bayes(name: str) -> None:
    file, found = vb_found(name)
    for key, value in found.items():
        if key == "assignment" and key not in file:
            same(value, torch.full_like(value, 1 / PARENTS))  # the first M step's, which the code does not keep
        else:
            same(value, file[key], tolerance(name))


@pytest.mark.parametrize("name", [name for name in VB_FILES if "clamped" not in name])
def test_variational_bayes_has_their_gradients(name: str) -> None:
    file, found = vb_found(name)
    betas = ("grad_beta_u", "grad_beta_a") if name == "vb_conv_train" else ()
    file.check(found["out_activations"], found["out_poses"], but=betas)
    for key in betas:  # the activations' normalisation takes betas out again: both have roundings of zero
        assert float(file[key].abs().max()) < 1e-14


def test_clamped_densities_are_not_reproduced() -> None:
    """That code exponentiates densities before it normalises them, and all of a child's may vanish."""
    file, found = vb_found("vb_class_pose16_clamped")
    theirs, ours = (each.view(2, 3, PARENTS, 1, 9) for each in (file["assignment"], found["assignment"]))
    assert float(theirs.sum(2).median()) < 1e-30
    torch.testing.assert_close(ours.sum(2), torch.ones_like(ours.sum(2)))
    assert float((found["out_activations"] - file["out_activations"].view(2, PARENTS, 1)).detach().abs().max()) > 1e-3
