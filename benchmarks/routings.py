"""Time and memory of the routings without a loop of logits, against plain PyTorch that builds every vote by einsum.

Class layer: 1152 children of 8 for 10 parents of 16, batch 128, float32; children of 16 and 9-fold fewer for matrix
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
from capsexp.routing import InvertedAttention, Optimised, SelfAttention, SelfRouting
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
            if name == "inverted_attention":
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


ROUTINGS: dict[str, tuple[Any, Plain]] = {
    "self_routing": (SelfRouting, self_routing),
    "self_attention": (SelfAttention, self_attention),
    "inverted_attention": (InvertedAttention, inverted_attention),
    "optimised": (Optimised, optimised),
}


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
        made: Tensor = layer(Capsules(poses, activations)).poses_BJE
        return made

    torch.testing.assert_close(ours(), reference(), rtol=1e-3, atol=1e-4)
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
        made: Tensor = layer(Capsules(poses, activations)).poses_BJE
        return made.flatten(3).permute(0, 3, 1, 2).flatten(0, 1)

    torch.testing.assert_close(ours(), reference(), rtol=1e-3, atol=1e-4)
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
