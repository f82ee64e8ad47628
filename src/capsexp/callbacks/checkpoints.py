"""Checkpoints as they are read, the only place that does."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from capsexp import records
from capsexp.nn.capsules import Inference


@dataclass(frozen=True)
class Best:
    """The best weights of a fit.

    Attributes:
        weights: the module's.
        sizes: what its architecture was told about the data, and other arguments that are not the config's.
        inference: where the coupling of its capsule layers comes from.
    """

    weights: dict[str, Tensor]
    sizes: dict[str, Any]
    inference: Inference


def read(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU; nothing but plain types and tensors is read."""
    return cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))


def read_best(directory: Path) -> Best:
    """The best weights in the folder of a cell or a stage."""
    saved = read(directory / records.BEST_CHECKPOINT)
    known = saved["hyper_parameters"]
    return Best(saved["state_dict"], known["sizes"], known.get("inference", "dynamic"))
