"""What a callback can add to a cell's result."""

import lightning as L
import numpy as np
from numpy.typing import NDArray


class ResultCallback(L.Callback):
    """A callback whose findings belong into the cell's result.

    A recipe asks for both once, after the best weights are back.
    """

    def result_metrics(self, module: L.LightningModule) -> dict[str, float]:
        """Numbers for ``result.json``, named as they are logged."""
        return {}

    def result_arrays(self, module: L.LightningModule) -> dict[str, NDArray[np.generic]]:
        """Arrays for ``arrays.npz``."""
        return {}

    def result_memory(self) -> dict[str, int]:
        """Bytes for the result's ``memory``."""
        return {}
