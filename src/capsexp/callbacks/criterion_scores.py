"""The channel scores of a pruning criterion for a finished network."""

import lightning as L
import numpy as np
from numpy.typing import NDArray

from capsexp.callbacks.base import ResultCallback
from capsexp.callbacks.layers import convolutions
from capsexp.errors import require
from capsexp.pruning.base import Criterion, Layer


class CriterionScores(ResultCallback):
    """Keeps the scores of every convolution's channels, for the best weights, as ``scores/<layer>`` (O,).

    Args:
        criterion: a criterion that reads weights; the channel with the lowest score is pruned first.
    """

    def __init__(self, criterion: Criterion) -> None:
        rule = "read weights (one that reads feature maps needs recipe=prune_and_retrain)"
        require(criterion.needs == "weights", "criterion", rule, type(criterion).__name__)
        self.criterion = criterion

    def result_arrays(self, module: L.LightningModule) -> dict[str, NDArray[np.generic]]:
        """The scores of every convolution's channels; convolutions with NaN or infinite weights are left out."""
        layers = convolutions(module.model)  # type: ignore[arg-type]
        finite = {name: layer.weight for name, layer in layers.items() if bool(layer.weight.isfinite().all())}
        return {f"scores/{name}": self.criterion.scores(Layer(name, weight)).numpy() for name, weight in finite.items()}
