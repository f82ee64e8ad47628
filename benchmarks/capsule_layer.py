"""Time and memory of the capsule layers, against plain PyTorch that builds every vote.

Class layer: 1152 children of 8 for 10 parents of 16, batch 128, 3 iterations, float32.  Its references keep the votes
as one tensor under autograd: ``einsum`` is the best plain form, ``broadcast`` the multiply-and-sum of most public code.
The folded fixed coupling has no loop; its reference is dynamic routing by einsum.  Windows: 16 types of 16 for 16 types
of 16 on 8x8 positions, kernel 3, padding 1, batch 8; the reference is F.unfold and broadcast matrix products.  CapsNet:
28x28 images, 256/256 channels, no decoder, batch 128; the reference is the same network with the einsum layer.

Reference and layer alternate, so that a busy machine slows both; times are minima, and the last column is the ratio of
the medians.  Last come training steps of the class layer and of the windows with one thread and with several, which
alternate, too: median and range of at least ten.  A training step is forward, sum of squares, backward.  Saved is the
memory that autograd holds between the two passes, each piece counted once, without parameters on both sides.  Threads
wait as in the commands: asleep, unless OMP_WAIT_POLICY says otherwise.

    python benchmarks/capsule_layer.py [--threads 2] [--seconds 5]
"""

import argparse
import copy
import os
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

from capsexp import hardware

os.environ.update({**hardware.WAITING, **os.environ})  # before torch is loaded

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from turns import Work, take_turns

from capsexp.models.capsnet import CapsNet
from capsexp.nn.capsules import CapsuleLayer, ClassCapsules, ConvCapsules
from capsexp.nn.functional import lengths, squash
from capsexp.nn.votes import LinearVotes
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.fixed import Fixed
from capsexp.routing.max_min import MaxMin
from capsexp.routing.uniform import Uniform
from capsexp.types import RoutingOutput

BATCH, CHILDREN, DIM_IN, PARENTS, DIM_OUT = 128, 1152, 8, 10, 16
SIZES = (CHILDREN, PARENTS, DIM_IN, DIM_OUT)
Forward = Callable[[], Tensor]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="for a row of times")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{'layer':34}{'reference':11}{'what':15}{'reference':>10}{'ours':>10}{'ratio':>8}{'(medians)':>11}")
    class_rows(options.seconds)
    window_rows(options.seconds)
    network_rows(options.seconds)
    thread_rows(options.threads, options.seconds)


# -- references -------------------------------------------------------------------------------------------------------


def softmax(logits_BIJ: Tensor) -> Tensor:
    """Couplings of dynamic routing."""
    return logits_BIJ.softmax(2)


def max_min(logits_BIJ: Tensor) -> Tensor:
    """Couplings of max-min routing; ones before the loop."""
    least, most = logits_BIJ.amin(2, keepdim=True), logits_BIJ.amax(2, keepdim=True)
    return torch.where(most > least, (logits_BIJ - least) / (most - least).clamp_min(1e-30), 1.0)


def route_einsum(votes_BIJE: Tensor, couple: Callable[[Tensor], Tensor] = softmax, iterations: int = 3) -> Tensor:
    """Routing by agreement on votes that are built."""
    logits_BIJ = votes_BIJE.new_zeros(votes_BIJE.shape[:3])
    for left in reversed(range(iterations)):
        parents_BJE = squash(torch.einsum("bij,bije->bje", couple(logits_BIJ), votes_BIJE))
        if left:
            logits_BIJ = logits_BIJ + torch.einsum("bije,bje->bij", votes_BIJE, parents_BJE)
    return parents_BJE


def route_broadcast(votes_BIJE: Tensor, iterations: int = 3) -> Tensor:
    """The same by broadcast products and sums."""
    logits_BIJ = votes_BIJE.new_zeros(votes_BIJE.shape[:3])
    for left in reversed(range(iterations)):
        parents_BJE = squash((softmax(logits_BIJ)[..., None] * votes_BIJE).sum(1))
        if left:
            logits_BIJ = logits_BIJ + (votes_BIJE * parents_BJE[:, None]).sum(3)
    return parents_BJE


def einsum_layer(poses_BID: Tensor, weight_IJDE: Tensor, **options: Any) -> Tensor:
    """The output of routing for votes by einsum."""
    return route_einsum(torch.einsum("bid,ijde->bije", poses_BID, weight_IJDE), **options)


def broadcast_layer(poses_BID: Tensor, weight_IJDE: Tensor) -> Tensor:
    """The output of routing for votes by multiplication and sum."""
    return route_broadcast((weight_IJDE[None] * poses_BID[:, :, None, :, None]).sum(3))


def unfold_layer(poses_BTDHW: Tensor, weight_IJED: Tensor) -> Tensor:
    """The output of routing for windows by F.unfold and votes by broadcast matrix products."""
    batch, types, dim = poses_BTDHW.shape[:3]
    columns = F.unfold(poses_BTDHW.flatten(1, 2), 3, padding=1).view(batch, types, dim, 9, -1)
    windows_BID = columns.permute(0, 4, 1, 3, 2).reshape(-1, types * 9, dim)
    return route_einsum((weight_IJED @ windows_BID[:, :, None, :, None]).squeeze(4))


class EinsumCapsules(nn.Module):
    """The class layer by einsum, a replacement of ClassCapsules."""

    def __init__(self, layer: CapsuleLayer) -> None:
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().permute(3, 0, 2, 1).contiguous())

    def forward(self, poses_BID: Tensor) -> RoutingOutput:
        """Poses and lengths; couplings are not needed."""
        poses_BJE = einsum_layer(poses_BID, self.weight)
        return RoutingOutput(poses_BJE, lengths(poses_BJE), poses_BJE)


# -- rows of the table ------------------------------------------------------------------------------------------------


def class_rows(seconds: float) -> None:
    """The class layer with each routing."""
    layer = ClassCapsules(*SIZES, Dynamic)
    poses = squash(torch.randn(BATCH, DIM_IN, CHILDREN), 1).transpose(1, 2).requires_grad_()
    plain = poses.detach().contiguous().requires_grad_()  # each side has its fastest layout
    weight = nn.Parameter(layer.weight.detach().permute(3, 0, 2, 1).contiguous())
    dynamic = partial(einsum_layer, plain, weight)
    compare("class, dynamic, factored", "einsum", dynamic, partial(routed, layer, poses, "factored"), seconds)
    slow = partial(broadcast_layer, plain, weight)
    compare("class, dynamic, factored", "broadcast", slow, partial(routed, layer, poses, "factored"), seconds)
    compare("class, dynamic, materialised", "einsum", dynamic, partial(routed, layer, poses, "materialised"), seconds)
    layer = ClassCapsules(*SIZES, MaxMin)
    compare("class, max_min", "einsum", partial(dynamic, couple=max_min), partial(output, layer, poses), seconds)
    layer = ClassCapsules(*SIZES, Uniform)
    compare("class, uniform", "einsum", partial(dynamic, iterations=1), partial(output, layer, poses), seconds)
    layer = ClassCapsules(*SIZES, Fixed).eval()
    row(
        "class, fixed, folded",
        "einsum",
        "inference ms",
        inference(dynamic),
        inference(partial(output, layer, poses)),
        seconds,
    )


def window_rows(seconds: float) -> None:
    """The convolutional layer."""
    layer = ConvCapsules(16, 16, 16, 16, Dynamic)
    poses = squash(torch.randn(8, 16, 16, 8, 8), 2).requires_grad_()
    weight = nn.Parameter(layer.weight.detach().permute(3, 0, 1, 2).contiguous())
    compare("windows, dynamic", "unfold", partial(unfold_layer, poses, weight), partial(output, layer, poses), seconds)


def network_rows(seconds: float) -> None:
    """A whole network, and the share of the capsule layer in its time."""
    ours = CapsNet(image_shape=(1, 28, 28), classes=PARENTS, routing=Dynamic, decoder=None)
    plain = copy.deepcopy(ours)
    plain.class_capsules = EinsumCapsules(ours.class_capsules)  # type: ignore[assignment]
    images, poses = torch.rand(BATCH, 1, 28, 28), torch.rand(BATCH, DIM_IN, CHILDREN).transpose(1, 2).requires_grad_()
    for what, way in (("inference ms", inference), ("training ms", training)):
        nets = [way(partial(net, images)) for net in (plain, ours)]
        whole = row("CapsNet 28x28 256/256", "einsum", what, *nets, seconds)
        layers = take_turns(*(way(partial(output, net.class_capsules, poses)) for net in (plain, ours)), seconds / 3)
        shares = [100 * min(alone) / total for alone, total in zip(layers, whole, strict=True)]
        print(f"{'  of it the capsule layer, %':60}{shares[0]:10.0f}{shares[1]:10.0f}", flush=True)


def thread_rows(threads: int, seconds: float) -> None:
    """The training step of both layers with one thread and with several."""
    layer, windows = ClassCapsules(*SIZES, Dynamic), ConvCapsules(16, 16, 16, 16, Dynamic)
    poses = squash(torch.randn(BATCH, DIM_IN, CHILDREN), 1).transpose(1, 2).requires_grad_()
    maps = squash(torch.randn(8, 16, 16, 8, 8), 2).requires_grad_()
    for name, forward in (("class", partial(output, layer, poses)), ("windows", partial(output, windows, maps))):
        alone, together = take_turns(*(with_threads(count, training(forward)) for count in (1, threads)), seconds, 10)
        for count, times in ((1, alone), (threads, together)):
            words = f"{statistics.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f}, {len(times)} steps)"
            print(f"{name}, dynamic, training step, threads: {count}: {words}", flush=True)
    torch.set_num_threads(threads)


def with_threads(count: int, work: Work) -> Work:
    """The same with so many threads."""

    def counted() -> None:
        torch.set_num_threads(count)
        work()

    return counted


def routed(layer: CapsuleLayer, poses_BID: Tensor, form: Any) -> Tensor:
    """The poses of the layer in one of the two forms."""
    return output(layer.routing, LinearVotes(poses_BID, layer.weight, form=form))


def output(layer: nn.Module, poses: Any) -> Tensor:
    """The poses."""
    poses_BJE: Tensor = layer(poses).poses_BJE
    return poses_BJE


# -- measuring --------------------------------------------------------------------------------------------------------


def compare(layer: str, name: str, reference: Forward, ours: Forward, seconds: float) -> None:
    """Rows for inference, a training step, and the memory between its passes."""
    row(layer, name, "inference ms", inference(reference), inference(ours), seconds)
    row(layer, name, "training ms", training(reference), training(ours), seconds)
    first, second = saved(reference), saved(ours)
    print(f"{layer:34}{name:11}{'saved MB':15}{first:10.1f}{second:10.1f}{first / second:8.2f}", flush=True)


def row(layer: str, name: str, what: str, reference: Work, ours: Work, seconds: float) -> tuple[float, float]:
    """Print one row of times, and return the two minima."""
    references, layers = take_turns(reference, ours, seconds)
    first, second = min(references), min(layers)
    medians = statistics.median(references) / statistics.median(layers)
    print(f"{layer:34}{name:11}{what:15}{first:10.2f}{second:10.2f}{first / second:8.2f}{medians:11.2f}", flush=True)
    return first, second


def inference(forward: Forward) -> Work:
    """The forward pass alone."""

    def work() -> None:
        with torch.inference_mode():
            forward()

    return work


def training(forward: Forward) -> Work:
    """Forward and backward; both sides accumulate gradients."""
    return lambda: forward().square().sum().backward()


def saved(forward: Forward) -> float:
    """MB (10^6 bytes) that autograd holds after the forward pass, without parameters."""
    held: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor if tensor._base is None else tensor._base, nn.Parameter):
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = forward()  # kept alive, so that no memory is reused
    del alive
    return sum(held.values()) / 1e6


if __name__ == "__main__":
    main()
