"""A stack: one LightningModule of many members, trained for as long as the same ones go on together."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from torch import Tensor
from torch.optim import Optimizer

from capsexp import rng
from capsexp.callbacks.divergence import DivergenceGuard
from capsexp.data.base import ImageDataModule
from capsexp.errors import Diverged
from capsexp.lightning_modules.base import Made
from capsexp.lightning_modules.quiet import quiet_lightning
from capsexp.nn.functional import at_least_single
from capsexp.stacking.adam import StackedAdam, clip, decoupled
from capsexp.stacking.convolutions import Impl, apart
from capsexp.stacking.folding import Slots, fold, tensors_of
from capsexp.stacking.grouping import OF_A_MEMBER
from capsexp.stacking.member import EpochResult, MemberEpochs
from capsexp.stacking.streams import SharedLoader, StackBatch, StreamLoader, in_streams
from capsexp.types import Batch

Totals = dict[str, Tensor]
"""Of every measure, each member's sum over images (N,)."""


class Stack(L.LightningModule):
    """Networks that are trained together, folded into one: their channels lie side by side, padded with zeros.

    Between epochs the members' own modules, optimizers and random states are what counts: an epoch begins by loading
    them and ends by storing them back.  A member that has stopped leaves its place idle: what is computed there
    is looked at by nobody.

    Attributes:
        members: those of one stream of batches lie side by side.
        live: places of those that are still trained.
        epoch_s: seconds that the last epoch took.

    Args:
        members: in any order, all of one signature.
        impl: of the folded convolutions.
        go_on: what is done behind an epoch; says whether the same stack is wanted for another one.
    """

    def __init__(self, members: Sequence[MemberEpochs], impl: Impl, go_on: Callable[["Stack"], bool]) -> None:
        super().__init__()
        streams = in_streams([member.data for member in members])
        self.members = [members[place] for stream in streams for place in stream]
        self._stream_of = [number for number, stream in enumerate(streams) for _ in stream]
        self._even = len({len(stream) for stream in streams}) == 1
        self._go_on = go_on
        models = [member.module.model for member in self.members]
        self.folded, self._fold = fold(models, impl)
        self._tensors = [tensors_of(model) for model in models]
        shapes = [{name: tensor.shape for name, tensor in own.items()} for own in self._tensors]
        self._slots = Slots(tensors_of(self.folded), shapes)
        self._own_parameters = [dict(model.named_parameters()) for model in models]
        self._optimizers = [member.trainer.optimizers[0] for member in self.members]
        stacked = dict(self.folded.named_parameters())
        self._adam = StackedAdam(stacked, self._own_parameters, decoupled=decoupled(self._optimizers[0]))
        self.train_loader = StreamLoader([self.members[stream[0]].data for stream in streams])
        self.val_loader = SharedLoader(self.members[0].data)
        self.epoch_s = self._since = 0.0
        self._before: dict[ImageDataModule, dict[str, Tensor]] = {}
        self.keep(range(len(self.members)))

    def keep(self, live: Iterable[int]) -> None:
        """From now on train the members at these places alone."""
        self.live = sorted(live)
        self._judge = (self.members[self.live[0]].module,)  # in a tuple, so that it is no part of this module
        self._lead()

    def _of_live(self) -> tuple[list[dict[str, Tensor]], list[Optimizer | None]]:
        """The members' tensors and optimizers; nothing in the place of one that is idle."""
        live = set(self.live)
        tensors = [own if place in live else {} for place, own in enumerate(self._tensors)]
        return tensors, [own if place in live else None for place, own in enumerate(self._optimizers)]

    def _lead(self) -> None:
        """The first live member of every stream leads it; one in which none is left is led by whoever is."""
        leaders = {self._stream_of[place]: self.members[place].data for place in reversed(self.live)}
        for stream in range(len(self.train_loader.leaders)):
            self.train_loader.leaders[stream] = leaders.get(stream, self.members[self.live[0]].data)

    # -- an epoch -----------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Load what the members are."""
        count = len(self.members)
        self._totals: dict[str, Totals] = {"train": {}, "val": {}}
        self._counts = {"train": 0, "val": 0}
        self._step, self._first_bad_N = 0, torch.zeros(count, dtype=torch.int64, device=self.device)
        self._since = time.perf_counter()
        self._before = {data: data.state_dict() for data in self.train_loader.leaders}
        tensors, optimizers = self._of_live()
        self._slots.load(tensors)
        self._adam.load(optimizers, self._own_parameters)
        generators = [rng.stream(self.device)] * count  # for idle places
        for place in self.live:
            generators[place] = self.members[place].context.noise(self.device)
        self._fold.generators = generators

    def on_train_epoch_end(self) -> None:
        """Store what has become of the members, and give them their turn."""
        tensors, optimizers = self._of_live()
        self._slots.store(tensors)
        self._adam.store(optimizers, self._own_parameters)
        assert self._fold.generators is not None
        for place in self.live:
            member = self.members[place]
            member.context.noise_is(self._fold.generators[place])
            member.data.load_state_dict(self.train_loader.leaders[self._stream_of[place]].state_dict())
        self._before = {}
        self._bad = self._first_bad_N.tolist()
        self.epoch_s = time.perf_counter() - self._since
        if not self._go_on(self):
            self.trainer.should_stop = True

    def undo(self) -> None:
        """Behind an epoch that has failed: the streams of batches stand where they stood before it."""
        for data, state in self._before.items():
            data.load_state_dict(state)

    def outcome(self, place: int) -> EpochResult | Diverged:
        """What the epoch was for the member at this place."""
        member = self.members[place]
        if self._bad[place] and any(isinstance(each, DivergenceGuard) for each in member.trainer.callbacks):
            return Diverged(member.global_step + self._bad[place])
        sums = {
            split: {name: (total_N[place], self._counts[split]) for name, total_N in totals.items()}
            for split, totals in self._totals.items()
            if totals
        }
        return EpochResult(self._step, sums)

    # -- a step -------------------------------------------------------------------------------------------------------

    def training_step(self, batch: StackBatch, batch_idx: int) -> Tensor:
        """The sum of the members' losses, whose gradient is each member's own."""
        losses_N = self._measure(batch, "train")
        self._step += 1
        bad_N = losses_N.detach().isfinite().logical_not() & self._first_bad_N.eq(0)
        self._first_bad_N.masked_fill_(bad_N, self._step)
        return losses_N.sum()

    def validation_step(self, batch: StackBatch, batch_idx: int) -> None:
        """Add one validation batch to what was measured."""
        self._measure(batch, "val")

    def configure_optimizers(self) -> StackedAdam:
        """One optimizer, with each member's own settings."""
        return self._adam

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip each member's gradients by its own limit."""
        limits = [_limit(member.trainer.gradient_clip_val) for member in self.members]
        clip(list(self.folded.parameters()), limits, gradient_clip_algorithm or "norm")

    def _measure(self, batch: StackBatch, split: str) -> Tensor:
        """Each member's loss (N,); what is measured adds up."""
        if len(batch.images_SBCHW) > 1 and not self._even:  # then every member gets images of its own
            batch = StackBatch(*(part[self._stream_of] for part in batch))
        streams = len(batch.images_SBCHW)
        images_BCHW, labels_BS = batch.images_SBCHW.transpose(0, 1).flatten(1, 2), batch.labels_SB.T
        made = self._judge[0].made_by(self.folded, images_BCHW, labels_BS)
        # Autocast, which judges in single precision, does not reach into vmap.
        made = {name: at_least_single(value) for name, value in made.items()}
        made_N = {name: apart(value, len(self.members)).transpose(0, 1) for name, value in made.items()}
        losses_N, totals_N = self._judged_together(made_N, batch, len(self.members) // streams)
        sums = self._totals[split]
        for name, total_N in totals_N.items():
            sums.setdefault(name, total_N.new_zeros(total_N.shape, dtype=torch.float64)).add_(total_N)
        self._counts[split] += batch.labels_SB.shape[1]
        return losses_N

    def _judged_together(self, made_N: Made, batch: StackBatch, each: int) -> tuple[Tensor, Totals]:
        """Each member's loss, and the sums of what is measured (N,); ``each`` stream has so many members."""
        if len(batch.images_SBCHW) == 1:
            return torch.vmap(self._judged, (0, None))(made_N, Batch(*(part[0] for part in batch)))
        # Every member's batch is spelled out, as a view: torch's losses fail where an inner dimension is shared.
        own = Batch(*(part[:, None].expand(-1, each, *part.shape[1:]) for part in batch))
        made_SM = {name: value.view(-1, each, *value.shape[1:]) for name, value in made_N.items()}
        losses_SM, totals_SM = torch.vmap(torch.vmap(self._judged))(made_SM, own)
        return losses_SM.flatten(), {name: total_SM.flatten() for name, total_SM in totals_SM.items()}

    def _judged(self, made: Made, batch: Batch) -> tuple[Tensor, Totals]:
        """One member's loss and what is measured, from what it made."""
        output = self._judge[0].judged(made, batch)
        return output.loss, self._judge[0].totals(output, batch)


def _limit(given: float | None) -> float | None:
    """To what gradients are clipped: for Lightning, 0 is no limit."""
    return given if given is not None and given > 0 else None


def train(stack: Stack) -> None:
    """Train a stack for as long as it is wanted."""
    member = stack.members[0]
    given = {key: value for key, value in member.config["trainer"].items() if key not in OF_A_MEMBER["trainer"]}
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    fixed: dict[str, Any] = {
        **dict.fromkeys(quiet, False),
        "max_epochs": -1,
        "limit_train_batches": member.steps,
        "limit_val_batches": 1.0 if member.validates else 0,
        "check_val_every_n_epoch": 1,  # its members say when: it is not as old as they are
        "num_sanity_val_steps": 0,
        "plugins": [LightningEnvironment()],
        "default_root_dir": member.trainer.default_root_dir,
    }
    with quiet_lightning():
        trainer = L.Trainer(**{**given, **fixed})
        trainer.fit(stack, stack.train_loader, stack.val_loader)
