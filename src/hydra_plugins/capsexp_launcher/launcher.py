"""The launcher of ``hydra/launcher=capsexp``, ``stacked`` and ``auto``, a thin layer over :mod:`capsexp.sweep.run`.

Hydra imports this file whenever it looks for plugins, so nothing heavy is imported at its top.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CapsexpLauncher(Launcher):
    """Runs several cells of a sweep in parallel; the failure of one cell does not affect the others.

    The sweeper ``capsexp`` passes the whole plan to the engine and never calls :meth:`launch`.  Every other sweeper
    calls it once per batch, and each batch extends the plan.

    Its settings are those of :class:`capsexp.engine.options.Options`; the plan checks and keeps them.
    """

    def __init__(self, **_: Any) -> None:
        super().__init__()
        self._plan: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the config and its loader, which compose the jobs of another sweeper."""
        self._config, self._loader, self._task = config, hydra_context.config_loader, task_function
        if hasattr(task_function, "folder"):
            task_function.folder = Path(config.paths.sweep)
        # Hydra's own sweeper would print the overrides of each failed cell and stop at the first.
        self._raises = not str(config.hydra.sweeper.get("_target_")).startswith("hydra._internal.")

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; a job returns its cell's score, or an error if the cell is not done."""
        from capsexp.errors import LaunchError
        from capsexp.sweep.run import exit_code_of, run_batch

        self._plan, ended = run_batch(self._config, self._loader, job_overrides, self._plan)
        if hasattr(self._task, "exit_code"):
            self._task.exit_code = exit_code_of(self._plan)
        pairs = zip(job_overrides, ended, strict=True)
        return [
            JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=each.score)
            if each.status.state == "done" or not self._raises
            else JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=LaunchError(each.words))
            for overrides, each in pairs
        ]
