"""Capsule networks in a stack against each of them alone, in double precision."""

import copy
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from capsexp import records
from capsexp.lightning_modules.capsnet import CapsNetModule
from capsexp.models.capsnet import CapsNet
from capsexp.nn.capsules import ClassCapsules, set_inference
from capsexp.nn.votes import GivenVotes, LinearVotes, Votes
from capsexp.routing import Dynamic, Fixed, MaxMin, Optimised, SelfAttention, SelfRouting, Uniform
from capsexp.stacking.adam import StackedAdam
from capsexp.stacking.capsules import JointVotes
from capsexp.stacking.convolutions import apart
from capsexp.stacking.folding import Slots, fold, foldable, tensors_of
from capsexp.types import Batch
from tests.stacking.together import DOUBLE, alone, differences, together

SHAPE, CLASSES, BATCH, STEPS = (2, 8, 8), 3, 5, 3
WIDTHS = ((3, 4), (1, 8), (2, 8), (3, 4))
"""c1 and c2 of each member; a capsule has four components."""

close = functools.partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
near = functools.partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def modules(routing: Any, decoder: list[int] | None, count: int = 4, **more: Any) -> list[CapsNetModule]:
    torch.manual_seed(3)
    given = {"image_shape": SHAPE, "classes": CLASSES, "routing": routing, "kernel": 3, "dim": 4, "dim_class": 3} | more
    models = [CapsNet(**given, c1=c1, c2=c2, decoder=decoder) for c1, c2 in WIDTHS[:count]]
    louder = {"class_capsules.weight": 100 if routing is MaxMin else 40}  # so that it matters how votes are routed
    for model in models:
        for name, parameter in model.named_parameters():
            parameter.data.mul_(louder.get(name, 2))
    made = [CapsNetModule(model=model, make_optimizer=Adam, sizes={}, reconstruction_weight=0.1) for model in models]
    return [module.double() for module in made]


def batches(streams: int, count: int = STEPS) -> list[list[Batch]]:
    """Of every step, each stream's batch."""
    torch.manual_seed(4)
    shape = (count, streams, BATCH)
    pixels, labels = torch.randint(256, (*shape, *SHAPE)), torch.randint(CLASSES, shape)
    batch = functools.partial(map, lambda images, shown: Batch((images / 127.5 - 1).double(), shown, images))
    return [list(batch(*step)) for step in zip(pixels, labels, strict=True)]


class Stacked:
    """Members folded into one network, with an optimizer for all."""

    def __init__(self, members: Sequence[CapsNetModule]) -> None:
        models: list[nn.Module] = [member.model for member in members]
        own = [tensors_of(model) for model in models]
        self.members, (self.folded, self.fold) = members, fold(models, "grouped")
        shapes = [{name: tensor.shape for name, tensor in tensors.items()} for tensors in own]
        Slots(tensors_of(self.folded), shapes).load(own)
        parameters = [dict(model.named_parameters()) for model in models]
        self.adam = StackedAdam(dict(self.folded.named_parameters()), parameters, decoupled=False)
        self.adam.load([optimizer_of(member, place) for place, member in enumerate(members)], parameters)

    def measured(self, streams: Sequence[Batch]) -> list[tuple[Tensor, Tensor]]:
        """Loss and scores of each member."""
        images_BCHW = torch.cat([batch.images_BCHW for batch in streams], 1)
        labels_BS = torch.stack([batch.labels_B for batch in streams], 1)
        made = self.members[0].made_by(self.folded, images_BCHW, labels_BS)
        found = []
        for place, member in enumerate(self.members):
            own = {name: apart(value, len(self.members))[:, place] for name, value in made.items()}
            found.append(member.judged(own, of_member(place, len(self.members), streams))[:2])
        return cast("list[tuple[Tensor, Tensor]]", found)


def of_member(place: int, members: int, streams: Sequence[Batch]) -> Batch:
    return streams[place * len(streams) // members]


def optimizer_of(module: CapsNetModule, place: int) -> Adam:
    return Adam(module.parameters(), lr=0.01 * (place + 1))


CASES = list(itertools.product((Dynamic, MaxMin, Uniform), (None, [6]), (1, 2)))


@pytest.mark.parametrize(("routing", "decoder", "streams"), CASES)
def test_a_stack_trains_as_each_member_alone(routing: Any, decoder: list[int] | None, streams: int) -> None:
    members = modules(routing, decoder)
    stack = Stacked(members)
    optimizers = [optimizer_of(member, place) for place, member in enumerate(members)]
    for step in batches(streams):
        stack.adam.zero_grad()
        measured = stack.measured(step)
        torch.stack([loss for loss, _ in measured]).sum().backward()
        stack.adam.step()
        for place, (member, optimizer) in enumerate(zip(members, optimizers, strict=True)):
            optimizer.zero_grad()
            loss, scores_BK, _ = member.step(of_member(place, 4, step))
            loss.backward()
            optimizer.step()
            close(measured[place], (loss, scores_BK))
            for name, parameter in stack.folded.named_parameters():
                expected = member.model.get_parameter(name)
                corner = (place, *map(slice, expected.shape))
                close(cast("Tensor", parameter.grad)[corner], expected.grad)
                close(parameter[corner], expected)
                assert parameter[place].count_nonzero() == expected.count_nonzero(), "what a member lacks stays zero"


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_batch_normalised_primary_capsules_train_and_evaluate_as_alone(streams: int) -> None:
    """In float64: the normalisation makes the rounding of other sums grow, from step to step and with the processor."""
    members = modules(Dynamic, None, normaliser="batch_norm")
    stack = Stacked(members)
    steps = batches(streams)
    steps[-1] = [Batch(*(part[:3] for part in batch)) for batch in steps[-1]]  # the last batch of an epoch is smaller
    optimizers = [optimizer_of(member, place) for place, member in enumerate(members)]
    for step in steps:
        stack.adam.zero_grad()
        torch.stack([loss for loss, _ in stack.measured(step)]).sum().backward()
        stack.adam.step()
        for place, (member, optimizer) in enumerate(zip(members, optimizers, strict=True)):
            optimizer.zero_grad()
            member.step(of_member(place, 4, step)).loss.backward()
            optimizer.step()
    for name, tensor in tensors_of(stack.folded).items():
        for place, member in enumerate(members):
            expected = tensors_of(member.model)[name]
            near(tensor[(place, *map(slice, expected.shape))], expected)
    for module in (stack.folded, *members):
        module.eval()
    near(
        stack.measured(steps[0]),
        [member.step(of_member(place, 4, steps[0]))[:2] for place, member in enumerate(members)],
    )


@pytest.mark.parametrize("streams", [1, 2, 4])
def test_in_evaluation_each_member_draws_its_own_longest_capsule(streams: int) -> None:
    members = [member.eval() for member in modules(Dynamic, [6])]
    (step,) = batches(streams, 1)
    measured = Stacked(members).measured(step)
    alone = [member.step(of_member(place, 4, step))[:2] for place, member in enumerate(members)]
    close(measured, alone)
    longest = {tuple(scores_BK.argmax(1).tolist()) for _, scores_BK in measured}
    assert len(longest) > 1, "members must differ, or it does not matter whose is drawn"


def test_behind_the_class_layer_each_member_has_its_classes() -> None:
    stack = Stacked(modules(Uniform, None))
    stack.measured(batches(1, 1)[0])
    assert stack.fold.widths_N == [CLASSES] * 4


def test_parts_keep_their_names_and_members_theirs() -> None:
    members = modules(Dynamic, [6])
    before = copy.deepcopy(members[0].state_dict())
    stack = Stacked(members)
    assert list(tensors_of(stack.folded)) == list(tensors_of(members[0].model))
    stack.folded.eval()
    assert all(part.training for member in members for part in member.modules()), "nothing is shared with a member"
    close(members[0].state_dict(), before)


def test_votes_side_by_side_are_those_of_one_batch() -> None:
    torch.manual_seed(0)
    poses_BID, weight_JEDI = torch.randn(2, 3, 5, 4).double(), torch.randn(2, 3, 2, 4, 5).double()
    linear = [LinearVotes(own_BID, own_JEDI) for own_BID, own_JEDI in zip(poses_BID, weight_JEDI, strict=True)]
    built: Votes = GivenVotes(torch.stack([votes.materialise() for votes in linear], 1).flatten(0, 1))
    votes = JointVotes(linear)
    coupling_BJI, parents_BJE = torch.rand(6, 3, 5).double(), torch.randn(6, 3, 2).double()
    assert votes.shape == built.shape == (6, 3, 2, 5)
    assert votes.mask_BI is None
    for coupling in (coupling_BJI, coupling_BJI[0], 0.3):
        close(votes.weighted_sum(coupling), built.weighted_sum(coupling))
    close(votes.agreement(parents_BJE), built.agreement(parents_BJE))
    close(votes.materialise(), built.materialise())
    constant = JointVotes([LinearVotes(poses_BID[0].requires_grad_(), weight_JEDI[0])]).detach()
    assert not constant.agreement(parents_BJE[:3]).requires_grad
    close(constant.weighted_sum(coupling_BJI[:3]), linear[0].weighted_sum(coupling_BJI[:3]))


def test_routing_by_the_last_step_alone_gives_the_same_gradients() -> None:
    """Its coupling is found without a graph, and weighs votes that have one."""
    members = modules(functools.partial(Dynamic, gradient="last"), None, 2)
    (step,), stack = batches(1, 1), Stacked(members)
    torch.stack([loss for loss, _ in stack.measured(step)]).sum().backward()
    for place, member in enumerate(members):
        member.step(step[0]).loss.backward()
        for name, parameter in member.model.named_parameters():
            found = cast("Tensor", stack.folded.get_parameter(name).grad)
            close(found[(place, *map(slice, parameter.shape))], parameter.grad)


# -- which can be folded ----------------------------------------------------------------------------------------------


class MyRouting(Dynamic):
    """It may do anything."""


def class_capsules(routing: Any) -> ClassCapsules:
    return ClassCapsules(4, 3, 2, 2, routing)


def test_routing_that_is_not_an_images_own_is_not_folded() -> None:
    assert all(foldable(class_capsules(routing)) for routing in (Dynamic, MaxMin, Uniform))
    assert not any(foldable(class_capsules(routing)) for routing in (Fixed, MyRouting))


@pytest.mark.parametrize("routing", [SelfAttention, SelfRouting, Optimised, functools.partial(Dynamic, bias=True)])
def test_routing_with_numbers_of_its_own_or_that_counts_its_children_is_not_folded(routing: Any) -> None:
    assert not foldable(class_capsules(routing))


@pytest.mark.parametrize("option", ["shared", "coordinates"])
def test_votes_that_look_at_places_are_not_folded(option: str) -> None:
    layer = ClassCapsules(4, 3, 2, 2, Dynamic, grid=(2, 1), **{option: True})  # type: ignore[arg-type]
    assert not foldable(layer)


def test_master_coefficients_are_not_folded() -> None:
    layer = class_capsules(Dynamic)
    layer.set_master(torch.rand(3, 4))
    assert not foldable(layer)
    set_inference(layer, "folded")
    assert not foldable(layer)
    layer.master_JI = None
    assert not foldable(layer)


# -- cells ------------------------------------------------------------------------------------------------------------


def test_cells_of_a_sweep(tiny_npz: Path, in_tmp: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Seeds, rates and widths share a stack; a routing that cannot be folded is trained alone, and its log says so."""
    model = ["model=capsnet", "model.c1=2", "model.dim=4", "model.dim_class=4", "model.decoder=[6]"]
    data = ["data=dhcd", f"data.path={tiny_npz}", "data.batch_size=32", "trainer.max_epochs=2"]
    words = [*DOUBLE, *model, *data]
    sweeps = [
        alone([*words, "seed=0,1", "optimizer.lr=2e-3,2e-2", "model.c2=4"], "rates"),
        alone([*words, "seed=1", "routing=dynamic,fixed", "model.c2=8"], "routings"),
        alone([*words, "model.normaliser=batch_norm", "model.c2=4,8"], "normed"),
    ]
    stacked = Path("multirun/stacked")
    caplog.set_level("INFO")
    together(stacked, *sweeps)
    assert differences(stacked, *sweeps) == []
    facts = {cell: records.read_result(cell) for cell in (file.parent for file in stacked.glob("*/status.json"))}
    members = {cell: result and result["environment"].get("stack", {}).get("members") for cell, result in facts.items()}
    assert sorted(members.values(), key=str) == [2, 2, *[5] * 5, None]
    (odd,) = (cell for cell, count in members.items() if count is None)
    assert "fixed" in odd.name
    assert "not stacked: CapsNet trained by CapsNetModule cannot be folded" in (odd / records.LOG).read_text()
