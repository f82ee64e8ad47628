"""Where cells meet: what one does or suffers is its own, and its numbers are those that it has alone."""

import copy
import gc
import logging
import random
import shutil
import signal
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from filelock import FileLock
from hydra import compose, initialize_config_dir
from torch.optim import Adam

from capsexp import cell as life
from capsexp import records, resolvers, rng
from capsexp.callbacks.divergence import DivergenceGuard
from capsexp.cell import Cell, CellOutcome
from capsexp.data.arrays import Arrays
from capsexp.data.augment import Augment
from capsexp.data.base import ImageDataModule
from capsexp.errors import Diverged, StageBusy
from capsexp.lightning_modules.base import BaseModule
from capsexp.lightning_modules.classifier import ClassifierModule
from capsexp.lightning_modules.quiet import quiet_lightning
from capsexp.models.cnn import CNN
from capsexp.recipes.stages import Stage, StageMemo
from capsexp.records import LOCK
from capsexp.stacking import context, scheduler
from capsexp.stacking.grouping import Settings
from capsexp.stacking.scheduler import StackScheduler, run
from capsexp.stacking.stack import Stack
from capsexp.sweep.cells import resolved
from tests.stacking.together import differences

CONF = Path(__file__).parents[2] / "conf"

State = dict[str, Any]
PLAIN = Settings("grouped", 1)
QUIET = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
EXACT = {"rtol": 0, "atol": 1e-12, "equal_nan": True}


# -- small networks, each with all that a cell's fit has --------------------------------------------------------------


@dataclass(frozen=True)
class Squares:
    """18 images for training, 6 for validation, of three classes; each has a bright place in noise."""

    def key(self) -> str:
        return "squares"

    def load(self) -> Arrays:
        labels = np.arange(24) % 3
        images = np.random.default_rng(0).integers(0, 90, (24, 1, 8, 8)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[0, 2 * label :][:3] += 120
        return Arrays(images, labels, images[:6].copy(), labels[:6].copy(), "squares", "embedded")


@dataclass(frozen=True)
class Net:
    """A network and its training, as far as they are its own."""

    name: str
    seed: int = 0
    c2: int = 2
    dropout: float = 0.5
    lr: float = 0.03
    epochs: int = 2
    max_steps: int = -1
    batch_size: int = 8
    validates_every: int = 1
    hears: Callable[[], Sequence[L.Callback]] = tuple

    def fit(self) -> State:
        """Train it, here and now, and tell all that there is to tell about it."""
        given = {"accelerator": "cpu", "devices": 1, "precision": "64-true"}
        given["check_val_every_n_epoch"] = self.validates_every
        fixed = {**dict.fromkeys(QUIET, False), "num_sanity_val_steps": 0, "callbacks": [*self.hears()]}
        config = {"data": {"batch_size": self.batch_size}, "trainer": given}
        data = ImageDataModule(
            source=Squares(), augment=Augment(), batch_size=self.batch_size, val_share=0.25, seed=self.seed
        )
        torch.manual_seed(self.seed)
        model = CNN(image_shape=(1, 8, 8), classes=3, c1=2, c2=self.c2, c3=2, kernels=(3, 3, 1), dropout=self.dropout)
        module = ClassifierModule(model, partial(Adam, lr=self.lr), {})
        with quiet_lightning():
            trainer = L.Trainer(max_epochs=self.epochs, max_steps=self.max_steps, **given, **fixed)
            context.joined(trainer, config).fit(module, data)
        return {
            "weights": module.state_dict(),
            "moments": {str(place): state for place, state in trainer.optimizers[0].state_dict()["state"].items()},
            "order": data.state_dict()["generator"],
            "noise": torch.get_rng_state(),
            "measured": dict(trainer.callback_metrics),
            "counted": [trainer.current_epoch, trainer.global_step],
        }


def outcome(net: Net) -> State | Exception:
    try:
        return net.fit()
    except Exception as error:
        return error


def together(*nets: Net, settings: Settings = PLAIN) -> dict[str, Any]:
    """What becomes of networks that are trained in one scheduler, by their names."""
    found: dict[str, Any] = {}

    def one(net: Net) -> None:
        found[net.name] = outcome(net)

    StackScheduler(settings).run([partial(one, net) for net in nets])
    return found


def assert_as_alone(found: dict[str, Any], *nets: Net) -> None:
    for net in nets:
        state = found[net.name]
        assert not isinstance(state, Exception), repr(state)
        torch.testing.assert_close(state, net.fit(), **EXACT)


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many members each stack had that was trained, in their order."""
    sizes: list[int] = []
    real = scheduler.train

    def train(stack: Stack) -> None:
        sizes.append(len(stack.members))
        real(stack)

    monkeypatch.setattr(scheduler, "train", train)
    return sizes


class AtEpochsEnd(L.Callback):
    """Does something behind each epoch whose number, from 1, is among the given ones."""

    def __init__(self, epochs: Sequence[int], action: Callable[[L.Trainer], None]) -> None:
        self.epochs, self.action = epochs, action

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch + 1 in self.epochs:
            self.action(trainer)


# -- the same numbers, whoever else is there --------------------------------------------------------------------------


def test_a_fit_has_the_same_numbers_alone_and_in_any_company(stacks: list[int]) -> None:
    """In double precision, dropout and all: on its own, beside wider ones, and beside those with other batches."""
    me = Net("me", seed=1, c2=3, epochs=3)
    wider = [Net("wider", seed=1, c2=6, dropout=0.25), Net("longer", seed=1, c2=1, lr=0.3, epochs=3)]
    others = [Net("a", seed=2, c2=4), Net("b", seed=1, dropout=0.0), Net("c", seed=3, c2=1, epochs=1)]
    alone = me.fit()
    for company in ([], wider, others):
        torch.testing.assert_close(together(*company, me)["me"], alone, **EXACT)
    assert stacks[:3] == [1, 3, 2], "once two of three are left, those get a stack of their own"
    assert stacks[3:] == [4, 1], "with three of four it goes on"


def freeze(trainer: L.Trainer) -> None:
    trainer.lightning_module.model.layers.conv1.requires_grad_(requires_grad=False)


CHANGES: dict[str, tuple[dict[str, Any], int]] = {
    "ends early": ({"max_steps": 7}, 2),
    "is validated": ({"validates_every": 2}, 1),
    "has frozen parts": ({"hears": lambda: [AtEpochsEnd((1,), freeze)]}, 3),
}
"""And how many of three epochs are validated."""


@pytest.mark.parametrize("what", CHANGES)
def test_what_an_epoch_is_may_change_while_the_same_members_go_on(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last of three has one step; only the second is validated; or those behind the first leave a part alone."""
    values, validated = CHANGES[what]
    nets = [Net(name, seed, epochs=3, **values) for seed, name in enumerate("ab")]
    judges: list[type] = []

    def noted(real: Callable[..., None]) -> Callable[..., None]:
        def validation_step(self: Any, batch: Any, batch_idx: int) -> None:
            judges.append(type(self))
            real(self, batch, batch_idx)

        return validation_step

    for judge in (Stack, BaseModule):
        monkeypatch.setattr(judge, "validation_step", noted(judge.validation_step))
    found = together(*nets)
    assert judges == [Stack] * validated, "in one batch each, and not by its members too"
    assert_as_alone(found, *nets)


def test_epochs_of_different_lengths_are_trained_apart(stacks: list[int]) -> None:
    nets = [Net("one step more", max_steps=4), Net("two", seed=1, max_steps=5)]
    assert_as_alone(together(*nets), *nets)
    assert stacks == [2, 1, 1]


def test_places_fall_idle_before_the_stack_is_made_again(stacks: list[int]) -> None:
    """One whose whole stream has stopped, too: what is computed there changes nobody and draws from no stream."""
    orders: list[ImageDataModule] = []
    noted = AtEpochsEnd((1,), lambda trainer: orders.append(trainer.datamodule))
    nets = [
        Net("first", seed=9, epochs=1, hears=lambda: [noted]),
        *(Net(f"{place}", place % 2, 1 + place, epochs=3) for place in range(3)),
    ]
    nets.append(Net("last", epochs=4))
    found = together(*nets)
    assert stacks == [5, 1]
    assert torch.equal(orders[0].state_dict()["generator"], found["first"]["order"])
    assert_as_alone(found, *nets)


def test_who_begins_a_new_fit_joins_those_that_are_in_theirs(stacks: list[int]) -> None:
    long = [Net(name, seed, epochs=3) for seed, name in enumerate("bcd")]
    twice = [Net("a1", epochs=1), Net("a2", seed=7, c2=5, epochs=2)]
    found: dict[str, Any] = {}

    def fits(*nets: Net) -> None:
        found.update({net.name: outcome(net) for net in nets})

    StackScheduler(PLAIN).run([partial(fits, *twice), *(partial(fits, net) for net in long)])
    assert_as_alone(found, *twice, *long)
    assert stacks == [4, 4]


def test_members_of_like_widths_are_trained_together(monkeypatch: pytest.MonkeyPatch) -> None:
    nets = [Net(f"{place}", c2=c2) for place, c2 in enumerate((1, 6, 7, 2))]
    widths: list[list[int]] = []
    real = scheduler.train

    def train(stack: Stack) -> None:
        widths.append(sorted(map(scheduler.size_of, stack.members)))
        real(stack)

    monkeypatch.setattr(scheduler, "train", train)
    assert_as_alone(together(*nets, settings=Settings("unfold", 2)), *nets)
    sizes = sorted(size for pair in widths for size in pair)
    assert sorted(widths) == [sizes[:2], sizes[2:]]
    assert sizes[1] < sizes[2]


def test_fits_that_lag_behind_are_trained_first(stacks: list[int]) -> None:
    """The second cell begins late, and with a long fit; the other waits for it where both can be trained together."""
    met: list[Any] = []

    def fits(of: dict[int, int], late: bool) -> None:
        if late:
            assert context.pause()
        for batch_size, epochs in of.items():
            Net("", epochs=epochs, batch_size=batch_size).fit()
        met.append(context.facts())

    StackScheduler(PLAIN).run(
        [partial(fits, {5: 1, 6: 1, 8: 1}, late=False), partial(fits, {7: 3, 4: 1, 8: 1}, late=True)]
    )
    assert stacks == [1, 1, 1, 1, 2]
    assert met == [{"members": 2, "form": "grouped"}] * 2
    assert context.facts() is None


class Batches(L.Callback):
    """Counts a fit's batches."""

    def __init__(self) -> None:
        self.seen = 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen += 1


def test_what_cannot_be_stacked_is_trained_alone(stacks: list[int], caplog: pytest.LogCaptureFixture) -> None:
    counts = Batches()
    nets = [Net("a"), Net("odd", hears=lambda: [counts]), Net("b")]
    caplog.set_level("INFO")
    found = together(*nets)
    assert stacks == [2]
    assert counts.seen == 6
    assert caplog.text.count("this fit is not stacked: Batches looks into single batches") == 1, "not at every batch"
    assert_as_alone(found, *nets)


def test_what_a_cell_costs_is_its_part_of_the_whole() -> None:
    """Its own turns, and as much of an epoch as each other member."""
    shares: dict[str, float | None] = {"alone": context.share_s()}

    def fits(net: Net) -> None:
        net.fit()
        if net.name == "slow":
            time.sleep(0.1)
        shares[net.name] = context.share_s()

    began = time.perf_counter()
    StackScheduler(PLAIN).run([partial(fits, Net(name, seed)) for seed, name in enumerate(("slow", "a", "b", "c"))])
    elapsed = time.perf_counter() - began
    assert shares.pop("alone") is None
    assert 0.5 * elapsed < sum(shares.values()) <= elapsed
    assert shares["slow"] >= 0.1
    assert shares["slow"] - min(shares.values()) >= 0.08, "beside its part of the epochs"


# -- what is a cell's own ---------------------------------------------------------------------------------------------


def plain(states: rng.States) -> list[Any]:
    return [states["torch"].tolist(), states["python"], states["numpy"][1].tolist(), states["numpy"][2:]]


def test_random_numbers_and_filters_of_warnings_stay_with_their_cells() -> None:
    heard: dict[str, list[Any]] = {"alone": [], "one": [], "two": []}

    def note(name: str, trainer: L.Trainer) -> None:
        ours = [each[1].pattern for each in warnings.filters if each[1] and each[1].pattern.startswith("of ")]
        heard[name].append((random.random(), np.random.rand(), torch.rand(()).item(), ours))
        warnings.filterwarnings("ignore", message=f"of {name} {trainer.current_epoch}")

    def fits(name: str, seed: int) -> None:
        L.seed_everything(seed, verbose=False)
        Net(name, seed, epochs=3, hears=lambda: [AtEpochsEnd((1, 2, 3), partial(note, name))]).fit()

    fits("alone", 5)
    before, filters = rng.states(), list(warnings.filters)
    StackScheduler(PLAIN).run([partial(fits, "one", 5), partial(fits, "two", 6)])
    after = rng.states()
    assert [row[:3] for row in heard["one"]] == [row[:3] for row in heard["alone"]]
    assert not {row[:3] for row in heard["one"]} & {row[:3] for row in heard["two"]}
    assert [row[3] for row in heard["two"]] == [[], ["of two 0"], ["of two 1", "of two 0"]]
    assert warnings.filters == filters
    assert plain(before) == plain(after)


class Begun(L.Callback):
    """Keeps a weak hold on what is trained."""

    def __init__(self, refs: list[weakref.ref[Any]]) -> None:
        self.refs = refs

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.refs += [weakref.ref(each) for each in (trainer, pl_module, trainer.datamodule)]


def test_nothing_of_the_fits_stays_in_the_process() -> None:
    """They end in the order in which they began, so none finds the handlers of signals as it had found them."""
    refs: list[weakref.ref[Any]] = []
    heard = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    together(*(Net(f"{epochs}", epochs=epochs, hears=lambda: [Begun(refs)]) for epochs in (1, 2, 3)))
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == heard
    gc.collect()
    assert [ref() for ref in refs] == [None] * 9


def test_an_error_behind_an_epoch_is_its_cells_alone(stacks: list[int]) -> None:
    def fail(_: L.Trainer) -> None:
        raise ArithmeticError("mine")

    bad = Net("bad", epochs=3, hears=lambda: [AtEpochsEnd((1,), fail)])
    others = [Net(f"{seed}", seed, epochs=3) for seed in range(4)]
    found = together(others[0], bad, *others[1:])
    assert isinstance(found["bad"], ArithmeticError)
    assert_as_alone(found, *others)
    assert stacks == [5], "its place is idle"


def test_a_loss_that_is_no_number_ends_those_that_have_a_guard_at_the_step_where_they_would_end_alone() -> None:
    def explode(trainer: L.Trainer) -> None:
        trainer.optimizers[0].param_groups[0]["lr"] = 1e200

    explodes = AtEpochsEnd((2,), explode)
    guarded = Net("guarded", epochs=4, hears=lambda: [explodes, DivergenceGuard()])
    free = Net("free", epochs=4, hears=lambda: [explodes])
    other = Net("other", seed=1, epochs=4, hears=lambda: [DivergenceGuard()])
    found = together(guarded, free, other)
    alone = outcome(guarded)
    assert isinstance(alone, Diverged)
    assert (type(found["guarded"]), str(found["guarded"])) == (Diverged, str(alone))
    assert_as_alone(found, free, other)


# -- when the stack itself fails --------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception, fails: Callable[[Stack, int], bool]) -> None:
    """Let steps of stacks fail; ``fails`` is asked with the stack and how many steps all stacks have made."""
    real, steps = Stack.training_step, iter(range(10_000))

    def training_step(stack: Stack, batch: Any, batch_idx: int) -> torch.Tensor:
        if fails(stack, next(steps)):
            raise error
        return real(stack, batch, batch_idx)

    monkeypatch.setattr(Stack, "training_step", training_step)


def test_members_of_a_stack_that_fails_go_on_alone(
    monkeypatch: pytest.MonkeyPatch, stacks: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """From the epoch on in which it failed, whose batches and noise are drawn again; where it failed is told once."""
    nets = [Net(f"{seed}", seed) for seed in range(3)]
    failing(monkeypatch, ValueError("a broken step"), lambda stack, step: len(stack.members) == 3 and step == 4)
    found = together(*nets, Net("another", batch_size=5))
    assert stacks.count(3) == 1
    assert [each.levelname for each in caplog.records if "broken step" in (each.exc_text or "")] == ["ERROR"]
    monkeypatch.undo()
    assert_as_alone(found, *nets, Net("another", batch_size=5))


def test_a_stack_that_cannot_be_made_costs_nobody(monkeypatch: pytest.MonkeyPatch, stacks: list[int]) -> None:
    nets = [Net(f"{seed}", seed) for seed in range(3)]
    real = Stack.__init__

    def made(self: Stack, members: Any, *rest: Any) -> None:
        if len(members) == 3:
            raise RuntimeError("CUDA out of memory.")
        real(self, members, *rest)

    monkeypatch.setattr(Stack, "__init__", made)
    found = together(*nets)
    monkeypatch.undo()
    assert_as_alone(found, *nets)


def test_a_stack_that_is_out_of_memory_is_halved_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch, stacks: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """It fails in the middle of its second epoch, whose batches and noise are drawn again."""
    nets = [Net(f"{place}", seed=place // 2, c2=place + 1) for place in range(5)]
    failing(monkeypatch, RuntimeError("CUDA out of memory."), lambda stack, step: step == 4)
    found = together(*nets)
    assert stacks[0] == 5
    assert sorted(stacks[1:]) == [2, 3]
    assert "a stack of 5 did not fit into memory" in caplog.text
    monkeypatch.undo()
    assert_as_alone(found, *nets)


def test_out_of_memory_on_its_own_is_the_end(monkeypatch: pytest.MonkeyPatch, stacks: list[int]) -> None:
    """Halves are halved again, until who is too large is alone: 178 parameters do not fit, 157 do."""
    nets = [Net("small"), Net("large", c2=6), Net("larger", c2=7)]
    failing(monkeypatch, MemoryError("gone"), lambda stack, _: max(map(scheduler.size_of, stack.members)) > 170)
    found = together(*nets)
    assert isinstance(found["larger"], MemoryError)
    assert stacks[0] == 3
    assert sorted(stacks) == [1, 1, 1, 2, 3]
    assert_as_alone(found, *nets[:2])


def test_a_stack_that_would_not_fit_is_halved_before_it_is_made(
    monkeypatch: pytest.MonkeyPatch, stacks: list[int]
) -> None:
    monkeypatch.setattr(scheduler, "too_large", lambda members: len(members) > 2)
    nets = [Net(f"{seed}", seed, epochs=1) for seed in range(5)]
    assert_as_alone(together(*nets), *nets)
    assert max(stacks) == 2
    assert sum(stacks) == 5


def test_a_hub_that_breaks_ends_its_fits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a cell that waits for an epoch as of one that pauses; what they had opened is closed."""
    left: list[str] = []

    def fits(name: str) -> None:
        with FileLock(tmp_path / name, blocking=False):
            try:
                if name == "paused":
                    context.pause()
                Net(name).fit()
            finally:
                left.append(name)

    def broken(_: object) -> None:
        raise LookupError("a broken hub")

    monkeypatch.setattr(scheduler, "signature", broken)
    with pytest.raises(LookupError, match="a broken hub"):
        StackScheduler(PLAIN).run([partial(fits, name) for name in ("one", "two", "paused")])
    assert sorted(left) == ["one", "paused", "two"]
    for name in left:
        FileLock(tmp_path / name, blocking=False).acquire().lock.release()


# -- whole cells ------------------------------------------------------------------------------------------------------


class Copied(L.Callback):
    """Copies a cell's folder when an epoch begins: it is what a kill in that epoch leaves.

    Args:
        epoch: behind which the kill comes.
    """

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        folder = Path(trainer.default_root_dir)
        left = folder.parent.with_suffix(".killed") / folder.name
        if trainer.current_epoch == self.epoch and folder.parent.suffix != ".killed":
            shutil.copytree(folder, left)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    arrays = Squares().load()
    path = tmp_path_factory.mktemp("data") / "squares.npz"
    images, few = arrays.x_train.squeeze(1), arrays.x_test.squeeze(1)
    np.savez(path, x_train=images, y_train=arrays.y_train, x_test=few, y_test=arrays.y_test)
    resolvers.register()
    words = ["data=dhcd", f"data.path={path}", "data.batch_size=8", "augment=none", "optimizer.lr=0.03", "threads=1"]
    small = ["model.c1=2", "model.c2=2", "model.c3=2", "model.kernels=[3,3,1]", "trainer.max_epochs=3"]
    exact = ["trainer.precision=64-true", "trainer.accelerator=cpu", "callbacks.memory_check=null"]
    saving = ["callbacks.resume.min_interval_s=0", "logger.wandb.mode=disabled"]
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return resolved(compose("config", [*words, *small, *exact, *saving]))


def cells_in(folder: Path, config: dict[str, Any], count: int = 2) -> list[Cell]:
    """Cells with seeds of their own, which are killed behind as many epochs as their numbers say."""
    cells = []
    for number in range(1, count + 1):
        own = copy.deepcopy(config) | {"seed": number}
        own["callbacks"]["copied"] = {"_target_": f"{__name__}.{Copied.__name__}", "epoch": number}
        cells.append(Cell(folder / f"cell-{number}", f"{number:010}", {"seed": number}, own, in_sweep=True))
    return cells


def live_together(cells: Sequence[Cell]) -> dict[str, CellOutcome]:
    ended: dict[str, CellOutcome] = {}
    run(cells, lambda cell, how: ended.update({cell.name: how}), PLAIN, life.run)
    return ended


def assert_nothing_is_held(cells: Sequence[Cell], handlers: Sequence[logging.Handler]) -> None:
    for cell in cells:
        with FileLock(cell.directory / LOCK, blocking=False):
            assert "heartbeat" not in {thread.name for thread in threading.enumerate()}
    assert logging.getLogger().handlers == handlers


def saved_in(cell: Path) -> Iterator[tuple[str, Any]]:
    """All that is in a cell's resume checkpoint, by its place, but for clocks."""

    def parts(of: Any, where: str) -> Iterator[tuple[str, Any]]:
        if isinstance(of, dict | list | tuple):
            pairs = of.items() if isinstance(of, dict) else enumerate(of)
            for key, part in pairs:
                yield from parts(part, f"{where}/{key}") if key != "seconds" else ()
        else:
            yield where, torch.as_tensor(of) if isinstance(of, float) else of

    yield from parts(torch.load(cell / records.RESUME_CHECKPOINT, weights_only=True), "")


def assert_saved_alike(cell: Path, other: Path) -> None:
    """What loops, optimizers, callbacks and random streams have saved is equal."""
    one, two = dict(saved_in(cell)), dict(saved_in(other))
    assert one.keys() == two.keys()
    for where, value in one.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, two[where], **EXACT, msg=where)
        else:
            assert (where, value) == (where, two[where])


def test_cells_that_are_killed_in_a_stack_go_on_alone_and_the_other_way_round(
    config: dict[str, Any], tmp_path: Path
) -> None:
    """They were killed behind different epochs, and go on in one stack."""
    for cell in cells_in(tmp_path / "alone", config):
        life.run(cell)
    live_together(cells_in(tmp_path / "stacked", config))
    for cell in (tmp_path / "alone.killed").iterdir():
        assert_saved_alike(tmp_path / "stacked.killed" / cell.name, cell)
    for cell in cells_in(tmp_path / "stacked.killed", config):
        assert records.read_status(cell.directory).state == "running"
        assert (cell.directory / records.RESUME_CHECKPOINT).is_file()
        life.run(cell)
    live_together(cells_in(tmp_path / "alone.killed", config))
    for other in ("stacked", "stacked.killed", "alone.killed"):
        assert differences(tmp_path / other, tmp_path / "alone") == []
    sizes = [
        records.read_result(cell)["environment"].get("stack", {}).get("members")
        for folder in ("stacked", "stacked.killed", "alone.killed")
        for cell in sorted((tmp_path / folder).iterdir())
    ]
    assert sizes == [2, 2, None, None, 2, 2]


def test_memory_that_runs_out_for_each_alone_is_in_every_cells_status(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = list(logging.getLogger().handlers)
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory")
    failing(monkeypatch, error, lambda stack, step: True)
    cells = cells_in(tmp_path / "sweep", config)
    ended = live_together(cells)
    assert [ended[cell.name].status.kind for cell in cells] == ["out-of-memory"] * 2
    for cell in cells:
        assert f"RuntimeError: {error}" in (cell.directory / records.LOG).read_text()
    assert_nothing_is_held(cells, handlers)


def test_what_breaks_a_stack_is_in_every_cells_log(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, ValueError("a broken step"), lambda stack, step: True)
    cells = cells_in(tmp_path / "sweep", config)
    assert {ended.status.state for ended in live_together(cells).values()} == {"done"}
    for cell in cells:
        log = (cell.directory / records.LOG).read_text()
        assert log.count("ValueError: a broken step") == 1
        assert "in training_step" in log, "where it was"


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_a_hub_that_breaks_lets_go_of_its_cells(
    error: type[BaseException], config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = list(logging.getLogger().handlers)

    def broken(_: object) -> None:
        raise error

    monkeypatch.setattr(scheduler, "signature", broken)
    cells = cells_in(tmp_path / "sweep", config)
    with pytest.raises(error):
        live_together(cells)
    assert_nothing_is_held(cells, handlers)
    monkeypatch.undo()
    assert [how.status.state for how in live_together(cells).values()] == ["done"] * 2


# -- cells that wait for others ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """How a try at a cell ended."""

    busy: bool


def test_a_cell_that_waits_for_another_process_ends_as_busy_and_is_tried_meanwhile(tmp_path: Path) -> None:
    memo, stage = StageMemo(tmp_path, lambda without: "key"), Stage("base")
    tries, ended = [], {}

    def work(name: str) -> Told:
        if name == "fits":
            Net(name).fit()
            return Told(busy=False)
        tries.append(name)
        try:
            memo.get(stage, lambda folder: {})
        except StageBusy:
            return Told(busy=True)
        raise AssertionError("the stage is another's")

    memo.directory(stage).mkdir(parents=True)
    with FileLock(memo.directory(stage) / LOCK):
        run(["waits", "fits", "waits too"], lambda name, how: ended.update({name: how.busy}), PLAIN, work)
    assert ended == {"waits": True, "fits": False, "waits too": True}
    assert tries[:4] == ["waits", "waits too"] * 2


def test_cells_that_wait_for_each_other_come_to_their_end() -> None:
    """The last one is ready at its third try only; that its fit begins then gives the first one another chance."""
    done: list[str] = []
    tries = iter(range(100))

    def work(name: str) -> Told:
        if name == "second" and next(tries) < 1:
            return Told(busy=True)
        if name == "first" and "second" not in done:
            return Told(busy=True)
        Net(name, epochs=1).fit()
        done.append(name)
        return Told(busy=False)

    ended: list[tuple[str, bool]] = []
    run(["first", "second"], lambda name, how: ended.append((name, how.busy)), PLAIN, work)
    assert ended == [("second", False), ("first", False)]
    assert not context.pause(), "alone, there is nobody to wait for"
