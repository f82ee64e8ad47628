"""The largest depth of a capsule network that does not break."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from capsexp.callbacks.collapse import CollapseGuard
from capsexp.callbacks.peak import Peak
from capsexp.errors import require, require_int
from capsexp.recipes.base import Factories, TrainerSettings
from capsexp.recipes.networks import Networks
from capsexp.recipes.outcome import Outcome
from capsexp.recipes.prune_and_retrain import PruneAndRetrain, StageResults, summary
from capsexp.recipes.stages import Stage


class MaxDepth(PruneAndRetrain):
    """The largest number of intermediate layers whose network is not broken: Sahu and Altahhan (2024), table 5.

    Each trial is a network of :class:`PruneAndRetrain` at another depth, so it is a stage that cells and experiments
    share.  With a pruning ratio, the trials are deeper versions of the pruned network.  Depths are doubled until a
    network breaks, then the gap is halved.  This assumes that every network deeper than a broken one is broken too.

    In the result, ``depth/largest`` is the depth that was found (0 if one layer breaks the network), ``depth/bounded``
    is 1 if a deeper network broke and 0 if none broke up to the limit.  ``trials/depth``, ``trials/broken`` and
    ``trials/acc`` are arrays over the trials in order of their depth.  Everything else is that of the deepest network
    that works.

    Args:
        limit: the largest depth that is tried.
        **options: arguments of :class:`PruneAndRetrain`.
    """

    irrelevant: ClassVar[tuple[str, ...]] = (*PruneAndRetrain.irrelevant, "recipe.limit")

    def __init__(self, *, limit: int = 30, **options: Any) -> None:
        super().__init__(**options)
        self._limit = require_int("limit", limit, 1)

    def stages(self, factories: Factories) -> Sequence[Stage]:
        """The stages of the first trial."""
        return [step.stage for step in self.steps(Networks(factories), 1)]

    def check(self, factories: Factories) -> None:
        """Check the config and the availability of the stages before anything is trained.

        Raises:
            ConfigError: a value of the trainer or of a callback breaks a rule, or trainings are too short to be
                detected as broken.
            StageBusy: another cell is computing a stage of the first trial.
        """
        _check_guard(factories.check_trainer(), self._deep_epochs)
        super().check(factories)

    def prefix(self, stage: str, depth: int) -> str:
        """The stage's name with its depth, since a cell trains networks of several depths."""
        return f"{stage}{depth}"

    def run(self, factories: Factories) -> Outcome:
        """Try depths, and return the result of the deepest working network."""
        networks = Networks(factories)
        rule = "be a network of which layers can be stacked (deep_capsnet)"
        require(networks.knows_depth, "model", rule, type(networks.whole).__name__)
        trials: dict[int, StageResults] = {}

        def breaks(depth: int) -> bool:
            trials[depth] = self.results(networks, depth)
            return _broken(trials[depth])

        largest = deepest_working(breaks, self._limit)
        if largest not in trials:
            trials[largest] = self.results(networks, largest)
        outcome = summary(networks, trials[largest])
        outcome.metrics |= {"depth/largest": largest, "depth/bounded": float(largest < self._limit)}
        outcome.metrics["depth/trials"] = len(trials)
        tried = sorted(trials.items())
        outcome.arrays["trials/depth"] = np.array([depth for depth, _ in tried])
        outcome.arrays["trials/broken"] = np.array([_broken(found) for _, found in tried])
        outcome.arrays["trials/acc"] = np.array([_last(found)["tested"]["test/acc"] for _, found in tried])
        return outcome


def deepest_working(breaks: Callable[[int], bool], limit: int) -> int:
    """The largest depth from 0 to ``limit`` that does not break, by doubling and then halving the gap.

    Args:
        breaks: True if a depth breaks; called once per depth, never for 0; True for all depths beyond a broken one.
        limit: at least 1.
    """
    works, broken = 0, None
    while broken is None and works < limit:
        depth = min(max(1, 2 * works), limit)
        if breaks(depth):
            broken = depth
        else:
            works = depth
    while broken is not None and broken - works > 1:
        middle = (works + broken) // 2
        if breaks(middle):
            broken = middle
        else:
            works = middle
    return works


def _check_guard(settings: TrainerSettings, deep_epochs: int | None) -> None:
    """Require enough epochs: a network trained for fewer epochs than the guard examines would always seem to work."""
    callbacks = settings.callbacks.values()
    guards = [callback for callback in callbacks if isinstance(callback, CollapseGuard)]
    require(bool(guards), "callbacks.broken", "be there: it says which networks are broken", None)
    least = guards[0].last
    rule = f"be at least callbacks.broken.last ({least}): shorter trainings are never found broken"
    require(settings.max_epochs >= least, "trainer.max_epochs", rule, settings.max_epochs)
    require(deep_epochs is None or deep_epochs >= least, "recipe.deep_epochs", rule, deep_epochs)
    for callback in callbacks:
        if isinstance(callback, Peak):
            require(callback.patience >= least, "callbacks.peak.patience", rule, callback.patience)


def _last(found: StageResults) -> dict[str, Any]:
    return list(found.values())[-1].facts


def _broken(found: StageResults) -> bool:
    return bool(_last(found)["training"]["broken"])
