"""Dynamic routing against fast inference (Zhao et al. 2019): milliseconds per batch of 1 image and of 128.

Four ways through the class layer, 1152 children of 8 for 10 parents of 16, and through the whole network, 28x28 images
and 256/256 channels without a decoder:

    plain dynamic   votes built by einsum, three iterations on them: the reference of the paper
    our dynamic     the routing of the layer
    plain fast      votes built by einsum, one weighted sum with the master coefficients: the paper's fast inference
    folded          the master multiplied into the weight beforehand: one matrix product

The first table's ratio is the time of plain dynamic over that of the row: for ``plain fast`` it is the comparison of
the paper, loop against weighted sum on the same votes.  Ways alternate, so that a busy machine slows all; times are
medians.  The folded layer must give the poses of the paper's form, and our dynamic those of the plain one, to 1e-5.  If
the extra onnx is installed, the files of the network are timed in onnxruntime too, with the same threads.

    python benchmarks/fast_inference.py [--threads 2] [--seconds 5]
"""

import argparse
import copy
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from capsexp.models.capsnet import CapsNet
from capsexp.nn.capsules import CapsuleLayer, Inference, set_inference
from capsexp.nn.functional import lengths, squash
from capsexp.routing.dynamic import Dynamic
from capsexp.types import RoutingOutput

BATCHES = (1, 128)
SHAPE, PARENTS = (1, 28, 28), 10
CLOSE = 1e-5
Work = Callable[[], object]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5, help="for a way and a size of batch")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    networks = ways()
    with torch.inference_mode():
        for batch in BATCHES:
            poses_BID = squash(torch.randn(batch, 8, 1152), 1).transpose(1, 2)
            layers = {way: network.class_capsules for way, network in networks.items()}
            check({way: layer(poses_BID).poses_BJE for way, layer in layers.items()})
            table("class layer", batch, layers, poses_BID, options.seconds)
        for batch in BATCHES:
            table("CapsNet 256/256", batch, networks, torch.rand(batch, *SHAPE), options.seconds)
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime", "onnxscript")):
        onnx_table({way: networks[way] for way in ("our dynamic", "folded")}, options.seconds)
    else:
        print("onnxruntime: not measured, the extra onnx is not installed")


# -- the ways ---------------------------------------------------------------------------------------------------------


class Plain(nn.Module):
    """The class layer on votes that are built; a loop without masters, one weighted sum with them."""

    def __init__(self, layer: CapsuleLayer, *, loop: bool) -> None:
        super().__init__()
        assert layer.master_JI is not None
        self.weight_IJDE = nn.Parameter(layer.weight.detach().permute(3, 0, 2, 1).contiguous())
        self.master_IJ, self.loop = layer.master_JI.T.contiguous(), loop

    def forward(self, poses_BID: Tensor) -> RoutingOutput:
        """Poses and lengths; couplings are not needed."""
        votes_BIJE = torch.einsum("bid,ijde->bije", poses_BID, self.weight_IJDE)
        poses_BJE = loop(votes_BIJE) if self.loop else weighted_sum(votes_BIJE, self.master_IJ)
        return RoutingOutput(poses_BJE, lengths(poses_BJE), poses_BJE)


def loop(votes_BIJE: Tensor, iterations: int = 3) -> Tensor:
    """Sabour et al. (2017), procedure 1."""
    logits_BIJ = votes_BIJE.new_zeros(votes_BIJE.shape[:3])
    for left in reversed(range(iterations)):
        poses_BJE = squash(torch.einsum("bij,bije->bje", logits_BIJ.softmax(2), votes_BIJE))
        if left:
            logits_BIJ = logits_BIJ + torch.einsum("bije,bje->bij", votes_BIJE, poses_BJE)
    return poses_BJE


def weighted_sum(votes_BIJE: Tensor, master_IJ: Tensor) -> Tensor:
    """Zhao et al. (2019), Fast Routing Procedure."""
    return squash(torch.einsum("ij,bije->bje", master_IJ, votes_BIJE))


def ways() -> dict[str, CapsNet]:
    """The same network by each way."""
    network = CapsNet(image_shape=SHAPE, classes=PARENTS, routing=Dynamic, decoder=None).eval()
    network.class_capsules.set_master(torch.rand(PARENTS, network.class_capsules.weight.shape[3]).softmax(0))
    return {
        "plain dynamic": with_plain(network, loop=True),
        "our dynamic": with_inference(network, "dynamic"),
        "plain fast": with_plain(network, loop=False),
        "folded": with_inference(network, "folded"),
    }


def with_plain(network: CapsNet, *, loop: bool) -> CapsNet:
    """The network with a plain class layer."""
    network = copy.deepcopy(network)
    network.class_capsules = Plain(network.class_capsules, loop=loop)  # type: ignore[assignment]
    return network.eval()


def with_inference(network: CapsNet, inference: Inference) -> CapsNet:
    """The network with one of the layer's ways of inference."""
    network = copy.deepcopy(network)
    set_inference(network, inference)
    return network


def check(poses: Mapping[str, Tensor]) -> None:
    """Print the largest differences between the pairs that must be equal; exit the script if they are not."""
    for ours, plain in (("our dynamic", "plain dynamic"), ("folded", "plain fast")):
        difference = (poses[ours] - poses[plain]).abs().max().item()
        print(f"{ours} and {plain}: poses differ by at most {difference:.1e}")
        if not difference <= CLOSE:
            raise SystemExit(f"error: {ours} and {plain} must give the same poses to {CLOSE:g}")


# -- measuring --------------------------------------------------------------------------------------------------------


def table(what: str, batch: int, modules: Mapping[str, nn.Module], inputs: Tensor, seconds: float) -> None:
    """Times of all ways, and the ratio of the first to each."""
    works = {way: partial(module, inputs) for way, module in modules.items()}
    show(f"{what}, batch {batch}", take_turns(works, seconds))


def show(title: str, times: Mapping[str, float]) -> None:
    """Print a line per way."""
    first = next(iter(times))
    print(f"\n{title:32}{'ms':>10}{'ratio':>8}   ({first} / this)")
    for way, milliseconds in times.items():
        print(f"  {way:30}{milliseconds:10.3f}{times[first] / milliseconds:8.2f}", flush=True)


def take_turns(works: Mapping[str, Work], seconds: float) -> dict[str, float]:
    """Median milliseconds of each."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values():
        work()  # a warm-up for one-time work
    until = time.perf_counter() + seconds * len(works)
    while time.perf_counter() < until or len(times[next(iter(works))]) < 3:
        for name, work in works.items():
            started = time.perf_counter()
            work()
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: statistics.median(found) for name, found in times.items()}


def onnx_table(networks: Mapping[str, nn.Module], seconds: float) -> None:
    """The times of the networks' files in onnxruntime, next to those of torch."""
    import onnxruntime

    from capsexp.export.file import export

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        paths = {way: export(net, Path(folder) / f"{way}.onnx", SHAPE).path for way, net in networks.items()}
        sessions = {way: onnxruntime.InferenceSession(path, options) for way, path in paths.items()}
    for batch in BATCHES:
        feed = {"images": torch.rand(batch, *SHAPE).numpy()}
        works = {way: partial(session.run, None, feed) for way, session in sessions.items()}
        show(f"onnxruntime, 256/256, batch {batch}", take_turns(works, seconds))


if __name__ == "__main__":
    main()
