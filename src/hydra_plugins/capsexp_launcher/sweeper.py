"""The sweeper ``capsexp``: every combination of the listed values, planned before the first cell runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CapsexpSweeper(Sweeper):
    """Plans a grid and runs it with a launcher; see :func:`capsexp.sweep.run.run_sweep`.

    Args:
        max_batch_size: cells per batch for another launcher than ``capsexp``; None for all.
        params: the experiment's grid, which the plan reads from the config.
    """

    def __init__(self, max_batch_size: int | None = None, params: Any = None) -> None:
        self._batch_size = max_batch_size

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the config and its loader, and create the launcher."""
        self._config, self._loader, self._task = config, hydra_context.config_loader, task_function
        if hasattr(task_function, "folder"):
            task_function.folder = Path(config.paths.sweep)
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: Sequence[str]) -> int:
        """Run the cells of the plan that need it; returns the exit code and stores it in the command."""
        from capsexp.sweep.run import run_sweep

        code = run_sweep(self._config, self._loader, self._launcher, self._batch_size)
        if hasattr(self._task, "exit_code"):
            self._task.exit_code = code
        return code
