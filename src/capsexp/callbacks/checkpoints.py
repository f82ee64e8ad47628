"""Reading of checkpoints; no other module reads them."""

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
        weights: weights of the module.
        sizes: arguments of its architecture that the config does not hold, such as sizes of the data.
        inference: source of the coupling in its capsule layers.
    """

    weights: dict[str, Tensor]
    sizes: dict[str, Any]
    inference: Inference


def read(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU; only plain types and tensors are read."""
    return cast("dict[str, Any]", torch.load(path, map_location="cpu", weights_only=True))


def read_best(directory: Path) -> Best:
    """The best weights in the folder of a cell or a stage."""
    saved = read(directory / records.BEST_CHECKPOINT)
    known = saved["hyper_parameters"]
    return Best(saved["state_dict"], known["sizes"], known.get("inference", "dynamic"))
