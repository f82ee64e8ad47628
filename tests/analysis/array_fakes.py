"""Fake arrays and learning curves of a cell, random but shaped like real ones."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from capsexp import records

Arrays = dict[str, NDArray]


def arrays(classes: int = 10, channels: int = 1, seed: int = 0, components: int = 16, side: int = 28) -> Arrays:
    """Everything that the figures of one cell can ask for."""
    random = np.random.default_rng(seed)
    patterns = random.normal(size=(classes, 64)) + 0.7 * random.normal(size=64)
    labels = random.integers(0, classes, 100)
    columns = patterns[labels] + 0.8 * random.normal(size=(100, 64))
    means = np.corrcoef(patterns)
    steps = np.linspace(-0.25, 0.25, 11)
    truths = random.integers(0, classes, 5)
    return {
        "correlation/images": np.corrcoef(columns),
        "correlation/images/labels": labels,
        "correlation/classes": means * 0.7,
        "correlation/master": means * 0.8 + 0.05 * random.normal(size=means.shape),
        "probabilities/dynamic": lengths(random, truths, classes, 0.05),
        "probabilities/fast": lengths(random, truths, classes, 0.3),
        "probabilities/labels": truths,
        "probabilities/images": np.stack([glyph(truth, 0.0, 0, channels, side) for truth in truths]),
        "tuning/dynamic": lengths(random, np.arange(classes), classes, 0.06),
        "tuning/fast": lengths(random, np.arange(classes), classes, 0.25),
        "decoded/class3": np.stack(
            [np.stack([glyph(3, step, component, channels, side) for step in steps]) for component in range(components)]
        ),
        "decoded/steps": steps,
    }


def activities(depth: int, seed: int = 0, types: int = 5, side: int = 3) -> Arrays:
    """Activities of the primary capsules and of as many layers, which become weaker from layer to layer."""
    random = np.random.default_rng(seed)
    names = ["primary", *(f"layer{1 + place}" for place in range(depth))]
    return {
        f"activity/{name}": np.clip(10 ** random.normal(-0.3 - 0.4 * place, 0.5, (types, side, side)), 0, 1)
        for place, name in enumerate(names)
    }


def lengths(random: np.random.Generator, truths: NDArray, classes: int, noise: float) -> NDArray:
    """Lengths of class capsules: long for the true class, short and noisy for the others."""
    found = np.abs(noise * random.normal(size=(len(truths), classes)) + 0.06)
    found[np.arange(len(truths)), truths] = 0.92 - np.abs(noise * random.normal(size=len(truths)))
    return np.clip(found, 0, 1)


def glyph(kind: int, change: float, component: int, channels: int, side: int) -> NDArray:
    """A blurred stroke whose form depends on its class, and on a component that is changed."""
    y, x = np.mgrid[0:side, 0:side] / side - 0.5
    angle = 0.6 * kind + (component % 4) * change
    away = np.abs(x * np.cos(angle) + y * np.sin(angle) + (component % 3) * change * np.sin(6 * y + component))
    ring = np.abs(np.hypot(x, y) - 0.28 - 0.3 * change * (component % 5 == 0))
    ink = np.exp(-((np.minimum(away, ring) / 0.06) ** 2)) * (np.hypot(x, y) < 0.42)
    tints = np.array([1.0, 0.75, 0.45])[:channels, None, None]
    return (255 * ink * tints).astype(np.uint8)


def keep(directory: Path, found: Arrays) -> None:
    """Write a cell's ``arrays.npz``."""
    directory.mkdir(parents=True, exist_ok=True)
    np.savez(directory / records.ARRAYS, **found)


def history(directory: Path, curves: dict[str, list[float]]) -> None:
    """Write a cell's ``metrics.csv``, as a finished training does."""
    names = list(curves)
    rows = [
        ",".join(map(str, [epoch, *values])) for epoch, values in enumerate(zip(*curves.values(), strict=True), start=1)
    ]
    directory.mkdir(parents=True, exist_ok=True)
    (directory / records.METRICS).write_text("\n".join([",".join(["epoch", *names]), *rows]) + "\n")


def learning(seed: int, epochs: int, best: float = 0.97) -> dict[str, list[float]]:
    """A learning curve that rises and levels off."""
    random = np.random.default_rng(seed)
    along = np.arange(1, epochs + 1)
    train = best + 0.02 - 0.6 * np.exp(-along / 3) + 0.005 * random.normal(size=epochs)
    val = best - 0.55 * np.exp(-along / 2.5) + 0.012 * random.normal(size=epochs)
    return {"train/acc": [*map(float, train)], "val/acc": [*map(float, val)], "train/loss": [*map(float, 1 - train)]}
