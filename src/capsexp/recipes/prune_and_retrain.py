"""Train, correlate the channels, score them, prune, train what is left, and build deeper on it."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from capsexp.callbacks.channel_pruning import ChannelPruning
from capsexp.errors import require, require_int, require_number
from capsexp.pruning.base import Criterion
from capsexp.pruning.selection import Selection
from capsexp.pruning.surgery import transplant
from capsexp.recipes.base import Factories, Part, Recipe
from capsexp.recipes.networks import DEPTH, Networks, base_stage, scratch_stage
from capsexp.recipes.outcome import Outcome
from capsexp.recipes.stages import Stage, StageResult

SELECTION = ("ratio", "granularity", "rounding", "merge")
"""Keys of the pruning group that say how many channels go; all others are the criterion's."""

SELECTION_KEYS = tuple(f"pruning.{key}" for key in SELECTION)
CCM_KEYS = ("recipe.correlation_weight", "recipe.ccm_epochs")
SCORES_KEYS = ("recipe.score_batches",)
PRUNED_KEYS = ("recipe.renew", "recipe.pruned_epochs")
DEEP_KEYS = ("recipe.deep_epochs",)
"""The recipe's settings by the first stage that they change; those before it do not depend on them."""

StageResults = dict[str, StageResult]
"""What was found so far, by the stages' names."""


class Step(NamedTuple):
    """A stage, and what is done in its folder, given the results of those before it."""

    stage: Stage
    work: Callable[[StageResults, Path], dict[str, Any]]


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

    parts: ClassVar[Mapping[str, Part]] = {
        "criterion": Part("pruning", but=SELECTION, everywhere=True),
        "selection": Part(
            "pruning",
            keys=SELECTION,
            target="capsexp.pruning.selection.Selection",
            asked_by="ratio",
            hint="in a walk, recipe.mode says whether channels are merged",
        ),
    }
    irrelevant: ClassVar[tuple[str, ...]] = (
        *("recipe._target_", "recipe.inherit", "recipe.retrain_unpruned"),  # these say which stages there are
        "study",  # it only names what other keys hold
    )

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

    def stages(self, factories: Factories) -> Sequence[Stage]:
        """Those of the network at the depth that the config asks for."""
        networks = Networks(factories)
        return [step.stage for step in self.steps(networks, networks.depth)]

    def check(self, factories: Factories) -> None:
        """Find out what is wrong or in the way before anything is trained.

        Raises:
            ConfigError: a value of the trainer or of a callback breaks a rule, or the network cannot be pruned.
            StageBusy: another cell is computing one of the stages at this moment.
        """
        factories.check_trainer()
        super().check(factories)

    def run(self, factories: Factories) -> Outcome:
        """Do the stages or take them, and say what they found."""
        networks = Networks(factories)
        return summary(networks, self.results(networks, networks.depth))

    def results(self, networks: Networks, depth: int) -> StageResults:
        """What all stages of the network with so many intermediate layers found, computed or taken."""
        found: StageResults = {}
        for stage, work in self.steps(networks, depth):
            found[stage.name] = networks.factories.stages.get(stage, functools.partial(work, found))
        return found

    def prefix(self, stage: str, depth: int) -> str:
        """What stands before the names of what a fit logs: the first one of a cell needs nothing."""
        return "" if stage in ("base", "scratch") else stage

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
        if self._weight:
            steps.append(self._ccm(networks, steps[-1].stage))
        if cuts:
            steps.append(self._scores(networks, steps[-1].stage))
        uncut = () if cuts else (*SCORES_KEYS, "pruning")
        steps.append(self._pruned(networks, steps[-1].stage, uncut))
        if depth:
            steps.append(self._deep(networks, steps[-1].stage, uncut, depth))
        return steps

    @property
    def _unpruned(self) -> tuple[str, ...]:
        """What does not change the training of a network that is not cut out of another one."""
        return (*self.irrelevant, "pruning", *CCM_KEYS, *SCORES_KEYS, *PRUNED_KEYS, *DEEP_KEYS)

    def _base(self, networks: Networks, depth: int) -> Step:
        def work(_: StageResults, directory: Path) -> dict[str, Any]:
            return networks.train_new(directory, self.prefix("base", depth), **networks.deep(depth))

        return Step(base_stage(depth, self._unpruned), work)

    def _scratch(self, networks: Networks, widths: dict[str, int], depth: int) -> Step:
        sizes = networks.whole.sized(widths) | networks.deep(depth)

        def work(_: StageResults, directory: Path) -> dict[str, Any]:
            return networks.train_new(directory, self.prefix("scratch", depth), **sizes)

        return Step(scratch_stage(widths, depth, self._unpruned), work)

    def _ccm(self, networks: Networks, parent: Stage) -> Step:
        def work(found: StageResults, directory: Path) -> dict[str, Any]:
            module = networks.load(found["base"])
            module.reward_correlation(self._weight)
            return networks.train(module, directory, prefix="ccm", epochs=self._ccm_epochs)

        irrelevant = (*self.irrelevant, DEPTH, "pruning", *SCORES_KEYS, *PRUNED_KEYS, *DEEP_KEYS)
        return Step(Stage("ccm", parent, irrelevant), work)

    def _scores(self, networks: Networks, parent: Stage) -> Step:
        def work(found: StageResults, directory: Path) -> dict[str, Any]:
            module = networks.load(_trained(found))
            scores = networks.scores(module, self.criterion, self._batches, directory)
            for name, of_layer in scores.items():
                require(bool(of_layer.isfinite().all()), f"scores.{name}", "be finite", "NaN or infinity")
            return {"scores": {name: of_layer.tolist() for name, of_layer in scores.items()}}

        irrelevant = (*self.irrelevant, DEPTH, *SELECTION_KEYS, *PRUNED_KEYS, *DEEP_KEYS)
        return Step(Stage("scores", parent, irrelevant), work)

    def _pruned(self, networks: Networks, parent: Stage, uncut: tuple[str, ...]) -> Step:
        def work(found: StageResults, directory: Path) -> dict[str, Any]:
            scores = _scored(found) or {name: [0.0] * width for name, width in networks.whole.widths().items()}
            pruning = ChannelPruning(self.selection, _tensors(scores), networks.model, renew=self._renew)
            module = networks.load(_trained(found))
            facts = networks.train(module, directory, pruning, prefix="pruned", epochs=self._pruned_epochs)
            return facts | {"kept": {name: index.tolist() for name, index in pruning.kept.items()}}

        return Step(Stage("pruned", parent, (*self.irrelevant, DEPTH, *uncut, *DEEP_KEYS)), work)

    def _deep(self, networks: Networks, parent: Stage, uncut: tuple[str, ...], depth: int) -> Step:
        def work(found: StageResults, directory: Path) -> dict[str, Any]:
            pruned = networks.load(found["pruned"]).model
            sizes = pruned.sized({}) | networks.deep(depth)
            model = networks.model(**sizes)
            transplant(pruned, model)
            module = networks.module(model, **sizes)
            return networks.train(module, directory, prefix=self.prefix("deep", depth), epochs=self._deep_epochs)

        return Step(Stage("deep", parent, (*self.irrelevant, *uncut), ((DEPTH, depth),)), work)


def summary(networks: Networks, found: StageResults) -> Outcome:
    """What a cell says of its stages: the last one's network, and what each test found."""
    outcome = networks.outcome(list(found.values())[-1])
    for name, stage in found.items():
        outcome.metrics |= {f"{name}/{key}": stage.facts["tested"][metric] for key, metric in _told(stage).items()}
        outcome.training |= {f"{name}_epochs": stage.facts["training"]["epochs"]} if "training" in stage.facts else {}
    first = next(iter(found.values()))
    outcome.metrics["pruning/change"] = outcome.metrics["test/acc"] - first.facts["tested"]["test/acc"]
    outcome.arrays |= {f"scores/{name}": np.array(scores) for name, scores in _scored(found).items()}
    if "pruned" in found:
        outcome.arrays |= {f"kept/{name}": np.array(index) for name, index in found["pruned"].facts["kept"].items()}
    return outcome


TOLD = {
    "acc": "test/acc",
    "channel_correlation": "channel_correlation",
    "primary_dead_share": "capsules/primary/dead_share",
    "dead_share": "capsules/dead_share",
}
"""What the result says of every stage, and the test's name for it."""


def _told(stage: StageResult) -> dict[str, str]:
    tested: Mapping[str, float] = stage.facts.get("tested", {})
    return {name: found for name, found in TOLD.items() if found in tested}


def _trained(found: StageResults) -> StageResult:
    """The network whose channels are scored."""
    return found.get("ccm", found["base"])


def _scored(found: StageResults) -> dict[str, list[float]]:
    """The scores of every layer's channels; none where nothing was to be cut."""
    scores: dict[str, list[float]] = found["scores"].facts["scores"] if "scores" in found else {}
    return scores


def _tensors(scores: Mapping[str, list[float]]) -> dict[str, Tensor]:
    return {name: torch.tensor(found, dtype=torch.float64) for name, found in scores.items()}


def _count(key: str, value: int | None) -> int | None:
    return None if value is None else require_int(key, value, 1)
