"""Train, correlate and score the channels, prune, train the pruned network, and build a deeper one on it."""

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
"""Keys of the pruning group that set how many channels are removed; all others belong to the criterion."""

SELECTION_KEYS = tuple(f"pruning.{key}" for key in SELECTION)
CCM_KEYS = ("recipe.correlation_weight", "recipe.ccm_epochs")
SCORES_KEYS = ("recipe.score_batches",)
PRUNED_KEYS = ("recipe.renew", "recipe.pruned_epochs")
DEEP_KEYS = ("recipe.deep_epochs",)
"""The recipe's settings by the first stage that they change; earlier stages do not depend on them."""

StageResults = dict[str, StageResult]
"""The results so far, by the stages' names."""


class Step(NamedTuple):
    """A stage, and the work in its folder, given the results of the earlier stages."""

    stage: Stage
    work: Callable[[StageResults, Path], dict[str, Any]]


class PruneAndRetrain(Recipe):
    """Sahu and Altahhan (2024), section 3.5; each step is a stage that cells and experiments share.

    ``base``: the network without intermediate capsules is trained.  ``ccm``: the training of its best weights
    continues with a reward for correlated channels (equation 5).  ``scores``: the criterion scores the channels on the
    training images.  ``pruned``: the channels with the lowest scores are removed, capsule layers get new weights, and
    the network is trained.  ``deep``: intermediate capsules are inserted between the pruned primary capsules and new
    class capsules, and the whole network is trained again.  Other architectures have only the stages whose parts they
    have.

    With a ratio of 0 there is only ``base``, at the full depth: the network that the paper compares with.

    In the result, ``train/*``, ``val/*`` and ``test/*`` are those of the last stage, ``<stage>/acc`` and similar names
    are those of each stage on the test images, and ``pruning/change`` is the accuracy of the last stage minus that of
    the first.

    Args:
        criterion: scores the channels.
        selection: sets how many channels are removed.
        correlation_weight: alpha of the ``ccm`` stage; 0 leaves that stage out.
        score_batches: number of batches of training images that are scored; None for all.
        ccm_epochs: largest number of epochs of that stage; None for ``trainer.max_epochs``.
        pruned_epochs: the same for that stage.
        deep_epochs: the same for that stage.
        inherit: True if the pruned network keeps its weights.  False is a control: one training of the same widths,
            at the full depth, from new weights (a stage named ``scratch``).
        renew: True if the capsule layers get new weights after the pruning.  False keeps the matrices of capsules that
            remain whole.
        retrain_unpruned: True if a ratio of 0 has all stages too: a control for the effect of training alone.
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
        *("recipe._target_", "recipe.inherit", "recipe.retrain_unpruned"),  # these decide which stages there are
        "study",  # it only names the values of other keys
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
        """The stages of the network at the depth in the config."""
        networks = Networks(factories)
        return [step.stage for step in self.steps(networks, networks.depth)]

    def check(self, factories: Factories) -> None:
        """Check the config and the availability of the stages before anything is trained.

        Raises:
            ConfigError: a value of the trainer or of a callback breaks a rule, or the network cannot be pruned.
            StageBusy: another cell is computing one of the stages.
        """
        factories.check_trainer()
        super().check(factories)

    def run(self, factories: Factories) -> Outcome:
        """Compute or load the stages, and return their results."""
        networks = Networks(factories)
        return summary(networks, self.results(networks, networks.depth))

    def results(self, networks: Networks, depth: int) -> StageResults:
        """Results of all stages of the network with ``depth`` intermediate layers, computed or loaded."""
        found: StageResults = {}
        for stage, work in self.steps(networks, depth):
            found[stage.name] = networks.factories.stages.get(stage, functools.partial(work, found))
        return found

    def prefix(self, stage: str, depth: int) -> str:
        """The prefix of the names that a fit logs; empty for the first fit of a cell."""
        return "" if stage in ("base", "scratch") else stage

    # -- the steps ----------------------------------------------------------------------------------------------------

    def steps(self, networks: Networks, depth: int) -> list[Step]:
        """The steps to the network with ``depth`` intermediate layers, in order."""
        if self.selection.ratio == 0 and not self._retrain_unpruned:
            return [self._base(networks, depth)]
        whole = networks.whole
        rule = "be a network whose channels can be pruned (cnn, or one with capsules)"
        require(bool(whole.channel_layers()), "model", rule, type(whole).__name__)
        widths = self.selection.widths(whole.channel_layers(), whole.widths())
        cuts = widths != whole.widths()  # if nothing is cut, the selection of channels has no effect
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
        """Keys that do not change the training of a network that is not cut out of another one."""
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
    """A cell's result from its stages: that of the last network, and the test results of each stage."""
    outcome = networks.outcome(list(found.values())[-1])
    for name, stage in found.items():
        outcome.metrics |= {
            f"{name}/{key}": stage.facts["tested"][metric] for key, metric in _stage_metrics(stage).items()
        }
        outcome.training |= {f"{name}_epochs": stage.facts["training"]["epochs"]} if "training" in stage.facts else {}
    first = next(iter(found.values()))
    outcome.metrics["pruning/change"] = outcome.metrics["test/acc"] - first.facts["tested"]["test/acc"]
    outcome.arrays |= {f"scores/{name}": np.array(scores) for name, scores in _scored(found).items()}
    if "pruned" in found:
        outcome.arrays |= {f"kept/{name}": np.array(index) for name, index in found["pruned"].facts["kept"].items()}
    return outcome


STAGE_METRICS = {
    "acc": "test/acc",
    "channel_correlation": "channel_correlation",
    "primary_dead_share": "capsules/primary/dead_share",
    "dead_share": "capsules/dead_share",
}
"""Names of each stage's metrics in the result, and their names in the test."""


def _stage_metrics(stage: StageResult) -> dict[str, str]:
    tested: Mapping[str, float] = stage.facts.get("tested", {})
    return {name: found for name, found in STAGE_METRICS.items() if found in tested}


def _trained(found: StageResults) -> StageResult:
    """The network whose channels are scored."""
    return found.get("ccm", found["base"])


def _scored(found: StageResults) -> dict[str, list[float]]:
    """The scores of every layer's channels; empty if nothing is cut."""
    scores: dict[str, list[float]] = found["scores"].facts["scores"] if "scores" in found else {}
    return scores


def _tensors(scores: Mapping[str, list[float]]) -> dict[str, Tensor]:
    return {name: torch.tensor(found, dtype=torch.float64) for name, found in scores.items()}


def _count(key: str, value: int | None) -> int | None:
    return None if value is None else require_int(key, value, 1)
