"""Seconds per epoch of an autoencoder's training in a cell, as a ratio to a bare PyTorch loop that does the same work.

Both train Wang's autoencoders (16/16), normal and with shared weights, to reconstruct images in the number and size of
DHCD: the same number of batches of 256, a separate crop for each image, normalisation, forward, backward, Adam (fused),
channels last in memory, running loss, and an evaluation of the validation split after each epoch.  The loop shares
nothing with the package: its network follows the paper, with torch's ``ConvTranspose2d``, ``max_pool2d``
and ``max_unpool2d``, and unlike cells it does not use deterministic algorithms.
Rounds alternate, so that a busy machine slows both; the ratio is that of the medians.

    python benchmarks/autoencoder.py [--epochs 1] [--rounds 3] [--images 78200]

With ``--model`` no cell runs: one step of the package's network against one of the plain one.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from epoch_time import BATCH, CLASSES, CROP, cell_epochs, write_images
from torch import Tensor, nn
from turns import Work, take_turns

from capsexp import records, resolvers
from capsexp.models.autoencoder import Autoencoder
from capsexp.sweep.cells import resolved

MODELS = {"own": "autoencoder", "shared": "shared_autoencoder"}


class Plain(nn.Module):
    """Section 3.2 of Wang (2019), line by line."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.conv3 = nn.Conv2d(16, 6, 3, padding=1)
        self.deconv1, self.deconv2 = nn.ConvTranspose2d(6, 16, 3, padding=1), nn.ConvTranspose2d(16, 16, 3, padding=1)
        self.deconv3 = nn.ConvTranspose2d(16, 1, 3, padding=1)
        if shared:
            self.deconv1.weight, self.deconv2.weight = self.conv3.weight, self.conv2.weight
            self.deconv3.weight = self.conv1.weight
        self.dropout = nn.Dropout(0.25)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The reconstructed images."""
        maps, first = F.max_pool2d(self.conv1(images_BCHW), 2, return_indices=True)
        maps, second = F.max_pool2d(self.conv2(self.dropout(F.relu(maps))), 2, return_indices=True)
        maps = F.relu(self.conv3(self.dropout(F.relu(maps))))
        maps = self.dropout(F.relu(F.max_unpool2d(self.deconv1(maps), second, 2)))
        maps = self.dropout(F.relu(F.max_unpool2d(self.deconv2(maps), first, 2)))
        return self.deconv3(maps)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=1, help="epochs a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=78_200, help="training images before the validation split")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--model", action="store_true", help="the network alone")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.model:
        compare_steps()
    else:
        compare_epochs(options)


def compare_epochs(options: argparse.Namespace) -> None:
    """Cells against bare loops."""
    seconds: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = write_images(Path(folder) / "images.npz", options.images)
        for number in range(options.rounds):
            for kind in MODELS:
                config = compose(path, kind, Path(folder) / f"{kind}{number}", options)
                ours = cell_epochs(config, Path(config["paths"]["sweep"]) / "cell")
                # The classification follows in the same cell; only the epochs of reconstruction are compared.
                seconds.setdefault((kind, "capsexp"), []).extend(ours[: options.epochs])
                seconds.setdefault((kind, "bare loop"), []).extend(bare_epochs(path, kind, options.epochs))
    for kind in MODELS:
        report(kind, seconds[kind, "capsexp"], seconds[kind, "bare loop"], "s an epoch")


def report(kind: str, ours: list[float], bare: list[float], unit: str) -> None:
    """Print both sides' medians and their ratio."""
    first, second = statistics.median(ours), statistics.median(bare)
    print(f"{kind:7s} capsexp    {first:8.3f} {unit}  (fastest of {len(ours)}: {min(ours):.3f})")
    print(f"{kind:7s} bare loop  {second:8.3f} {unit}  (fastest of {len(bare)}: {min(bare):.3f})")
    print(f"{kind:7s} ratio      {first / second:8.3f}    of the fastest {min(ours) / min(bare):.3f}")


def compose(path: Path, kind: str, output: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The resolved config of one cell, as the command composes it; its own ``output`` prevents the reuse of stages."""
    from hydra import compose, initialize_config_dir

    resolvers.register()
    words = ["data=dhcd", f"data.path={path}", f"model={MODELS[kind]}", "recipe=autoencode_then_classify"]
    words += [f"recipe.reconstruction_epochs={options.epochs}", "trainer.max_epochs=1", f"threads={options.threads}"]
    words += [f"paths.output={output}", "logger.wandb.mode=disabled"]
    with initialize_config_dir(version_base="1.3", config_dir=str(records.CONF)):
        return resolved(compose("config", words, return_hydra_config=True))


def bare_epochs(path: Path, kind: str, epochs: int) -> list[float]:
    """Seconds of each epoch of a plain loop."""
    torch.use_deterministic_algorithms(False)  # a cell in this process has switched them on
    with np.load(path) as arrays:
        images_NCHW = torch.from_numpy(arrays["x_train"])[:, None]
    held_out = len(images_NCHW) // 10
    train_x, val_x = images_NCHW[held_out:].contiguous(), images_NCHW[:held_out, :, 2:30, 2:30].contiguous()
    model = Plain(shared=kind == "shared").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(model)
    return [bare_epoch(model, optimizer, train_x, val_x) for _ in range(epochs)]


def bare_epoch(model: Plain, optimizer: torch.optim.Optimizer, train_x: Tensor, val_x: Tensor) -> float:
    """One epoch of training and evaluation."""
    started = time.perf_counter()
    crops = train_x.unfold(2, CROP, 1).unfold(3, CROP, 1)
    order = torch.randperm(len(train_x))
    offsets = torch.randint(0, 32 - CROP + 1, (len(train_x), 2))
    total = torch.zeros(())
    model.train()
    for index in order.split(BATCH):
        x = crops[index, :, offsets[index, 0], offsets[index, 1]].float().div_(127.5).sub_(1)
        loss = F.mse_loss(model(x), x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(x)
    model.eval()
    with torch.no_grad():
        for x_u8 in val_x.split(512):
            x = x_u8.float().div_(127.5).sub_(1)
            total += F.mse_loss(model(x), x) * len(x)
    float(total)
    return time.perf_counter() - started


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """As Wang (2019), section 4."""
    return torch.optim.Adam(model.parameters(), lr=5e-4, weight_decay=1e-6, fused=True)


def compare_steps() -> None:
    """The networks alone: training steps on one batch, large and small."""
    for batch in (BATCH, 32):
        images_BCHW = torch.randn(batch, 1, CROP, CROP)
        for kind in MODELS:
            model = Autoencoder(image_shape=(1, CROP, CROP), classes=CLASSES, decoder=kind)
            for layer in (model.encoder.conv1, model.encoder.conv2, model.encoder.conv3):  # as in the module of a cell
                layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            plain = Plain(shared=kind == "shared").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            bare, ours = take_turns(step(plain, plain, images_BCHW), step(model, model.reconstruct, images_BCHW), 8)
            report(kind, ours, bare, f"ms a step of {batch}")


def step(model: nn.Module, draw: Callable[[Tensor], Tensor], images_BCHW: Tensor) -> Work:
    """One step of training."""
    optimizer = make_optimizer(model)

    def work() -> None:
        loss = F.mse_loss(draw(images_BCHW), images_BCHW)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return work


if __name__ == "__main__":
    main()
