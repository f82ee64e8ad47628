"""The signature of fits that one stack can train, and the reasons why a fit cannot be stacked."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import lightning as L
from lightning.pytorch.plugins.precision import DoublePrecision, MixedPrecision, Precision

from capsexp.callbacks.divergence import DivergenceGuard
from capsexp.lightning_modules.base import BaseModule
from capsexp.nn.channels import Prunable
from capsexp.stacking.adam import accepts
from capsexp.stacking.folding import foldable
from capsexp.stacking.grouping import OF_A_MEMBER
from capsexp.stacking.member import MemberEpochs

WITHIN_AN_EPOCH: Final = (
    *("on_train_batch_start", "on_train_batch_end", "on_validation_batch_start", "on_validation_batch_end"),
    *("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
)
"""Hooks of Lightning that are called for a member alone, but not for a member of a stack."""

SHARED: Final = ("data", "augment", "model", "routing", "optimizer", "trainer")
"""Config groups that determine the training step."""

SETTINGS: Final = ("kernel_size", "stride", "padding", "output_padding", "dilation", "ceil_mode", "eps", "momentum")
"""Settings in which layers of one type must agree."""


def signature(member: MemberEpochs) -> tuple[Any, ...]:
    """A signature, equal for members whose next epoch one stack can train."""
    module = member.module
    modes = tuple(part.training for part in module.model.modules())
    trained = tuple(parameter.requires_grad for parameter in module.model.parameters())
    return (_lasting(member), modes, trained, member.steps, member.validates)


def _lasting(member: MemberEpochs) -> tuple[Any, ...]:
    """The part of the signature that does not change during a fit."""
    if member.lasting is None:
        module = member.module
        model = module.model
        shared = json.dumps(_shared(member.config, type(model).stackable), sort_keys=True, default=str)
        first = next(model.parameters())
        where = (str(first.device), str(first.dtype))
        images = member.data.summary()["n_train"]
        member.lasting = (shared, type(module), module.variant, where, images, tuple(_leaves(model)))
    return member.lasting


def _shared(config: Mapping[str, Any], own_sizes: frozenset[str]) -> dict[str, Any]:
    own = {**OF_A_MEMBER, "model": tuple(own_sizes)}
    return {
        group: {key: value for key, value in (config.get(group) or {}).items() if key not in own.get(group, ())}
        for group in SHARED
    }


def _leaves(model: Prunable) -> Iterator[tuple[Any, ...]]:
    """The leaf modules of a model, described without their widths."""
    for name, part in model.named_modules():
        if not any(part.children()):
            settings = [getattr(part, key, None) for key in SETTINGS]
            yield name, type(part).__qualname__, str(settings), getattr(part, "bias", None) is None


def refusal(member: MemberEpochs) -> str | None:
    """The reason why a fit cannot be stacked, in a few words; None if it can."""
    trainer, module = member.trainer, member.module
    unusual = _unusual(trainer)
    if unusual:
        return f"stacks do not know its trainer.{unusual}"
    owner = _owner_of_batch_hook(trainer, module)
    if owner:
        return f"{owner} looks into single batches"
    promised = bool(type(module.model).stackable)
    if not (promised and module.stackable and foldable(module.model)):
        return f"{type(module.model).__name__} trained by {type(module).__name__} cannot be folded"
    if module.alone:
        return module.alone
    if any(part._forward_hooks or part._forward_pre_hooks for part in module.model.modules()):
        return "something listens to what passes through the network"
    optimizers = trainer.optimizers
    if len(optimizers) != 1 or trainer.lr_scheduler_configs or not accepts(optimizers[0]):
        return "only torch's Adam and AdamW, with one group of parameters and no schedule, are stacked"
    return None


def _unusual(trainer: L.Trainer) -> str | None:
    """A trainer setting that is not its default and that stacks do not support."""
    usual: dict[str, tuple[Any, ...]] = {
        "accumulate_grad_batches": (1,),
        "limit_train_batches": (1.0,),
        "limit_val_batches": (1.0, 0, 0.0),
        "overfit_batches": (0, 0.0),
        "val_check_interval": (1.0,),
        "fast_dev_run": (False,),
        "reload_dataloaders_every_n_epochs": (0,),
    }
    for name, values in usual.items():
        value = getattr(trainer, name)
        if not any(type(value) is type(each) and value == each for each in values):  # 1 is one batch, 1.0 all of them
            return name
    precision = trainer.precision_plugin
    scaled = isinstance(precision, MixedPrecision) and precision.scaler is not None
    return "precision" if scaled or type(precision) not in (Precision, DoublePrecision, MixedPrecision) else None


def _owner_of_batch_hook(trainer: L.Trainer, module: BaseModule) -> str | None:
    """The name of a callback or module that overrides a hook within an epoch; None if there is none."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for hook in WITHIN_AN_EPOCH:
            own = getattr(type(callback), hook) is not getattr(L.Callback, hook)
            if own and not isinstance(callback, DivergenceGuard):  # the stack checks every loss itself
                return type(callback).__name__
    for hook in ("training_step", "validation_step", "optimizer_step", *WITHIN_AN_EPOCH):
        if getattr(type(module), hook) is not getattr(BaseModule, hook):
            return type(module).__name__
    return None
