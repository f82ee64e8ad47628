"""The export of a finished cell: the network with its inference mode, its test images and its metadata."""

import json
import pydoc
from pathlib import Path
from typing import cast

from torch import nn

from capsexp.build import LoadedRun, load_run
from capsexp.data.augment import Augment
from capsexp.errors import require
from capsexp.export.file import ExportedFile, export
from capsexp.nn.capsules import Inference, capsule_layers, set_inference


def export_cell(
    directory: Path,
    inference: str | None,
    path: Path | None,
    *,
    batch: int | None,
    opset: int | None,
    trust: bool = False,
) -> tuple[ExportedFile, str]:
    """Export a finished cell's network, verified on its test images.

    Args:
        directory: the cell's directory.
        inference: ``dynamic``, ``fast`` or ``folded``; None for the mode in the checkpoint.
        path: path of the file; None for ``model-<inference>.onnx`` in the cell's directory.
        batch: see :func:`~capsexp.export.file.export`.
        opset: see :func:`~capsexp.export.file.export`.
        trust: see :func:`~capsexp.build.load_run`.

    Returns:
        The file, and its inference mode; an empty string if there are no capsule layers.

    Raises:
        ConfigError: the cell is not finished, its data file has changed, or it has no master coefficients.
        ExportError: see :func:`~capsexp.export.file.export`.
    """
    run = load_run(directory, trust=trust)
    model = run.module.model
    way = _set_way(model, inference)
    data = run.data()
    images_BCHW = next(iter(data.test_dataloader())).images_BCHW
    exported = export(
        model,
        path or directory / (f"model-{way}.onnx" if way else "model.onnx"),
        data.image_shape,
        images_BCHW=images_BCHW,
        batch=batch,
        opset=opset,
        metadata=_metadata(run, way, data.classes),
    )
    return exported, way


def _set_way(model: nn.Module, asked: str | None) -> str:
    """Set the inference mode of the capsule layers if one is given; returns the mode, empty without such layers."""
    layers = capsule_layers(model)
    if not layers:
        rule = "be dynamic or left out, as this network has no capsule layers"
        require(asked in (None, "dynamic"), "--inference", rule, asked)
        return ""
    if asked is None:
        return next(iter(layers.values())).inference
    bare = [name for name, layer in layers.items() if layer.master_JI is None]
    without = [type(layer.routing).__name__ for layer in layers.values() if not layer.routing.has_master]
    why = f"there are none of {without[0]}" if without else "recipe=accumulate makes them"
    rule = f"be dynamic, as {', '.join(bare)} has no master coefficients ({why})"
    require(asked == "dynamic" or not bare, "--inference", rule, asked)
    set_inference(model, cast("Inference", asked))
    return asked


def _metadata(run: LoadedRun, way: str, classes: int) -> dict[str, str]:
    """The metadata that a user of the file needs to prepare its input."""
    augment = run.config["augment"]
    facts = {
        "cell": run.result["id"],
        "inference": way,
        "classes": str(classes),
        "normalise": _normalised(augment["_target_"], run.config["data"]["normalise"]),
        "augment": json.dumps(augment),
    }
    return {f"capsexp.{name}": fact for name, fact in facts.items() if fact}


def _normalised(augment: str, scheme: str) -> str:
    """The normalisation of pixels, as text."""
    if getattr(pydoc.locate(augment), "normalise", None) is not Augment.normalise:
        return f"each image by {augment}.normalise"
    return {"symmetric": "v / 127.5 - 1, v in 0..255", "unit": "v / 255, v in 0..255"}[scheme]
