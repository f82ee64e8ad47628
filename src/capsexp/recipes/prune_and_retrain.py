"""Train, correlate the channels, score them, prune, train what is left, and build deeper on it."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsexp.callbacks.channel_pruning import ChannelPruning
from capsexp.errors import require, require_int, require_number
from capsexp.pruning.base import Criterion
from capsexp.pruning.selection import Selection
from capsexp.pruning.surgery import transplant
from capsexp.recipes.base import Factories, Outcome, Recipe
from capsexp.recipes.networks import OWN, UNPRUNED, Networks, base_stage, scratch_stage
from capsexp.recipes.stages import Finished, Stage

SELECTION = ("pruning.ratio", "pruning.granularity", "pruning.rounding", "pruning.merge")

Settings = tuple[tuple[str, Any], ...]
Done = dict[str, Finished]


class Step(NamedTuple):
    """A stage, and what is done in its folder, given those before it."""

    stage: Stage
    work: Callable[[Done, Path], dict[str, Any]]


class PruneAndRetrain(Recipe):
    """Sahu and Altahhan (2024), section 3.5; each step is a stage that cells and experiments share.

    ``base``: the network without intermediate capsules is trained.  ``ccm``: its best weights go on, rewarded for
    correlated channels (equation 5).  ``scores``: the criterion scores the channels on the training images.
    ``pruned``: the channels with the lowest scores go, capsule layers begin anew, and the rest is trained.  ``deep``:
    intermediate capsules come between the pruned primary capsules and new class capsules, and all is trained again.
    Other architectures have these stages as far as they have the parts.

    With a ratio of 0 there is only ``base``, at the full depth: the network that the paper compares with.

    In the result ``train/*``, ``val/*`` and ``test/*`` are the last stage's, ``<stage>/acc`` and the like are each
    stage's on the test images, and ``pruning/change`` is the accuracy of the last stage less that of the first.

    Args:
        criterion: which channels matter.
        selection: how many of them go.
        correlation_weight: alpha of the ``ccm`` stage; 0 leaves that stage out.
        score_batches: score so many batches of training images; None for all.
        ccm_epochs: at most so many in that stage; None for ``trainer.max_epochs``.
        pruned_epochs: the same for that stage.
        deep_epochs: the same for that stage.
        inherit: whether the pruned network keeps its weights.  False is a control: one training of the same widths,
            at the full depth, from new weights (a stage named ``scratch``).
        renew: whether the capsule layers begin anew behind the pruning.  False keeps the matrices of capsules that
            stay whole.
        retrain_unpruned: whether a ratio of 0 goes through all stages too: a control for what training alone gives.
    """

    def __init__(
        self,
        *,
        criterion: Criterion,
        selection: Selection,
        correlation_weight: float = 0.01,
        score_batches: int | None = None,
        ccm_epochs: int | None = None,
        pruned_epochs: int | None = None,
        deep_epochs: int | None = None,
        inherit: bool = True,
        renew: bool = True,
        retrain_unpruned: bool = False,
    ) -> None:
        self.criterion, self.selection = criterion, selection
        self._weight = require_number("correlation_weight", correlation_weight, 0, open_ends=">")
        self._batches = _count("score_batches", score_batches)
        self._ccm_epochs = _count("ccm_epochs", ccm_epochs)
        self._pruned_epochs = _count("pruned_epochs", pruned_epochs)
        self._deep_epochs = _count("deep_epochs", deep_epochs)
        for key, switch in (("inherit", inherit), ("renew", renew), ("retrain_unpruned", retrain_unpruned)):
            require(isinstance(switch, bool), key, "be true or false", switch)
        self._inherit, self._renew, self._retrain_unpruned = inherit, renew, retrain_unpruned

    def check(self, factories: Factories) -> None:
        """Raise :class:`~capsexp.errors.StageBusy` while another cell computes one of the stages.

        Raises:
            ConfigError: a value of the trainer or of a callback breaks a rule; found before a stage begins.
        """
        factories.make_trainer("check", in_run=False)
        networks = Networks(factories)
        for step in self.steps(networks, networks.depth):
            factories.stages.check(step.stage)

    def run(self, factories: Factories) -> Outcome:
        """Do the stages or take them, and say what they found."""
        networks = Networks(factories)
        return summary(networks, self.done(networks, networks.depth))

    def done(self, networks: Networks, depth: int) -> Done:
        """All stages of the network with so many intermediate layers, done or taken."""
        found: Done = {}
        for stage, work in self.steps(networks, depth):
            found[stage.name] = networks.factories.stages.get(stage, functools.partial(work, found))
        return found

    def label(self, stage: str, depth: int) -> str:
        """What a fit is called in the cell's Weights & Biases run."""
        return stage

    # -- which stages -------------------------------------------------------------------------------------------------

    def steps(self, networks: Networks, depth: int) -> list[Step]:
        """The steps to the network with so many intermediate layers, in order."""
        if self.selection.ratio == 0 and not self._retrain_unpruned:
            return [self._base(networks, depth)]
        whole = networks.whole
        rule = "be a network whose channels can be pruned (cnn, capsnet, deep_capsnet)"
        require(bool(whole.channel_layers()), "model", rule, type(whole).__name__)
        widths = self.selection.widths(whole.channel_layers(), whole.widths())
        cuts = widths != whole.widths()  # where nothing is cut, it does not matter how channels are chosen
        if not self._inherit:
            return [self._scratch(networks, widths, depth) if cuts else self._base(networks, depth)]
        steps = [self._base(networks, 0)]
        known: Settings = (("correlation_weight", self._weight), ("ccm_epochs", self._ccm_epochs))
        if self._weight:
            steps.append(self._ccm(networks, known))
        if cuts:
            known += (("score_batches", self._batches),)
            steps.append(self._scores(networks, known))
        without = OWN if cuts else UNPRUNED
        known += (("renew", self._renew), ("pruned_epochs", self._pruned_epochs))
        steps.append(self._pruned(networks, Stage("pruned", without, known)))
        if depth:
            known += (("depth", depth), ("deep_epochs", self._deep_epochs))
            steps.append(self._deep(networks, Stage("deep", without, known), depth))
        return steps

    def _base(self, networks: Networks, depth: int) -> Step:
        def work(_: Done, directory: Path) -> dict[str, Any]:
            return networks.train_new(directory, self.label("base", depth), **networks.deep(depth))

        return Step(base_stage(depth), work)

    def _scratch(self, networks: Networks, widths: dict[str, int], depth: int) -> Step:
        sizes = networks.whole.sized(widths) | networks.deep(depth)

        def work(_: Done, directory: Path) -> dict[str, Any]:
            return networks.train_new(directory, self.label("scratch", depth), **sizes)

        return Step(scratch_stage(widths, depth), work)

    def _ccm(self, networks: Networks, known: Settings) -> Step:
        def work(done: Done, directory: Path) -> dict[str, Any]:
            module = networks.load(done["base"])
            module.reward_correlation(self._weight)
            return networks.train(module, directory, "ccm", self._ccm_epochs)

        return Step(Stage("ccm", UNPRUNED, known), work)

    def _scores(self, networks: Networks, known: Settings) -> Step:
        def work(done: Done, directory: Path) -> dict[str, Any]:
            module = networks.load(_trained(done))
            scores = networks.scores(module, self.criterion, self._batches, directory)
            for name, found in scores.items():
                require(bool(found.isfinite().all()), f"scores.{name}", "be finite", "NaN or infinity")
            return {"scores": {name: found.tolist() for name, found in scores.items()}}

        return Step(Stage("scores", (*OWN, *SELECTION), known), work)

    def _pruned(self, networks: Networks, stage: Stage) -> Step:
        def work(done: Done, directory: Path) -> dict[str, Any]:
            scores = _scored(done) or {name: [0.0] * width for name, width in networks.whole.widths().items()}
            pruning = ChannelPruning(self.selection, _tensors(scores), networks.model, renew=self._renew)
            module = networks.load(_trained(done))
            facts = networks.train(module, directory, "pruned", self._pruned_epochs, pruning)
            return facts | {"kept": {name: index.tolist() for name, index in pruning.kept.items()}}

        return Step(stage, work)

    def _deep(self, networks: Networks, stage: Stage, depth: int) -> Step:
        def work(done: Done, directory: Path) -> dict[str, Any]:
            pruned = networks.load(done["pruned"]).model
            sizes = pruned.sized({}) | networks.deep(depth)
            model = networks.model(**sizes)
            transplant(pruned, model)
            return networks.train(
                networks.module(model, **sizes), directory, self.label("deep", depth), self._deep_epochs
            )

        return Step(stage, work)


def summary(networks: Networks, done: Done) -> Outcome:
    """What a cell says of its stages: the last one's network, and what each test found."""
    outcome = networks.outcome(list(done.values())[-1])
    for name, stage in done.items():
        outcome.metrics |= {f"{name}/{key}": stage.facts["tested"][found] for key, found in _told(stage).items()}
        outcome.training |= {f"{name}_epochs": stage.facts["training"]["epochs"]} if "training" in stage.facts else {}
    first = next(iter(done.values()))
    outcome.metrics["pruning/change"] = outcome.metrics["test/acc"] - first.facts["tested"]["test/acc"]
    outcome.arrays |= {f"scores/{name}": np.array(found) for name, found in _scored(done).items()}
    if "pruned" in done:
        outcome.arrays |= {f"kept/{name}": np.array(found) for name, found in done["pruned"].facts["kept"].items()}
    return outcome


TOLD = {
    "acc": "test/acc",
    "channel_correlation": "channel_correlation",
    "primary_dead_share": "capsules/primary/dead_share",
    "dead_share": "capsules/dead_share",
}
"""What the result says of every stage, and the test's name for it."""


def _told(stage: Finished) -> dict[str, str]:
    tested: Mapping[str, float] = stage.facts.get("tested", {})
    return {name: found for name, found in TOLD.items() if found in tested}


def _trained(done: Done) -> Finished:
    """The network whose channels are scored."""
    return done.get("ccm", done["base"])


def _scored(done: Done) -> dict[str, list[float]]:
    """The scores of every layer's channels; none where nothing was to be cut."""
    scores: dict[str, list[float]] = done["scores"].facts["scores"] if "scores" in done else {}
    return scores


def _tensors(scores: Mapping[str, list[float]]) -> dict[str, Tensor]:
    return {name: torch.tensor(found, dtype=torch.float64) for name, found in scores.items()}


def _count(key: str, value: int | None) -> int | None:
    return None if value is None else require_int(key, value, 1)
