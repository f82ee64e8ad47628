"""Pruning of a trained network down to a small one, channel by channel."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import lightning as L
import numpy as np

from capsexp import rng, stop_request
from capsexp.callbacks.channel_pruning import ChannelPruning
from capsexp.callbacks.peak import save_best
from capsexp.data.base import ImageDataModule
from capsexp.errors import require, require_choice, require_int, require_number
from capsexp.lightning_modules.base import BaseModule
from capsexp.models.base import Classifier, count_parameters
from capsexp.nn.channels import ChannelLayer
from capsexp.pruning.base import Criterion
from capsexp.pruning.merging import mergeable
from capsexp.pruning.selection import Fewer
from capsexp.recipes.base import Factories, Recipe
from capsexp.recipes.fit import FitResult, StartingStates
from capsexp.recipes.networks import Networks, base_stage, scratch_stage
from capsexp.recipes.outcome import Outcome, outcome_of
from capsexp.recipes.stages import Stage, StageResult, keep_history

Widths = dict[str, int]
Point = dict[str, float]
Step = tuple[BaseModule, Mapping[str, float]]
"""A network of the walk and its measurements."""

MEASURED = {"test_acc": "test/acc", "test_loss": "test/loss", "val_acc": "val/acc", "val_loss": "val/loss"}
"""Measurements that are kept of every network of the walk, and their names in its tests."""
GUARDS = ("memory_check", "resume", "peak")
"""Callbacks that are left out when a network smaller than a trained one makes a few steps."""


class MergeWalk(Recipe):
    """Wang (2019), section 2.1, as a pruning method, and the paper's own procedure for comparison.

    A network is trained (``base``, a stage that cells share).  Then its layers lose one channel each in turn, down to
    the given width.  The criterion selects the channel that is removed.  In the mode ``merge`` the most similar
    remaining channel takes over its outgoing weights, times the ratio of the two filters
    (:mod:`capsexp.pruning.merging`).  After every cut a new optimizer makes some steps.  The paper trains a new network
    at each size; that is the mode ``reinit``, whose networks are stages too (``scratch``).

    Every network of the walk is measured.  The arrays ``walk/test_acc``, ``walk/test_loss``, ``walk/val_acc``,
    ``walk/val_loss``, ``walk/params``, ``walk/params_paper`` and ``walk/<layer>`` (its channels) begin with the trained
    network.  ``walk/mean_acc`` is the mean of ``walk/test_acc`` over the networks after it.  ``walk/params_within`` is
    the number of parameters (by the paper's formula) of the smallest network that is, like all before it, within
    ``tolerance`` of the trained one.  Everything else in the result is that of the last network, which the checkpoint
    holds.

    Args:
        criterion: selects the channel that is removed; ``reinit`` does not use it.
        mode: ``merge``, ``remove`` or ``reinit``.
        layers: the layers that are narrowed, in the order of their turns.
        down_to: number of channels that each of them has at the end.
        steps: optimizer steps between two cuts; 0 for none.
        tolerance: loss of accuracy that counts as none, for ``walk/params_within``.
        score_batches: number of batches of training images that are scored, if the criterion needs maps; None for all.
    """

    irrelevant: ClassVar[tuple[str, ...]] = (
        *("recipe._target_", "recipe.criterion", "recipe.mode", "recipe.layers", "recipe.down_to", "recipe.steps"),
        *("recipe.tolerance", "recipe.score_batches", "pruning", "study"),
    )
    """Keys that change the walk but not the training before it."""

    def __init__(
        self,
        *,
        criterion: Criterion,
        mode: str = "merge",
        layers: tuple[str, ...] = ("conv2", "conv3"),
        down_to: int = 2,
        steps: int = 50,
        tolerance: float = 0.02,
        score_batches: int | None = None,
    ) -> None:
        require(isinstance(criterion, Criterion), "criterion", "be a pruning criterion", criterion)
        self._criterion = criterion
        self._mode = require_choice("mode", mode, ("merge", "remove", "reinit"))
        named = isinstance(layers, (list, tuple)) and len(layers) > 0 and len(set(layers)) == len(layers)
        require(named, "layers", "be a list of different layers, such as [conv2, conv3]", layers)
        self._layers = tuple(layers)
        self._down_to = require_int("down_to", down_to, 1)
        self._steps = require_int("steps", steps, 0)
        self._tolerance = require_number("tolerance", tolerance, 0, 1)
        self._batches = None if score_batches is None else require_int("score_batches", score_batches, 1)

    def stages(self, factories: Factories) -> Sequence[Stage]:
        """The training of the network at the start of the walk."""
        return [base_stage(Networks(factories).depth, self.irrelevant)]

    def check(self, factories: Factories) -> None:
        """Check the config and the availability of the stages before anything is trained.

        Raises:
            ConfigError: a value of the trainer, of a callback or of the walk breaks a rule.
            StageBusy: another cell is training the network at the start of the walk.
        """
        factories.check_trainer()
        self._path(Networks(factories).whole)
        super().check(factories)

    def run(self, factories: Factories) -> Outcome:
        """Train or load the network, walk, and return the measurements of the walk."""
        networks = Networks(factories)
        path = self._path(networks.whole)
        sizes: dict[str, Any] = networks.deep(networks.depth)
        train = functools.partial(networks.train_new, **sizes)
        base = factories.stages.get(base_stage(networks.depth, self.irrelevant), train)
        module = networks.load(base)
        walk = self._from_scratch(networks, path) if self._mode == "reinit" else self._narrower(networks, module, path)
        points = [self._point(module, {**base.facts["metrics"], **base.facts["tested"]})]
        for module, found in walk:  # the last one is what the checkpoint holds
            points.append(self._point(module, found))
        outcome = self._outcome(factories, base, module, points)
        keep_history(base, factories.directory)
        logger = factories.make_logger("walk")
        if logger is not None:
            for number, point in enumerate(points):
                logger.log_metrics(point, number)
        return outcome

    # -- the path -----------------------------------------------------------------------------------------------------

    def _path(self, whole: Classifier) -> list[Widths]:
        """The widths of all networks of the walk, those of the whole network first."""
        layers, widths = whole.channel_layers(), whole.widths()
        known = ", ".join(layers) or "it has none that can be pruned"
        for name in self._layers:
            require(name in layers, "recipe.layers", f"name layers of the model ({known})", name)
            rule = f"be at most the channels that {name} has ({widths[name]})"
            require(self._down_to <= widths[name], "recipe.down_to", rule, self._down_to)
            rule = (
                "name layers whose channels do not become capsules, whose readers would get new weights at every step"
            )
            require(self._mode == "reinit" or mergeable(whole, layers[name]), "recipe.layers", rule, name)
        return list(narrowing(layers, widths, self._layers, self._down_to))

    # -- the steps ----------------------------------------------------------------------------------------------------

    def _from_scratch(self, networks: Networks, path: Sequence[Widths]) -> Iterator[Step]:
        """The networks of the path, each trained from new weights."""
        depth, stages = networks.depth, networks.factories.stages
        for number, widths in enumerate(path[1:], 1):
            sizes = networks.whole.sized(widths) | networks.deep(depth)
            work = functools.partial(networks.train_new, prefix=f"scratch{number}", **sizes)
            stage = stages.get(scratch_stage(widths, depth, self.irrelevant), work)
            yield networks.load(stage), {**stage.facts["metrics"], **stage.facts["tested"]}

    def _narrower(self, networks: Networks, module: BaseModule, path: Sequence[Widths]) -> Iterator[Step]:
        """The networks of the path, each cut out of the previous one."""
        factories, data = networks.factories, networks.factories.make_data()
        measure = factories.make_trainer(in_run=False, without=GUARDS)
        random = cast("Classifier", module.model).random_states
        for before, after in itertools.pairwise(path):
            if stop_request.requested():
                raise KeyboardInterrupt
            (name,) = (each for each in path[0] if after[each] < before[each])
            scores = networks.scores(module, self._criterion, self._batches, factories.directory)
            fewer = Fewer(before[name] - after[name], merge=self._mode == "merge")
            pruning = ChannelPruning(fewer, {name: scores[name]}, networks.model, renew=False)
            if self._steps:
                start = StartingStates(random)  # the walk is one long fit: the states of dropout continue
                self._tune(factories, module, data, pruning, start)
                random = rng.states()
            else:
                pruning.prune(module)
            (validated,) = measure.validate(module, data, verbose=False)
            (tested,) = measure.test(module, data, verbose=False)
            yield module, {**validated, **tested}

    def _tune(self, factories: Factories, module: BaseModule, data: ImageDataModule, *callbacks: L.Callback) -> None:
        # As many epochs as steps are enough: each has at least one.
        limits: dict[str, Any] = {"max_steps": self._steps, "max_epochs": self._steps, "limit_val_batches": 0}
        trainer = factories.make_trainer(callbacks=callbacks, in_run=False, without=GUARDS, **limits)
        trainer.fit(module, data)
        if trainer.interrupted:
            raise KeyboardInterrupt

    def _point(self, module: BaseModule, found: Mapping[str, float]) -> Point:
        """The numbers that are kept of a network of the walk."""
        model = cast("Classifier", module.model)
        sizes: Point = {"params": count_parameters(model), "params_paper": model.params_paper()}
        return sizes | {name: found[key] for name, key in MEASURED.items()} | dict(model.widths())

    def _outcome(self, factories: Factories, base: StageResult, module: BaseModule, points: Sequence[Point]) -> Outcome:
        data, trainer = factories.make_data(), factories.make_trainer(in_run=False)
        (tested,) = trainer.test(module, data, verbose=False)
        save_best(trainer)
        validated = {key: points[-1][name] for name, key in MEASURED.items() if key.startswith("val/")}
        metrics = {**tested, **validated, **self._summary(points)}
        outcome = outcome_of(trainer, module, data, FitResult.of(base.facts), metrics)
        outcome.arrays |= {f"walk/{name}": np.array([point[name] for point in points]) for name in points[0]}
        return outcome

    def _summary(self, points: Sequence[Point]) -> Point:
        """Numbers that summarise the walk: its accuracy, and its smallest network before the accuracy falls."""
        accuracies = [point["test_acc"] for point in points]
        good = list(itertools.takewhile(lambda point: point["test_acc"] >= accuracies[0] - self._tolerance, points))
        return {
            "walk/base_acc": accuracies[0],
            "walk/mean_acc": float(np.mean(accuracies[1:])) if len(points) > 1 else accuracies[0],
            "walk/params_within": good[-1]["params_paper"],
        }


def narrowing(
    layers: Mapping[str, ChannelLayer], widths: Mapping[str, int], names: Sequence[str], down_to: int
) -> Iterator[Widths]:
    """Widths of the walk: the layers lose one step each in turn, as long as ``down_to`` channels are left.

    Args:
        layers: the model's layers; a layer's step is one channel, or in a capsule network the capsules' dimension.
        widths: widths of the network at the start; they are yielded first.
        names: the layers that are narrowed, in the order of their turns.
        down_to: smallest number of channels that remain.
    """
    now = dict(widths)
    yield now
    turn = [name for name in names if now[name] - layers[name].step >= down_to]
    while turn:
        for name in turn:
            now = now | {name: now[name] - layers[name].step}
            yield now
        turn = [name for name in turn if now[name] - layers[name].step >= down_to]
