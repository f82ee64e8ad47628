"""A stack: one LightningModule of many members, which is trained as long as the same members continue."""

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
"""For every measure, the sum over images of each member (N,)."""


class Stack(L.LightningModule):
    """Networks that are trained together, folded into one: their channels are concatenated and padded with zeros.

    Between epochs the state is in the members' own modules, optimizers and random states: an epoch begins by loading
    them and ends by storing them back.  The place of a member that has stopped is idle: its result is not used.

    Attributes:
        members: the members, ordered by their stream of batches.
        live: places of the members that are still trained.
        epoch_s: duration of the last epoch in seconds.

    Args:
        members: in any order, all with one signature.
        impl: the implementation of the folded convolutions.
        go_on: called after an epoch; returns whether the same stack is used for another one.
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
        """Train only the members at these places from now on."""
        self.live = sorted(live)
        self._judge = (self.members[self.live[0]].module,)  # in a tuple, so that it is not registered as a submodule
        self._lead()

    def _of_live(self) -> tuple[list[dict[str, Tensor]], list[Optimizer | None]]:
        """The members' tensors and optimizers; empty for idle places."""
        live = set(self.live)
        tensors = [own if place in live else {} for place, own in enumerate(self._tensors)]
        return tensors, [own if place in live else None for place, own in enumerate(self._optimizers)]

    def _lead(self) -> None:
        """Set the first live member of every stream as its leader; a stream without one gets any live member."""
        leaders = {self._stream_of[place]: self.members[place].data for place in reversed(self.live)}
        for stream in range(len(self.train_loader.leaders)):
            self.train_loader.leaders[stream] = leaders.get(stream, self.members[self.live[0]].data)

    # -- an epoch -----------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        """Load the state of the members."""
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
        """Store the state of the members, and resume them."""
        tensors, optimizers = self._of_live()
        self._slots.store(tensors)
        self._adam.store(optimizers, self._own_parameters)
        assert self._fold.generators is not None
        for place in self.live:
            member = self.members[place]
            member.context.set_noise(self._fold.generators[place])
            member.data.load_state_dict(self.train_loader.leaders[self._stream_of[place]].state_dict())
        self._before = {}
        self._bad = self._first_bad_N.tolist()
        self.epoch_s = time.perf_counter() - self._since
        if not self._go_on(self):
            self.trainer.should_stop = True

    def undo(self) -> None:
        """Restore the batch streams to their state before a failed epoch."""
        for data, state in self._before.items():
            data.load_state_dict(state)

    def outcome(self, place: int) -> EpochResult | Diverged:
        """The result of the epoch for the member at this place."""
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
        """Compute the sum of the members' losses; each member gets the gradient of its own loss."""
        losses_N = self._measure(batch, "train")
        self._step += 1
        bad_N = losses_N.detach().isfinite().logical_not() & self._first_bad_N.eq(0)
        self._first_bad_N.masked_fill_(bad_N, self._step)
        return losses_N.sum()

    def validation_step(self, batch: StackBatch, batch_idx: int) -> None:
        """Add the measures of one validation batch."""
        self._measure(batch, "val")

    def configure_optimizers(self) -> StackedAdam:
        """Return one optimizer, with each member's own settings."""
        return self._adam

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Clip each member's gradients by its own limit."""
        limits = [_limit(member.trainer.gradient_clip_val) for member in self.members]
        clip(list(self.folded.parameters()), limits, gradient_clip_algorithm or "norm")

    def _measure(self, batch: StackBatch, split: str) -> Tensor:
        """Compute each member's loss (N,), and add the measures to the totals."""
        if len(batch.images_SBCHW) > 1 and not self._even:  # then every member gets its own copy of the images
            batch = StackBatch(*(part[self._stream_of] for part in batch))
        streams = len(batch.images_SBCHW)
        images_BCHW, labels_BS = batch.images_SBCHW.transpose(0, 1).flatten(1, 2), batch.labels_SB.T
        made = self._judge[0].made_by(self.folded, images_BCHW, labels_BS)
        # Autocast, which computes losses in single precision, has no effect inside vmap.
        made = {name: at_least_single(value) for name, value in made.items()}
        made_N = {name: apart(value, len(self.members)).transpose(0, 1) for name, value in made.items()}
        losses_N, totals_N = self._judged_together(made_N, batch, len(self.members) // streams)
        sums = self._totals[split]
        for name, total_N in totals_N.items():
            sums.setdefault(name, total_N.new_zeros(total_N.shape, dtype=torch.float64)).add_(total_N)
        self._counts[split] += batch.labels_SB.shape[1]
        return losses_N

    def _judged_together(self, made_N: Made, batch: StackBatch, each: int) -> tuple[Tensor, Totals]:
        """Each member's loss and the sums of the measures (N,); ``each`` is the number of members per stream."""
        if len(batch.images_SBCHW) == 1:
            return torch.vmap(self._judged, (0, None))(made_N, Batch(*(part[0] for part in batch)))
        # Every member's batch is expanded as a view: torch's losses fail if an inner dimension is shared.
        own = Batch(*(part[:, None].expand(-1, each, *part.shape[1:]) for part in batch))
        made_SM = {name: value.view(-1, each, *value.shape[1:]) for name, value in made_N.items()}
        losses_SM, totals_SM = torch.vmap(torch.vmap(self._judged))(made_SM, own)
        return losses_SM.flatten(), {name: total_SM.flatten() for name, total_SM in totals_SM.items()}

    def _judged(self, made: Made, batch: Batch) -> tuple[Tensor, Totals]:
        """The loss and the measures of one member, from its outputs."""
        output = self._judge[0].judged(made, batch)
        return output.loss, self._judge[0].totals(output, batch)


def _limit(given: float | None) -> float | None:
    """The limit of gradient clipping, or None; for Lightning, 0 means no limit."""
    return given if given is not None and given > 0 else None


def train(stack: Stack) -> None:
    """Train a stack until its ``go_on`` returns False."""
    member = stack.members[0]
    given = {key: value for key, value in member.config["trainer"].items() if key not in OF_A_MEMBER["trainer"]}
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    fixed: dict[str, Any] = {
        **dict.fromkeys(quiet, False),
        "max_epochs": -1,
        "limit_train_batches": member.steps,
        "limit_val_batches": 1.0 if member.validates else 0,
        "check_val_every_n_epoch": 1,  # its members decide when; the stack's own epoch count differs from theirs
        "num_sanity_val_steps": 0,
        "plugins": [LightningEnvironment()],
        "default_root_dir": member.trainer.default_root_dir,
    }
    with quiet_lightning():
        trainer = L.Trainer(**{**given, **fixed})
        trainer.fit(stack, stack.train_loader, stack.val_loader)
