"""What every routing algorithm in ``conf/routing`` owes, whoever wrote it, by what its class declares.

A new one also needs its nested loops in ``tests/references``, under the name of its file.
"""

import importlib
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

from capsexp import resolvers
from capsexp.errors import ConfigError
from capsexp.lightning_modules.capsnet import check_loss
from capsexp.nn.finish import Squash
from capsexp.nn.functional import SQUASHES
from capsexp.nn.votes import GivenVotes, LinearVotes, Votes
from capsexp.routing.base import Routing
from capsexp.types import RoutingOutput
from tests.references.votes import scalars, stacked, votes

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "conf" / "routing"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
B, I, J, D, E = 3, 5, 4, 3, 2  # noqa: E741 - the legend's letter for children
FORMS = ("factored", "materialised")


def options_of(name: str) -> dict[str, Any]:
    config: Any = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))
    return {key: value for key, value in config.items() if not key.startswith("_")}


def build(name: str, children: int = I, parents: int = J, dim_in: int = D, dim_out: int = E, **options: Any) -> Routing:
    """The routing as a layer makes it, in float64, its own numbers drawn anew where it has any."""
    config = OmegaConf.merge(OmegaConf.load(FOLDER / f"{name}.yaml"), options)
    routing = instantiate(config)(children=children, parents=parents, dim_in=dim_in, dim_out=dim_out)
    assert isinstance(routing, Routing)
    generator = torch.Generator().manual_seed(5)
    for value in routing.state_dict().values():
        value.copy_(torch.rand(value.shape, generator=generator))
    return routing.double()


def activations(batch: int = B, children: int = I) -> Tensor:
    """Activations of the children that have nothing to do with the lengths of their poses, wanting a gradient."""
    generator = torch.Generator().manual_seed(9)
    return torch.rand(batch, children, generator=generator, dtype=torch.float64).requires_grad_()


def route(routing: Routing, votes_: Votes, activations_BI: Tensor | None = None) -> RoutingOutput:
    """What the algorithm makes of votes, with activations if it needs them."""
    if not routing.needs_activations:
        return cast("RoutingOutput", routing(votes_))
    given_BI = activations(votes_.shape[0], votes_.shape[3]) if activations_BI is None else activations_BI
    return cast("RoutingOutput", routing(votes_, given_BI.to(next(iter(routing.parameters()), given_BI).dtype)))


def draw(batch: int = B, children: int = I, parents: int = J, dim_in: int = D, dim_out: int = E) -> list[Tensor]:
    """Poses (B, I, D) and a weight (J, E, D, I), both wanting a gradient."""
    generator = torch.Generator().manual_seed(0)
    shapes = (batch, children, dim_in), (parents, dim_out, dim_in, children)
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [each.requires_grad_() for each in made]


def linear(form: str) -> Callable[[Tensor, Tensor], Votes]:
    return lambda poses_BID, weight_JEDI: LinearVotes(poses_BID, weight_JEDI, form=form)  # type: ignore[arg-type]


def given(poses_BID: Tensor, weight_JEDI: Tensor) -> Votes:
    return GivenVotes(torch.einsum("bid,jedi->bjei", poses_BID, weight_JEDI), poses_BID=poses_BID)


MAKERS = {"factored": linear("factored"), "materialised": linear("materialised"), "given": given}


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[Tensor, Tensor], Votes]:
    return MAKERS[request.param]


def test_there_are_routings() -> None:
    assert {"dynamic", "max_min", "uniform", "fixed"} <= set(NAMES)


def test_routing_compare_goes_over_it_with_a_loss_that_fits(name: str) -> None:
    if name == "fixed":
        return  # it has a matrix, and no keys of a loop
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "conf")):
        chosen = [f"routing={name}", "routing.iterations=2", "routing.gradient=last"]
        config = compose("config", ["+experiment=routing_compare", *chosen])
    model: Any = OmegaConf.to_container(config.model, resolve=True)
    loss = model.pop("module")["loss"]
    check_loss(instantiate(model, image_shape=(1, 28, 28), classes=3), loss)


WITH_SQUASH = [name for name in NAMES if "squash" in options_of(name)]


# -- against the nested loops -----------------------------------------------------------------------------------------


class Found(NamedTuple):
    poses_BJE: Tensor
    activations_BJ: Tensor
    coupling_BJI: Tensor
    grad_poses_BID: Tensor
    grad_weight_JEDI: Tensor
    grad_activations_BI: Tensor | None


def judged(output: RoutingOutput) -> Tensor:
    """A sum that weights all numbers of an output differently, the coupling's included."""
    loss = torch.zeros((), dtype=torch.float64)
    for number, part in enumerate(output):
        if part.requires_grad:
            loss = loss + (part * torch.linspace(number, 1, part.numel(), dtype=part.dtype).view_as(part)).sum()
    return loss


def differentiated(output: RoutingOutput, *inputs: Tensor) -> Found:
    """The output with the gradients of :func:`judged` by poses, weight and, where they are used, activations."""
    *grads, last = torch.autograd.grad(judged(output), inputs, allow_unused=True)
    return Found(*(part.detach() for part in output), *cast("list[Tensor]", grads), last)


def cases() -> list[Any]:
    """Every algorithm with each number of iterations and each gradient, as far as it has these options."""
    found = []
    for each in NAMES:
        options = options_of(each)
        iterations = (1, 2, 3, 4) if "iterations" in options else (None,)
        gradients = ("full", "last") if "gradient" in options else (None,)
        for chosen in product(iterations, gradients):
            given_options = dict(zip(("iterations", "gradient"), chosen, strict=True))
            kept = tuple((key, value) for key, value in given_options.items() if value is not None)
            found.append(pytest.param(each, kept, id="-".join(map(str, (each, *(value for _, value in kept))))))
    return found


FINISH = ("bias", "epsilon")
"""Options of the squash, which tests/nn/test_finish.py compares with numbers worked out there."""


@cache
def reference(name: str, changed: tuple[tuple[str, Any], ...]) -> Found:
    """The nested loops of an algorithm; they give its activations too, unless these are lengths."""
    module = importlib.import_module(f"tests.references.{name}")
    routing, given_BI = build(name, **dict(changed)), activations(batch=2)
    own = {key: scalars(value) for key, value in routing.state_dict().items() if value.dim()}
    poses_BID, weight_JEDI = draw(batch=2)
    if routing.needs_activations:
        own |= {"activations_BI": scalars(given_BI), "poses_BID": scalars(poses_BID)}
    options = {key: value for key, value in (options_of(name) | dict(changed)).items() if key not in FINISH}
    votes_BJIE = votes(scalars(poses_BID), scalars(weight_JEDI.permute(0, 3, 1, 2)))
    poses_BJE, *more = map(stacked, module.route(votes_BJIE, **options, **own))
    activations_BJ, coupling_BJI = more if len(more) == 2 else (poses_BJE.square().sum(2).sqrt(), more[0])
    return differentiated(RoutingOutput(poses_BJE, activations_BJ, coupling_BJI), poses_BID, weight_JEDI, given_BI)


def test_has_a_reference(name: str) -> None:
    path = ROOT / "tests" / "references" / f"{name}.py"
    assert path.is_file(), f"{name} needs its nested loops in {path}"
    assert "capsexp" not in path.read_text()


@pytest.mark.parametrize(("name", "changed"), cases())
def test_equals_its_reference(
    name: str, changed: tuple[tuple[str, Any], ...], make: Callable[[Tensor, Tensor], Votes]
) -> None:
    poses_BID, weight_JEDI = draw(batch=2)
    given_BI = activations(batch=2)
    output = route(build(name, **dict(changed)), make(poses_BID, weight_JEDI), given_BI)
    found, expected = differentiated(output, poses_BID, weight_JEDI, given_BI), reference(name, changed)
    for field in Found._fields:
        message = f"{field} of {name} with {dict(changed)}"
        torch.testing.assert_close(
            getattr(found, field),
            getattr(expected, field),
            rtol=1e-10,
            atol=1e-10,
            msg=lambda m, n=message: f"{n}: {m}",
        )


@pytest.mark.parametrize("squash", [each for each in SQUASHES if each != "classic"])
@pytest.mark.parametrize("name", WITH_SQUASH)
def test_equals_its_reference_with_the_other_squashes(name: str, squash: str) -> None:
    poses_BID, weight_JEDI = draw(batch=2)
    given_BI = activations(batch=2)
    output = route(build(name, squash=squash), linear("factored")(poses_BID, weight_JEDI), given_BI)
    expected = reference(name, (("squash", squash),))
    for got, want in zip(differentiated(output, poses_BID, weight_JEDI, given_BI), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


# -- its output -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(B, I, J, D, E), (1, 1, 1, 1, 1), (2, 1, 3, 2, 4), (2, 3, 1, 4, 2)])
def test_shapes_and_types(name: str, sizes: tuple[int, ...], make: Callable[[Tensor, Tensor], Votes]) -> None:
    batch, children, parents, _, dim_out = sizes
    routing, operands = build(name, *sizes[1:]), draw(*sizes)
    for dtype in (torch.float64, torch.float32):
        output = route(routing.to(dtype), make(*(each.to(dtype) for each in operands)))
        assert output.poses_BJE.shape == (batch, parents, dim_out)
        assert output.activations_BJ.shape == (batch, parents)
        assert output.coupling_BJI.shape == (batch, parents, children)
        assert all(part.dtype == dtype and part.isfinite().all() for part in output)


def test_coupling_is_in_its_range_and_has_its_sum(name: str) -> None:
    routing = build(name)
    coupling_BJI = route(routing, linear("factored")(*draw())).coupling_BJI
    lower, upper = routing.coupling_range
    assert ((lower <= coupling_BJI) & (coupling_BJI <= upper)).all()
    if routing.shares is not None:  # no child lies in two windows here
        sums_BI = coupling_BJI.sum(1)
        torch.testing.assert_close(sums_BI, torch.ones_like(sums_BI))


def test_activations_are_what_the_class_says(name: str) -> None:
    routing = build(name)
    output = route(routing, linear("factored")(*draw()))
    lower, upper = routing.activation_range
    assert ((lower <= output.activations_BJ) & (output.activations_BJ <= upper)).all()
    if routing.activation == "share":
        sums_B = output.activations_BJ.sum(1)
        torch.testing.assert_close(sums_B, torch.ones_like(sums_B))
    elif routing.activation != "probability":
        torch.testing.assert_close(output.activations_BJ, torch.linalg.vector_norm(output.poses_BJE, dim=2))


def test_the_weights_of_the_coupling_that_comes_back_made_the_poses(
    name: str, make: Callable[[Tensor, Tensor], Votes]
) -> None:
    routing, operands, given_BI = build(name), make(*draw()), activations()
    output = route(routing, operands, given_BI)
    weights_BJI = routing.weights(output.coupling_BJI, given_BI)
    normalise = getattr(routing, "pose_norm", nn.Identity())  # over images, so no part of finish
    again_BJE = normalise(routing.finish(operands.weighted_sum(weights_BJI)))
    torch.testing.assert_close(again_BJE, output.poses_BJE, rtol=1e-12, atol=1e-12)


def test_gradient_reaches_poses_weight_and_activations(name: str, make: Callable[[Tensor, Tensor], Votes]) -> None:
    routing, operands, given_BI = build(name), draw(), activations()
    judged(route(routing, make(*operands), given_BI)).backward()  # type: ignore[no-untyped-call]
    for each in (*operands, given_BI) if routing.needs_activations else operands:
        assert each.grad is not None
        assert each.grad.isfinite().all()
        assert (each.grad != 0).all()
    for key, value in routing.named_parameters():
        assert value.grad is not None, key
        assert (value.grad != 0).any(), key


def test_touches_nothing(name: str) -> None:
    """In evaluation: training may count statistics of batches."""
    routing, operands = build(name).eval(), draw()
    before = [each.detach().clone() for each in (*operands, *routing.state_dict().values())]
    random_state = torch.random.get_rng_state()
    first, second = (route(routing, linear("factored")(*operands)) for _ in range(2))
    assert all(map(torch.equal, before, (*operands, *routing.state_dict().values())))
    assert all(map(torch.equal, first, second))
    assert torch.equal(torch.random.get_rng_state(), random_state)


# -- what it may not care about ---------------------------------------------------------------------------------------


def test_says_where_its_own_numbers_count_the_children(name: str) -> None:
    """With one more child its own numbers grow along ``children_at``, and nowhere else."""
    routing, larger = build(name), build(name, children=I + 1)
    state = larger.state_dict()
    for key, value in routing.state_dict().items():
        expected = list(value.shape)
        if key in routing.children_at:
            expected[routing.children_at[key]] += 1
        assert list(state[key].shape) == expected, key
    assert set(routing.children_at) <= set(state)


def test_permuting_the_children_permutes_the_coupling_alone(name: str) -> None:
    routing, (poses_BID, weight_JEDI), given_BI = build(name), draw(), activations()
    order = torch.tensor([3, 0, 4, 2, 1])
    votes_ = linear("factored")(poses_BID, weight_JEDI)
    before = RoutingOutput(*(part.clone() for part in route(routing, votes_, given_BI)))
    for key, value in routing.state_dict().items():
        if key in routing.children_at:
            value.copy_(value.index_select(routing.children_at[key], order))
    after = route(routing, linear("factored")(poses_BID[:, order], weight_JEDI[..., order]), given_BI[:, order])
    torch.testing.assert_close(after.poses_BJE, before.poses_BJE, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after.activations_BJ, before.activations_BJ, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after.coupling_BJI, before.coupling_BJI[..., order], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_a_child_that_is_not_there_changes_nothing(name: str, form: str) -> None:
    """A masked child, whose pose is zero, against the same layer without it."""
    whole, (poses_BID, weight_JEDI), given_BI = build(name), draw(), activations()
    mask_BI = torch.tensor([True] * (I - 1) + [False]).expand(B, I)
    present = mask_BI[..., None]
    masked = LinearVotes(poses_BID * present, weight_JEDI, mask_BI, form=form)  # type: ignore[arg-type]
    found = route(whole, masked, given_BI * mask_BI)
    fewer = build(name, children=I - 1)
    state = whole.state_dict()
    for key, value in fewer.state_dict().items():
        cut = key in fewer.children_at
        value.copy_(state[key].narrow(fewer.children_at[key], 0, I - 1) if cut else state[key])
    expected = route(fewer, linear(form)(poses_BID[:, :-1], weight_JEDI[..., :-1]), given_BI[:, :-1])
    torch.testing.assert_close(found.poses_BJE, expected.poses_BJE, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.activations_BJ, expected.activations_BJ, rtol=1e-12, atol=1e-12)


def test_permuting_the_parents_with_their_numbers_permutes_the_outputs(name: str) -> None:
    """The last letters of a number's name say which of its dimensions counts the parents."""
    routing, (poses_BID, weight_JEDI), given_BI = build(name), draw(), activations()
    order = torch.tensor([2, 0, 3, 1])
    before = [part.clone() for part in route(routing, linear("factored")(poses_BID, weight_JEDI), given_BI)]
    for key, value in routing.state_dict().items():
        letters = key.rpartition("_")[2]
        if letters.isupper() and "J" in letters:
            value.copy_(value.index_select(letters.index("J"), order))
    after = route(routing, linear("factored")(poses_BID, weight_JEDI[order]), given_BI)
    for part, permuted in zip(before, after, strict=True):
        torch.testing.assert_close(permuted, part[:, order], rtol=1e-10, atol=1e-10)


def test_permuting_the_images_permutes_the_outputs(name: str) -> None:
    routing, (poses_BID, weight_JEDI), given_BI = build(name), draw(), activations()
    order = torch.tensor([2, 0, 1])
    before = route(routing, linear("factored")(poses_BID, weight_JEDI), given_BI)
    after = route(routing, linear("factored")(poses_BID[order], weight_JEDI), given_BI[order])
    for part, permuted in zip(before, after, strict=True):
        torch.testing.assert_close(permuted, part[order], rtol=1e-10, atol=1e-10)


def test_an_image_does_not_see_the_others(name: str) -> None:
    routing, (poses_BID, weight_JEDI), given_BI = build(name).eval(), draw(), activations()
    together = route(routing, linear("factored")(poses_BID, weight_JEDI), given_BI)
    for number in range(B):
        one = slice(number, number + 1)
        alone = route(routing, linear("factored")(poses_BID[one], weight_JEDI), given_BI[one])
        for part, whole in zip(alone, together, strict=True):
            torch.testing.assert_close(part[0], whole[number], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dead", [(slice(None), 1), (0,), (slice(None),)], ids=["child", "image", "batch"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_zero_poses_and_activations_give_finite_values_and_gradients(
    name: str, dead: tuple[Any, ...], dtype: torch.dtype, make: Callable[[Tensor, Tensor], Votes]
) -> None:
    """Zero poses alone, and children that are silent as well where the algorithm looks at activations."""
    routing = build(name).to(dtype)
    for silent in (False, True) if routing.needs_activations else (False,):
        poses_BID, weight_JEDI, given_BI = (each.detach().to(dtype) for each in (*draw(), activations()))
        poses_BID[dead] = 0
        if silent:
            given_BI[dead] = 0
        operands = poses_BID.requires_grad_(), weight_JEDI.requires_grad_(), given_BI.requires_grad_()
        output = route(routing, make(*operands[:2]), given_BI)
        assert all(part.isfinite().all() for part in output)
        sum(part.sum() for part in output).backward()  # type: ignore[union-attr]
        used = operands if routing.needs_activations else operands[:2]
        assert all(each.grad is not None and each.grad.isfinite().all() for each in used)
        plain = isinstance(routing.finish, Squash) and routing.finish.bias_JE is None
        if dead == (slice(None),) and plain:
            assert (output.poses_BJE == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_logits_of_a_thousand_give_finite_values_and_gradients(
    name: str, dtype: torch.dtype, make: Callable[[Tensor, Tensor], Votes]
) -> None:
    """Poses of a length at which agreements are some thousands: a softmax that is not shifted overflows there."""
    routing = build(name).to(dtype)
    poses_BID, weight_JEDI = (each.detach().to(dtype) for each in draw())
    operands = (1000 * poses_BID).requires_grad_(), weight_JEDI.requires_grad_()
    output = route(routing, make(*operands))
    assert all(part.isfinite().all() for part in output)
    sum(part.sum() for part in output).backward()  # type: ignore[union-attr]
    assert all(each.grad is not None and each.grad.isfinite().all() for each in operands)


# -- half precision ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_under_autocast_the_products_run_in_bfloat16_and_the_rest_in_float32(name: str, form: str) -> None:
    sizes = dict(children=24, parents=J, dim_in=8, dim_out=6)
    routing = build(name, **sizes).float()
    poses_BID, weight_JEDI = (each.detach().float() for each in draw(**sizes))
    inputs = poses_BID.requires_grad_(), (0.2 * weight_JEDI).requires_grad_()

    given_BI = activations(children=24).float().detach()
    plain = route(routing, linear(form)(*inputs), given_BI)
    with torch.autocast("cpu", torch.bfloat16):
        operands = linear(form)(*inputs)
        output = route(routing, operands, given_BI)
        logits_BJI = operands.agreement(output.poses_BJE)
        sums_BJE = operands.weighted_sum(output.coupling_BJI)
        loss = judged(output)
    assert {part.dtype for part in (*output, logits_BJI, sums_BJE)} == {torch.float32}
    for part, expected in zip(output, plain, strict=True):
        torch.testing.assert_close(part, expected, rtol=0, atol=0.04 * max(1.0, float(expected.detach().abs().max())))
    assert not torch.equal(output.poses_BJE, plain.poses_BJE)

    expected_grads = torch.autograd.grad(judged(plain), inputs)
    for found, expected in zip(torch.autograd.grad(loss, inputs), expected_grads, strict=True):
        assert found.dtype == torch.float32
        assert found.isfinite().all()
        assert (found - expected).norm() < 0.1 * expected.norm()


# -- its configuration ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WITH_SQUASH)
def test_refuses_an_unknown_squash(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^squash must be one of classic, linear, exponential, got 'foo'$"):
        build(name, squash="foo")


def test_fills_the_first_weights_from_the_seed(name: str) -> None:
    filled = []
    for _ in range(2):
        torch.manual_seed(3)
        weight_JEDI = torch.full((J, E, D, 400), torch.nan)
        build(name, children=400).start(weight_JEDI)
        filled.append(weight_JEDI)
    assert torch.equal(*filled)
    assert 1e-3 < float(filled[0].std()) <= 1


def test_state_travels(name: str) -> None:
    first, second = (
        build(name),
        instantiate(OmegaConf.load(FOLDER / f"{name}.yaml"))(children=I, parents=J, dim_in=D, dim_out=E),
    )
    second.double().load_state_dict(first.state_dict())
    for part, again in zip(*(route(each, linear("factored")(*draw())) for each in (first, second)), strict=True):
        assert torch.equal(part, again)
