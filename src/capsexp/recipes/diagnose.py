"""What a finished network's couplings and class capsules say, found once more: passes over its data, no training."""

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
"""What the tests are called, and how they run: folded inference gives what the paper's form does, sooner."""


def diagnose(
    module: L.LightningModule, data: ImageDataModule, make_trainer: Callable[[list[L.Callback]], L.Trainer]
) -> tuple[dict[str, NDArray[np.generic]], dict[str, float]]:
    """What :class:`CouplingAnalysis` finds, and :class:`ActivityVectors` where the network has a decoder.

    A network without master coefficients gets those of all its training images.  How it runs otherwise stays.

    Args:
        module: with its best weights.
        data: the data that it was trained on.
        make_trainer: makes a trainer with the callbacks given.

    Returns:
        Arrays and numbers by the names that a result gives them.
    """
    model = cast("nn.Module", module.model)
    layers = capsule_layers(model)
    before = {name: layer.inference for name, layer in layers.items()}
    analysis = CouplingAnalysis()
    callbacks: list[ResultCallback] = [analysis]
    if any(layer.master_JI is None for layer in layers.values()):
        callbacks.append(MasterCoefficients())
    if getattr(model, "decoder", None) is not None:
        callbacks.append(ActivityVectors())
    trainer = make_trainer(list(callbacks))
    set_inference(model, "dynamic")
    trainer.predict(module, datamodule=data, return_predictions=False)
    for source, inference in TESTS:
        analysis.source = source
        set_inference(model, inference)
        trainer.test(module, data, verbose=False)
    for name, layer in layers.items():
        layer.inference = before[name]
    arrays = {name: array for callback in callbacks for name, array in callback.result_arrays(module).items()}
    return arrays, analysis.result_metrics(module)
