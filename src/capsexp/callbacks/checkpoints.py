"""Reading of checkpoints; no other module reads them."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from capsexp import records
from capsexp.errors import ran_out_of_memory
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


def read(path: Path, sha256: str | None = None) -> dict[str, Any]:
    """A checkpoint on the CPU; only plain types and tensors are read.

    Args:
        path: the file.
        sha256: its expected digest; None for the checksum in the file.

    Raises:
        DamagedError: it is missing, or has not the content that was written.
    """
    content = records.read_checked(path, sha256=sha256, owner=records.id_of(path.parent.parent))
    try:
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises errors of many types
        if ran_out_of_memory(error):
            raise
        raise records.DamagedError(path, f"torch cannot read it ({type(error).__name__})") from error
    if not isinstance(saved, dict):
        raise records.DamagedError(path, "it holds no checkpoint")
    return cast("dict[str, Any]", saved)


def read_best(directory: Path) -> Best:
    """The best weights in the folder of a finished cell or stage.

    Raises:
        DamagedError: the file is missing, or has not the content that was written.
    """
    path = directory / records.BEST_CHECKPOINT
    name = records.RESULT if (directory / records.RESULT).is_file() else records.STAGE
    saved = read(path, (records.result_digests(directory, name)[0] or {}).get(records.BEST_CHECKPOINT))
    try:
        known = saved["hyper_parameters"]
        return Best(dict(saved["state_dict"]), dict(known["sizes"]), known.get("inference", "dynamic"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise records.DamagedError(
            path, f"it holds no weights of a network ({type(error).__name__}: {error})"
        ) from error
