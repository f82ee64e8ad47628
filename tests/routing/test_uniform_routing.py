import torch

from capsexp.nn.functional import squash
from capsexp.nn.votes import GivenVotes
from capsexp.routing.dynamic import Dynamic
from capsexp.routing.uniform import Uniform

SIZES = {"children": 4, "parents": 3, "dim_in": 5, "dim_out": 2}


def votes() -> GivenVotes:
    return GivenVotes(torch.randn(2, 3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def test_every_parent_has_the_same_share() -> None:
    output = Uniform(**SIZES)(votes())
    assert (output.coupling_BJI == 1 / 3).all()
    torch.testing.assert_close(output.poses_BJE, squash(votes().materialise().sum(3) / 3), rtol=1e-14, atol=1e-14)


def test_is_what_dynamic_routing_begins_with() -> None:
    for found, expected in zip(Uniform(**SIZES)(votes()), Dynamic(**SIZES, iterations=1)(votes()), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)


def test_iterations_and_gradient_have_no_effect() -> None:
    expected = Uniform(**SIZES)(votes())
    for found, part in zip(Uniform(**SIZES, iterations=3, gradient="last")(votes()), expected, strict=True):
        assert torch.equal(found, part)
