"""The same work on the CPU and on a device, and what then differs between the numbers."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn
from torchmetrics import Metric

from capsexp import cli, records
from capsexp.data.augment import SCHEMES
from capsexp.data.loaders import EvalLoader, Part, TrainLoader
from capsexp.pruning.base import Layer
from capsexp.recipes import latency
from capsexp.stacking.grouping import Settings
from capsexp.types import Batch
from tests.conftest import write_tiny_npz
from tests.contracts.parts import BATCH, CLASSES, SHAPE, UPDATES, Case, composed, criterion
from tests.cuda.cells import STACKS
from tests.stacking.together import all_of, alone, together, unlike

CPU = torch.device("cpu")

TRAINED = 1e-8
"""Largest difference after a float64 training of ten steps.

One step differs in the last digits, 1e-16 of a value.  Adam divides by a gradient's size, so it turns the rounding of
a gradient that should be zero into 1e-16 / 1e-8 of a learning rate.  Other arithmetic than float64, another order of
images or another random number give more than 1e-4.
"""

STEP = {torch.float64: 1e-10, torch.float32: 2e-4}
"""Largest difference of a step's loss and gradients, relative to the largest value of the tensor.

float32 has 6e-8 in one operation, and sums of up to 1e4 terms in another order; TF32 would give 1e-3, and is off.
"""

AUTOCAST = 2e-2
"""The same for a loss in bfloat16, which has three digits."""


def accelerator(device: torch.device) -> str:
    """Lightning's word for a device."""
    return "cpu" if device.type == "cpu" else "gpu"


@contextlib.contextmanager
def whole_float32() -> Iterator[None]:
    """Inside, a GPU computes float32 products in float32: for convolutions torch's default is TF32."""
    conv, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = conv.allow_tf32, matmul.allow_tf32
    conv.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        conv.allow_tf32, matmul.allow_tf32 = before


# -- cells ------------------------------------------------------------------------------------------------------------

PLAIN = (
    *("data=dhcd", "data.batch_size=16", "trainer.max_epochs=2", "optimizer.lr=5e-3", "trainer.precision=64-true"),
    *("hydra/launcher=basic", "sweep.name=adhoc", "threads=1", "logger.wandb.mode=disabled"),
    "callbacks.memory_check=null",
)
"""Overrides of a tiny cell."""

SAME = ("metrics", "params", "params_paper", "training")
"""Keys of a result that do not name the device."""


def cells_differ(words: Sequence[str], device: torch.device, folder: Path) -> list[str]:
    """What differs between a cell that ran on the CPU and one that ran on the device.

    Args:
        words: its overrides.
        device: of the second.
        folder: an empty one.
    """
    npz = write_tiny_npz(folder)
    found = [ran([*PLAIN, f"data.path={npz}", *words], where, folder) for where in (CPU, device)]
    return list(unlike(*found, TRAINED))


def ran(words: Sequence[str], device: torch.device, folder: Path) -> dict[str, Any]:
    """The numbers of a cell that ran on this device."""
    place = folder / f"on-{len(list(folder.glob('on-*')))}"
    place.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("CAPSEXP_CACHE", str(folder / "cache"))
        patch.setattr(latency, "ROUNDS", 1)
        assert cli.main([*words, f"trainer.accelerator={accelerator(device)}"]) == 0
    (cell,) = records.cell_directories(place / "multirun" / "adhoc").values()
    return numbers_of(cell)


def numbers_of(cell: Path) -> dict[str, Any]:
    """What its files say, but for what names the device."""
    found = all_of(cell)
    return {**found, "result": {key: found["result"].get(key) for key in SAME}}


# -- stacks -----------------------------------------------------------------------------------------------------------


def stacks_differ(name: str, device: torch.device, folder: Path, settings: Settings) -> list[str]:
    """What differs between cells that ran one after the other on the CPU and in stacks on the device.

    Args:
        name: of the sweep, one of :data:`~tests.cuda.cells.STACKS`.
        device: of the stacks.
        folder: an empty one.
        settings: of the stacks.
    """
    npz = write_tiny_npz(folder)
    words = [word for word in PLAIN if not word.startswith("sweep.name")]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CAPSEXP_CACHE", str(folder / "cache"))
        serial = alone([*words, f"data.path={npz}", "trainer.accelerator=cpu", *STACKS[name]], "serial")
        stacked = Path("multirun", "stacked")
        together(stacked, serial, settings=settings, accelerator=accelerator(device))
        cells = sorted(records.cell_directories(serial).values())
        largest = {members_of(stacked / cell.name) for cell in cells}
        assert max(largest) > 1, "no fit was stacked"
        pairs = [(numbers_of(cell), numbers_of(stacked / cell.name)) for cell in cells]
    return [f"{cell.name}{line}" for cell, pair in zip(cells, pairs, strict=True) for line in unlike(*pair, TRAINED)]


def members_of(cell: Path) -> int:
    """Members of the largest stack that a cell was in; 1 = it was alone."""
    result = records.read_result(cell)
    assert result is not None, f"{cell.name} did not finish"
    members: int = result["environment"].get("stack", {"members": 1})["members"]
    return members


# -- steps ------------------------------------------------------------------------------------------------------------


def steps_differ(case: Case, device: torch.device, dtype: torch.dtype) -> list[str]:
    """What differs between a training step's loss and gradients on the CPU and on the device."""
    on_cpu = prepared(case, dtype)
    on_device = copy.deepcopy(on_cpu).to(device)
    with whole_float32():
        first, second = (backward(module, where, dtype) for module, where in ((on_cpu, CPU), (on_device, device)))
    assert len(first) > 1, "no parameter has a gradient"
    return [f"{case}: {line}" for line in far_apart(first, second, STEP[dtype])]


def losses_differ(case: Case, device: torch.device) -> list[str]:
    """The same for the loss of a step under autocast."""
    on_cpu, found = prepared(case, torch.float32), []
    for where in (CPU, device):
        module = copy.deepcopy(on_cpu).to(where)
        with torch.autocast(where.type, torch.bfloat16):
            loss = module.shared_step(some_batch(torch.float32, where)).loss
        loss.backward()
        found.append({"loss": loss.detach()})
    return [f"{case}: {line}" for line in far_apart(*found, AUTOCAST)]


def prepared(case: Case, dtype: torch.dtype) -> Any:
    """Its module on the CPU, without dropout, whose random numbers are the device's own."""
    torch.manual_seed(0)
    module = case.build(CPU).to(dtype)
    for each in module.modules():
        if isinstance(each, nn.Dropout | nn.Dropout1d | nn.Dropout2d):
            each.p = 0.0
    return module.train()


def backward(module: Any, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The loss of a step, and the gradient of every parameter that has one."""
    loss = module.shared_step(some_batch(dtype, device)).loss
    loss.backward()
    gradients = {name: each.grad for name, each in module.named_parameters() if each.grad is not None}
    return {"loss": loss.detach(), **gradients}


def some_batch(dtype: torch.dtype, device: torch.device) -> Batch:
    """The same batch for every device."""
    draw = Draw(dtype)
    pixels = torch.randint(256, (BATCH, *SHAPE), generator=draw.random, dtype=torch.uint8)
    return Batch(*(each.to(device) for each in (draw.numbers(BATCH, *SHAPE), draw.labels(BATCH), pixels)))


def far_apart(one: dict[str, Tensor], other: dict[str, Tensor], within: float) -> Iterator[str]:
    """A line for each tensor that differs by more than this share of its largest value."""
    assert one.keys() == other.keys()
    for name, mine in one.items():
        its, mine = other[name].cpu().double(), mine.cpu().double()
        # A gradient that should be zero is all rounding, so it is compared with the size of a step's values.
        off = ((mine - its).abs().max() / mine.abs().max().clamp(min=1e-3)).item()
        if not off <= within:
            yield f"{name} is off by {off:.1e}"


# -- parts ------------------------------------------------------------------------------------------------------------


class Draw:
    """Draws tensors on the CPU, the same ones each time.

    Args:
        dtype: of the numbers.
    """

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self._dtype, self.random = dtype, torch.Generator().manual_seed(0)

    def numbers(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.random, dtype=torch.float64).to(self._dtype)

    def labels(self, *shape: int) -> Tensor:
        return torch.randint(CLASSES, shape, generator=self.random)

    def flags(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.random) < 0.5


def metrics_differ(kind: type[Metric], device: torch.device) -> list[str]:
    """What differs between a metric's values after three updates on the CPU and on the device."""
    make, updates = UPDATES[kind]
    lines = []
    for given in updates:
        found = []
        for where in (CPU, device):
            metric, draw = make().set_dtype(torch.float64).to(where), Draw()
            for _ in range(3):
                metric.update(*(each.to(where) if isinstance(each, Tensor) else each for each in given(draw)))
            found.append(metric.compute())
        lines += unlike(*found, 1e-10)
    return lines


def scores_differ(name: str, device: torch.device, channels: int, dtype: torch.dtype = torch.float64) -> list[str]:
    """What differs between a criterion's scores on the CPU and on the device, relative to the largest."""
    draw, made = Draw(dtype), criterion(name)
    tensors = draw.numbers(channels, 3, 3, 3), draw.numbers(BATCH, channels, 6, 6).relu()
    found = [{"scores": made.scores(Layer("conv", *(each.to(where) for each in tensors)))} for where in (CPU, device)]
    # CHIP computes in float64 whatever its maps are; its quadrature is exact to 1e-9.
    return list(far_apart(*found, 1e-9))


def batches_differ(name: str, device: torch.device) -> list[str]:
    """What differs between an epoch's batches, and those of an evaluation, on the CPU and on the device."""
    augment, random, lines = instantiate(composed(f"augment={name}")["augment"]), torch.Generator().manual_seed(0), []
    images = torch.randint(256, (3 * BATCH - 1, 3, 32, 32), generator=random, dtype=torch.uint8)
    labels_N = torch.randint(CLASSES, (len(images),), generator=random)
    for scheme in SCHEMES:
        found = []
        for where in (CPU, device):
            part = Part(images.to(where), labels_N.to(where))
            loaders = (
                TrainLoader(part, augment, scheme, BATCH, torch.Generator().manual_seed(1)),
                EvalLoader(part, augment, scheme, BATCH),
            )
            found.append([[*batch] for loader in loaders for batch in loader])
        lines += unlike(*found, 1e-3)  # float32 pixels of 0 to 255, some divided by an image's deviation
    return lines
