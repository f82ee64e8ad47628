"""The base class of callbacks that add to a cell's result."""

import lightning as L
import numpy as np
from numpy.typing import NDArray


class ResultCallback(L.Callback):
    """A callback that adds metrics, arrays or memory figures to the cell's result.

    A recipe calls its methods once, after the best weights are restored.
    """

    def result_metrics(self, module: L.LightningModule) -> dict[str, float]:
        """Metrics for ``result.json``, under the names that are logged."""
        return {}

    def result_arrays(self, module: L.LightningModule) -> dict[str, NDArray[np.generic]]:
        """Arrays for ``arrays.npz``, by name."""
        return {}

    def result_memory(self) -> dict[str, int]:
        """Numbers of bytes for the result's ``memory``, by name."""
        return {}
