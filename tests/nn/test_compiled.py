"""A capsule layer under torch.compile: one graph, the same numbers."""

import pytest
import torch
from torch import Tensor

from capsexp.nn.capsules import ClassCapsules
from capsexp.routing.max_min import MaxMin


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler, of itself
@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_one_graph_and_the_same_numbers() -> None:
    torch.manual_seed(0)
    layer = ClassCapsules(12, 3, 4, 5, MaxMin)
    poses_BID = torch.randn(2, 12, 4)
    found: list[list[Tensor]] = []
    for run in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        layer.zero_grad()
        poses_BJE = run(poses_BID).poses_BJE
        poses_BJE.square().sum().backward()
        assert layer.weight.grad is not None
        found.append([poses_BJE.detach(), layer.weight.grad.clone()])
    torch.testing.assert_close(*found)
