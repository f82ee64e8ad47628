"""The check that a training step fits into memory, made before the first step."""

import logging

import lightning as L
import torch
from torch import nn

from capsexp import hardware
from capsexp.callbacks.base import ResultCallback
from capsexp.errors import ConfigError
from capsexp.memory_estimate import training_step_bytes
from capsexp.types import Batch

log = logging.getLogger(__name__)


class MemoryCheck(ResultCallback):
    """Refuses a fit, before its first step, if a training step needs more memory than its device has free.

    :mod:`capsexp.memory_estimate` computes the need of a step, and documents what is not counted.  If the system does
    not report its free memory, no fit is refused.  Evaluation is not counted, and cells that start together all see the
    same free memory.  The result gets ``step_bytes``, which depends on no measurement.
    """

    def __init__(self) -> None:
        self.step_bytes: int | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the memory of a step with the free memory.

        Raises:
            ConfigError: the step does not fit; the message names a batch size that fits.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        images = min(data.batch_size, data.summary()["n_train"])
        self.step_bytes = _step_bytes(trainer, pl_module, images)
        free = free_memory(pl_module.device)
        if self.step_bytes is None or free is None:
            return
        room = free + _resident_bytes(pl_module)
        if self.step_bytes > room:
            advice = _advice(trainer, pl_module, images, room)
            needs = f"needs about {_size(self.step_bytes - _resident_bytes(pl_module))}, {_size(free)} are free"
            rule = f"leave a training step room in memory ({needs}: {advice})"
            raise ConfigError("data.batch_size", rule, data.batch_size)

    def result_memory(self) -> dict[str, int]:
        """``step_bytes``: the peak memory of a training step in bytes."""
        return {} if self.step_bytes is None else {"step_bytes": self.step_bytes}


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device has free for this process; None if this is not known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return hardware.available_memory() if device.type == "cpu" else None


def _step_bytes(trainer: L.Trainer, module: L.LightningModule, images: int) -> int | None:
    """Bytes of a step with a batch of ``images``; None for a module that cannot be traced but may still train."""
    example = next(iter(trainer.datamodule.val_dataloader()))  # type: ignore[attr-defined]  # draws nothing random
    empty = Batch(*(torch.empty(images, *part.shape[1:], dtype=part.dtype, device="meta") for part in example))
    precision = trainer.precision_plugin
    try:
        return training_step_bytes(module, precision.convert_input(empty), precision.train_step_context())
    except Exception as error:
        log.warning("the memory of a training step is not known, and not checked (%s: %s)", type(error).__name__, error)
        return None


def _resident_bytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers, which are on the device already."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _advice(trainer: L.Trainer, module: L.LightningModule, images: int, room: int) -> str:
    """Advice with the largest power of two that fits as a batch; tracing a step costs no memory, so each is tried."""
    for exponent in reversed(range((images - 1).bit_length())):
        needed = _step_bytes(trainer, module, 2**exponent)
        if needed is not None and needed <= room:
            return f"set data.batch_size={2**exponent} or less"
    return "choose a smaller model"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
