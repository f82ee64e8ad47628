"""What exporting a finished cell adds to exporting a network: its way of inference, its test images, its facts."""

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
    directory: Path, inference: str | None, path: Path | None, *, batch: int | None, opset: int | None
) -> tuple[ExportedFile, str]:
    """Export a finished cell's network, compared on its test images.

    Args:
        directory: the cell's.
        inference: ``dynamic``, ``fast`` or ``folded``; None as the checkpoint says.
        path: of the file; None for ``model-<inference>.onnx`` in the cell's directory.
        batch: see :func:`~capsexp.export.file.export`.
        opset: the same.

    Returns:
        The file, and its way of inference; an empty word where there are no capsule layers.

    Raises:
        ConfigError: no finished cell, another data file than it was trained on, or no master coefficients.
        ExportError: as :func:`~capsexp.export.file.export` does.
    """
    run = load_run(directory)
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
    """Let the capsule layers work as asked, or as they do; returns the way's name, empty where there are none."""
    layers = capsule_layers(model)
    if not layers:
        rule = "be dynamic or left out, as this network has no capsule layers"
        require(asked in (None, "dynamic"), "--inference", rule, asked)
        return ""
    if asked is None:
        return next(iter(layers.values())).inference
    bare = [name for name, layer in layers.items() if layer.master_JI is None]
    rule = f"be dynamic, as {', '.join(bare)} has no master coefficients (recipe=accumulate makes them)"
    require(asked == "dynamic" or not bare, "--inference", rule, asked)
    set_inference(model, cast("Inference", asked))
    return asked


def _metadata(run: LoadedRun, way: str, classes: int) -> dict[str, str]:
    """What one has to know who feeds the network."""
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
    """How pixels become the network's input, in words."""
    if getattr(pydoc.locate(augment), "normalise", None) is not Augment.normalise:
        return f"each image by {augment}.normalise"
    return {"symmetric": "v / 127.5 - 1, v in 0..255", "unit": "v / 255, v in 0..255"}[scheme]
