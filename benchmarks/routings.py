"""Time and memory of routings, against plain PyTorch that builds every vote by einsum.

Class layer: 1152 children of 8 for 10 parents of 16, batch 128, float32; a quarter as many of 16 for matrix
poses.  Windows: 16 types of 16 for 16 types of 16 on 8x8 positions, kernel 3, padding 1, batch 8.  The references keep
the votes as one tensor under autograd, as public code does.  Both sides have the same parameters and give the same
poses, which is checked first.  Reference and layer alternate, so that a busy machine slows both; times are minima, and
the last column is the ratio of the medians.  Saved is the memory that autograd holds between the two passes.

    python benchmarks/routings.py [--threads 1] [--seconds 5] [--only self_routing]
"""

import argparse
import math
import os
from collections.abc import Callable
from typing import Any

from capsexp import hardware

os.environ.update({**hardware.WAITING, **os.environ})  # before torch is loaded

import torch
import torch.nn.functional as F
from capsule_layer import compare
from torch import Tensor, nn

from capsexp.nn.capsules import CapsuleLayer, ClassCapsules, ConvCapsules
from capsexp.nn.functional import squash, squash_exponential
from capsexp.routing import EM, InvertedAttention, Optimised, SelfAttention, SelfRouting, VariationalBayes
from capsexp.types import Capsules

BATCH = 128
SHAPES = {"class": (1152, 10, 8, 16), "class, matrix poses": (288, 10, 16, 16)}
"""Children, parents, D and E."""

Plain = Callable[[Tensor, Tensor, Tensor, nn.Module], Tensor]
"""Poses from votes (B, I, J, E), the children's poses and activations, and our routing, for its parameters."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="for a row of times")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=ROUTINGS, help="one of the routings")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{'layer':34}{'reference':11}{'what':15}{'reference':>10}{'ours':>10}{'ratio':>8}{'(medians)':>11}")
    for name, (make, plain) in ROUTINGS.items():
        if options.only in (None, name):
            class_rows(name, "class", make, plain, options.seconds)
            window_rows(name, make, plain, options.seconds)
            if name in MATRIX:
                class_rows(name, "class, matrix poses", make, plain, options.seconds)
                window_rows(name, make, plain, options.seconds, matrix=True)


# -- references -------------------------------------------------------------------------------------------------------


def self_routing(votes_BIJE: Tensor, poses_BID: Tensor, activations_BI: Tensor, routing: Any) -> Tensor:
    """Softmax of a linear map of each pose, weighted mean of the votes."""
    logits_BIJ = torch.einsum("bid,jdi->bij", poses_BID, routing.weight_JDI) + routing.bias_JI.T
    taken_BIJ = logits_BIJ.softmax(2) * activations_BI[..., None]
    return torch.einsum("bij,bije->bje", taken_BIJ, votes_BIJE) / taken_BIJ.sum(1)[..., None]


def self_attention(votes_BIJE: Tensor, poses_BID: Tensor, activations_BI: Tensor, routing: Any) -> Tensor:
    """Efficient-CapsNet with the sum of the votes in place of the Gram matrix, which would not fit."""
    logits_BIJ = torch.einsum("bije,bje->bij", votes_BIJE, votes_BIJE.sum(1)) / math.sqrt(votes_BIJE.shape[3])
    weights_BIJ = logits_BIJ.softmax(2) + routing.prior_JI.T
    return squash_exponential(torch.einsum("bij,bije->bje", weights_BIJ, votes_BIJE))


def inverted_attention(votes_BIJE: Tensor, poses_BID: Tensor, activations_BI: Tensor, routing: Any) -> Tensor:
    """Rounds of softmax, sum and layer normalisation."""
    coupling_BIJ = votes_BIJE.new_full(votes_BIJE.shape[:3], 1 / votes_BIJE.shape[2])
    for left in reversed(range(routing.iterations)):
        parents_BJE = routing.finish(torch.einsum("bij,bije->bje", coupling_BIJ, votes_BIJE))
        if left:
            logits_BIJ = torch.einsum("bije,bje->bij", votes_BIJE, parents_BJE) / math.sqrt(votes_BIJE.shape[3])
            coupling_BIJ = logits_BIJ.softmax(2)
    return parents_BJE


def optimised(votes_BIJE: Tensor, poses_BID: Tensor, activations_BI: Tensor, routing: Any) -> Tensor:
    """Rounds of unit vectors and softmax."""
    coupling_BIJ = votes_BIJE.new_full(votes_BIJE.shape[:3], 1 / votes_BIJE.shape[2])
    for left in reversed(range(routing.iterations)):
        sums_BJE = torch.einsum("bij,bije->bje", coupling_BIJ, votes_BIJE)
        if left:
            units_BJE = F.normalize(sums_BJE, dim=2)
            coupling_BIJ = (torch.einsum("bije,bje->bij", votes_BIJE, units_BJE) / routing.alpha).softmax(2)
    return sums_BJE / (1 + coupling_BIJ.amax(1)[..., None])


def em(votes_BIJE: Tensor, poses_BID: Tensor, activations_BI: Tensor, routing: Any) -> Tensor:
    """M and E steps on built votes; assignments over all windows that hold a child, from exponentials."""
    share_BIJ = 1 / (votes_BIJE.shape[2] * window_counts(votes_BIJE)[..., None]).expand(votes_BIJE.shape[:3])
    for number in range(1, routing.iterations + 1):
        taken_BIJ = share_BIJ * activations_BI[..., None]
        amount_BJ = taken_BIJ.sum(1)
        weights_BIJ = taken_BIJ / amount_BJ[:, None]
        mean_BJE = (weights_BIJ[..., None] * votes_BIJE).sum(1)
        squares_BIJE = (votes_BIJE - mean_BJE[:, None]) ** 2
        variance_BJE = (weights_BIJ[..., None] * squares_BIJE).sum(1) + routing.least_variance
        cost_BJ = amount_BJ * (routing.beta_u_J[:, None] + 0.5 * variance_BJE.log()).sum(2)
        logits_BJ = routing.inverse_temperature * (1 - 0.95**number) * (routing.beta_a_J - cost_BJ)
        if number < routing.iterations:
            densities_BIJ = -0.5 * (squares_BIJE / variance_BJE[:, None] + (2 * math.pi * variance_BJE[:, None]).log())
            share_BIJ = shares_of(F.logsigmoid(logits_BJ)[:, None] + densities_BIJ.sum(3))
    return torch.cat([mean_BJE, logits_BJ.sigmoid()[..., None]], 2)


def variational_bayes(votes_BIJE: Tensor, poses_BID: Tensor, activations_BI: Tensor, routing: Any) -> Tensor:
    """M and E steps with priors on built votes, with a digamma for each component, as the authors' code."""
    dim = votes_BIJE.shape[3]
    share_BIJ = votes_BIJE.new_full(votes_BIJE.shape[:3], 1 / votes_BIJE.shape[2])
    steps = torch.arange(1, dim + 1, dtype=votes_BIJE.dtype)
    for left in reversed(range(routing.iterations)):
        taken_BIJ = share_BIJ * activations_BI[..., None]
        kappa_BJ = 1 + taken_BIJ.sum(1)
        first_BJE = (taken_BIJ[..., None] * votes_BIJE).sum(1) / (kappa_BJ - 1)[..., None]
        mean_BJE = first_BJE * ((kappa_BJ - 1) / kappa_BJ)[..., None]
        width_BJE = 1 + (taken_BIJ[..., None] * (votes_BIJE - first_BJE[:, None]) ** 2).sum(1)
        width_BJE = width_BJE + ((kappa_BJ - 1) / kappa_BJ)[..., None] * first_BJE**2
        log_det_BJ = ((kappa_BJ[..., None] + dim + 1 - steps) / 2).digamma().sum(2) + dim * math.log(2)
        log_det_BJ = log_det_BJ - width_BJE.log().sum(2)
        log_pi_BJ = kappa_BJ.digamma() - kappa_BJ.sum(1, keepdim=True).digamma()
        if left:
            away_BIJ = ((votes_BIJE - mean_BJE[:, None]) ** 2 / width_BJE[:, None]).sum(3)
            above_BJ = log_pi_BJ + 0.5 * (log_det_BJ - dim / kappa_BJ)
            share_BIJ = shares_of(above_BJ[:, None] - 0.5 * (kappa_BJ + dim)[:, None] * away_BIJ)
    entropy_BJ = 0.5 * (dim * math.log(2 * math.pi * math.e) - log_det_BJ)
    logits_BJ = routing.beta_a_J - (log_pi_BJ.exp() * entropy_BJ + routing.beta_u_J)
    activations_BJ = routing.activation_norm(logits_BJ).sigmoid()
    return torch.cat([routing.finish(mean_BJE), activations_BJ[..., None]], 2)


def shares_of(logits_BIJ: Tensor) -> Tensor:
    """Softmax over the parents, in a class layer, or over those of all windows that hold a child."""
    if logits_BIJ.shape[0] == BATCH:
        return logits_BIJ.softmax(2)
    _, children, parents = logits_BIJ.shape
    raised = (logits_BIJ - logits_BIJ.detach().amax(2, keepdim=True)).exp()
    place_X = window_places()
    by_place = raised.view(8, 64, 16, 9, parents).permute(0, 2, 1, 3, 4).reshape(8, 16, -1, parents)
    largest = logits_BIJ.detach().amax(2).view(8, 64, 16, 9).permute(0, 2, 1, 3).reshape(8, 16, -1)
    index = place_X.expand_as(largest)
    top = largest.new_full((8, 16, 65), -1e30).scatter_reduce(2, index, largest, "amax")
    by_place = by_place * (largest - top.gather(2, index)).exp()[..., None]
    sums = largest.new_zeros(8, 16, 65).scatter_add(2, index, by_place.sum(3))
    shares = by_place / sums.gather(2, index)[..., None]
    return shares.view(8, 16, 64, 9, parents).permute(0, 2, 1, 3, 4).reshape(512, children, parents)


def window_places() -> Tensor:
    """The place at each position of each window on 8x8 places; 64 in the padding."""
    numbers = F.pad(torch.arange(64.0).view(1, 1, 8, 8), [1] * 4, value=64)
    return F.unfold(numbers, 3)[0].T.flatten().long()


def window_counts(votes_BIJE: Tensor) -> Tensor:
    """The number of windows that hold each child: 1 in a class layer."""
    if votes_BIJE.shape[0] == BATCH:
        return votes_BIJE.new_ones(votes_BIJE.shape[:2])
    place_X = window_places()
    counts = torch.bincount(place_X, minlength=65)[place_X].view(64, 9)
    return counts.repeat(8, 16).to(votes_BIJE)


ROUTINGS: dict[str, tuple[Any, Plain]] = {
    "self_routing": (SelfRouting, self_routing),
    "self_attention": (SelfAttention, self_attention),
    "inverted_attention": (InvertedAttention, inverted_attention),
    "optimised": (Optimised, optimised),
    "em": (EM, em),
    "variational_bayes": (VariationalBayes, variational_bayes),
}
MATRIX = ("inverted_attention", "em", "variational_bayes")
"""Algorithms whose authors' poses are matrices."""
WITH_ACTIVATIONS = ("em", "variational_bayes")
"""Algorithms whose reference gives the activations too, as one more component."""


# -- rows of the table ------------------------------------------------------------------------------------------------


def class_rows(name: str, shape: str, make: Any, plain: Plain, seconds: float) -> None:
    """The class layer."""
    children, parents, dim_in, dim_out = SHAPES[shape]
    layer = drawn(ClassCapsules(children, parents, dim_in, dim_out, make, matrix="matrix" in shape))
    poses = squash(torch.randn(BATCH, dim_in, children), 1).transpose(1, 2).requires_grad_()
    activations = torch.rand(BATCH, children).requires_grad_()
    weight = nn.Parameter(layer.weight.detach().permute(3, 0, 2, 1).contiguous())
    theirs = poses.detach().contiguous().requires_grad_()  # each side has its fastest layout

    def reference() -> Tensor:
        return plain(votes_of(theirs, weight, layer), theirs, activations, layer.routing)

    def ours() -> Tensor:
        made = layer(Capsules(poses, activations))
        both = torch.cat([made.poses_BJE, made.activations_BJ[..., None]], 2)
        return both if name in WITH_ACTIVATIONS else made.poses_BJE

    torch.testing.assert_close(ours(), reference(), rtol=1e-3, atol=2e-3 if name in WITH_ACTIVATIONS else 1e-4)
    compare(f"{name}, {shape}", "einsum", reference, ours, seconds)


def window_rows(name: str, make: Any, plain: Plain, seconds: float, *, matrix: bool = False) -> None:
    """The convolutional layer."""
    layer = drawn(ConvCapsules(16, 16, 16, 16, make, matrix=matrix))
    poses = squash(torch.randn(8, 16, 16, 8, 8), 2).requires_grad_()
    activations = torch.rand(8, 16, 8, 8).requires_grad_()
    weight = nn.Parameter(layer.weight.detach().permute(3, 0, 2, 1).contiguous())

    def reference() -> Tensor:
        columns = F.unfold(poses.flatten(1, 2), 3, padding=1).view(8, 16, 16, 9, -1)
        windows_BID = columns.permute(0, 4, 1, 3, 2).reshape(-1, 144, 16)
        active_BI = F.unfold(activations, 3, padding=1).transpose(1, 2).reshape(-1, 144)
        return plain(votes_of(windows_BID, weight, layer), windows_BID, active_BI, layer.routing)

    def ours() -> Tensor:
        made = layer(Capsules(poses, activations))
        both = torch.cat([made.poses_BJE, made.activations_BJ[:, :, None]], 2)
        return (both if name in WITH_ACTIVATIONS else made.poses_BJE).flatten(3).permute(0, 3, 1, 2).flatten(0, 1)

    torch.testing.assert_close(ours(), reference(), rtol=1e-3, atol=2e-3 if name in WITH_ACTIVATIONS else 1e-4)
    compare(f"{name}, windows{', matrix poses' * matrix}", "unfold", reference, ours, seconds)


def votes_of(poses_BID: Tensor, weight_IJDE: Tensor, layer: CapsuleLayer) -> Tensor:
    """All votes (B, I, J, E) as one tensor."""
    if not layer.matrix:
        return torch.einsum("bid,ijde->bije", poses_BID, weight_IJDE)
    side = weight_IJDE.shape[2]
    matrices_BIRD = poses_BID.unflatten(2, (side, side))
    return torch.einsum("bird,ijde->bijre", matrices_BIRD, weight_IJDE).flatten(3)


def drawn(layer: CapsuleLayer) -> CapsuleLayer:
    """The layer with numbers of its own that matter."""
    with torch.no_grad():
        for parameter in layer.routing.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


if __name__ == "__main__":
    main()
