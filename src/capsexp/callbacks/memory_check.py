"""True if a training step fits into memory, told before the first one."""

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
    """Refuses a fit whose training step needs more memory than its device has free, before the first step.

    What a step needs is computed by :mod:`capsexp.memory_estimate`, which says what is not counted.  Where the system
    does not say what is free, nothing is refused.  Evaluation is not counted, and cells that start together all see
    the same free memory.  The result gets ``step_bytes``, which no measurement enters.
    """

    def __init__(self) -> None:
        self.step_bytes: int | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare what a step takes with what is free.

        Raises:
            ConfigError: it does not fit; the line says which batch would.
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
        """``step_bytes``: what a training step holds at its peak, in bytes."""
        return {} if self.step_bytes is None else {"step_bytes": self.step_bytes}


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device has left for this process, or None where nobody says."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return hardware.available_memory() if device.type == "cpu" else None


def _step_bytes(trainer: L.Trainer, module: L.LightningModule, images: int) -> int | None:
    """What a step with so many images takes; None for a module that cannot be followed but may well train."""
    example = next(iter(trainer.datamodule.val_dataloader()))  # type: ignore[attr-defined]  # draws nothing random
    empty = Batch(*(torch.empty(images, *part.shape[1:], dtype=part.dtype, device="meta") for part in example))
    precision = trainer.precision_plugin
    try:
        return training_step_bytes(module, precision.convert_input(empty), precision.train_step_context())
    except Exception as error:
        log.warning("the memory of a training step is not known, and not checked (%s: %s)", type(error).__name__, error)
        return None


def _resident_bytes(module: nn.Module) -> int:
    """Bytes of what a step uses and the device holds already."""
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def _advice(trainer: L.Trainer, module: L.LightningModule, images: int, room: int) -> str:
    """The largest power of two that fits as a batch; following a step costs no memory, so each is simply tried."""
    for exponent in reversed(range((images - 1).bit_length())):
        needed = _step_bytes(trainer, module, 2**exponent)
        if needed is not None and needed <= room:
            return f"set data.batch_size={2**exponent} or less"
    return "choose a smaller model"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
