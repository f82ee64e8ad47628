"""Analysis of a finished network's couplings and class capsules by passes over its data, without training."""

from collections.abc import Callable
from typing import cast

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import nn

from capsexp.callbacks.activity_vectors import ActivityVectors
from capsexp.callbacks.base import ResultCallback
from capsexp.callbacks.coupling_analysis import CouplingAnalysis
from capsexp.callbacks.master_coefficients import MasterCoefficients
from capsexp.data.base import ImageDataModule
from capsexp.nn.capsules import Inference, capsule_layers, set_inference

TESTS: tuple[tuple[str, Inference], ...] = (("dynamic", "dynamic"), ("fast", "folded"))
"""Name and inference of each test.  Folded inference gives the same result as the paper's form and is faster."""


def diagnose(
    module: L.LightningModule, data: ImageDataModule, make_trainer: Callable[[list[L.Callback]], L.Trainer]
) -> tuple[dict[str, NDArray[np.generic]], dict[str, float]]:
    """Results of :class:`CouplingAnalysis`, and of :class:`ActivityVectors` if the network has a decoder.

    A network without master coefficients receives those of all its training images, unless its routing has none: it is
    then tested with routing alone.  The inference of its layers is the same afterwards as before.

    Args:
        module: the module with its best weights.
        data: the data that it was trained on.
        make_trainer: makes a trainer with the given callbacks.

    Returns:
        Arrays and numbers by their names in a result.
    """
    model = cast("nn.Module", module.model)
    layers = capsule_layers(model)
    before = {name: layer.inference for name, layer in layers.items()}
    analysis = CouplingAnalysis()
    callbacks: list[ResultCallback] = [analysis]
    masters = all(layer.routing.has_master for layer in layers.values())
    if masters and any(layer.master_JI is None for layer in layers.values()):
        callbacks.append(MasterCoefficients())
    if getattr(model, "decoder", None) is not None:
        callbacks.append(ActivityVectors())
    trainer = make_trainer(list(callbacks))
    set_inference(model, "dynamic")
    trainer.predict(module, datamodule=data, return_predictions=False)
    for source, inference in TESTS if masters else TESTS[:1]:
        analysis.source = source
        set_inference(model, inference)
        trainer.test(module, data, verbose=False)
    for name, layer in layers.items():
        layer.inference = before[name]
    arrays = {name: array for callback in callbacks for name, array in callback.result_arrays(module).items()}
    return arrays, analysis.result_metrics(module)
