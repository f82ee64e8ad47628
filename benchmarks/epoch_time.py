"""Seconds per epoch of a cell, as a ratio to a bare PyTorch loop that does the same work.

Both train Wang's CNN (6/16/16) on images in the number, size and classes of DHCD: the same number of batches of 256, a
separate crop for each image, normalisation, forward, backward, Adam (fused), channels last in memory, running loss and
accuracy, and an evaluation of the validation split after each epoch.  The loop is plain code and shares only the
architecture with the package.
Rounds alternate, so that a busy machine slows both; the ratio is that of the medians.

    python benchmarks/epoch_time.py [--epochs 2] [--rounds 3] [--images 78200]
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from capsexp import build, records, resolvers
from capsexp.models.cnn import CNN
from capsexp.sweep.cells import resolved

BATCH, CROP, CLASSES = 256, 28, 46


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=2, help="epochs a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=78_200, help="training images before the validation split")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    bare, ours = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = write_images(Path(folder) / "images.npz", options.images)
        config = compose(path, options)
        for number in range(options.rounds):
            ours += cell_epochs(config, Path(folder) / str(number))
            bare += bare_epochs(path, options.epochs)
    first, second = statistics.median(ours), statistics.median(bare)
    print(f"capsexp    {first:7.3f} s an epoch  (all: {', '.join(f'{value:.2f}' for value in ours)})")
    print(f"bare loop  {second:7.3f} s an epoch  (all: {', '.join(f'{value:.2f}' for value in bare)})")
    print(f"ratio      {first / second:7.3f}    of the fastest epochs {min(ours) / min(bare):.3f}")


def write_images(path: Path, count: int) -> Path:
    """Random images and labels in the shape of DHCD."""
    random = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part, size in (("train", count), ("test", CLASSES)):
        arrays[f"x_{part}"] = random.integers(0, 256, (size, 32, 32), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(size) % CLASSES
    np.savez(path, **arrays)
    return path


def compose(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The resolved config of one cell, as the command composes it."""
    from hydra import compose, initialize_config_dir

    resolvers.register()
    words = ["data=dhcd", f"data.path={path}", f"trainer.max_epochs={options.epochs}", f"threads={options.threads}"]
    with initialize_config_dir(version_base="1.3", config_dir=str(records.CONF)):
        return resolved(compose("config", [*words, "logger.wandb.mode=disabled"], return_hydra_config=True))


def cell_epochs(config: dict[str, Any], directory: Path) -> list[float]:
    """Seconds of each epoch of a cell, evaluation and logging included."""
    from capsexp.callbacks.history import History

    seconds: list[float] = []
    finish = History.on_train_epoch_end

    def keep(self: History, trainer: Any, module: Any) -> None:
        finish(self, trainer, module)
        seconds.append(self.seconds[-1])

    History.on_train_epoch_end = keep  # type: ignore[method-assign]
    try:
        build.run(config, directory)
    finally:
        History.on_train_epoch_end = finish  # type: ignore[method-assign]
    return seconds


def bare_epochs(path: Path, epochs: int) -> list[float]:
    """Seconds of each epoch of a plain loop."""
    with np.load(path) as arrays:
        images_NCHW, labels_N = torch.from_numpy(arrays["x_train"])[:, None], torch.from_numpy(arrays["y_train"])
    held_out = len(images_NCHW) // 10
    train_x, train_y = images_NCHW[held_out:].contiguous(), labels_N[held_out:]
    val_x, val_y = images_NCHW[:held_out, :, 2:30, 2:30].contiguous(), labels_N[:held_out]
    model = CNN(image_shape=(1, CROP, CROP), classes=CLASSES)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, weight_decay=1e-6, fused=True)
    return [bare_epoch(model, optimizer, train_x, train_y, val_x, val_y) for _ in range(epochs)]


def bare_epoch(
    model: CNN,
    optimizer: torch.optim.Optimizer,
    train_x: torch.Tensor,
    train_y: torch.Tensor,
    val_x: torch.Tensor,
    val_y: torch.Tensor,
) -> float:
    """One epoch of training and evaluation."""
    started = time.perf_counter()
    crops = train_x.unfold(2, CROP, 1).unfold(3, CROP, 1)
    order = torch.randperm(len(train_x))
    offsets = torch.randint(0, 32 - CROP + 1, (len(train_x), 2))
    total, hits = torch.zeros(()), torch.zeros(())
    model.train()
    for index in order.split(BATCH):
        x = crops[index, :, offsets[index, 0], offsets[index, 1]].float().div_(127.5).sub_(1)
        y = train_y[index]
        scores = model(x)
        loss = F.cross_entropy(scores, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.detach() * len(y)
        hits += (scores.argmax(1) == y).sum()
    model.eval()
    with torch.no_grad():
        for x_u8, y in zip(val_x.split(512), val_y.split(512), strict=True):
            scores = model(x_u8.float().div_(127.5).sub_(1))
            total += F.cross_entropy(scores, y) * len(y)
            hits += (scores.argmax(1) == y).sum()
    float(total), float(hits)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
