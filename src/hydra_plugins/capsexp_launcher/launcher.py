"""The launcher of ``hydra/launcher=capsexp``, ``stacked`` and ``auto``, a thin layer over :mod:`capsexp.engine`.

Hydra imports this file whenever it looks for plugins, so nothing heavy is imported at its top.
"""

from collections.abc import Sequence
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CapsexpLauncher(Launcher):
    """Runs the cells of a sweep several at once; a failure of one costs only that one.

    Its settings are those of :class:`capsexp.engine.options.Options`; the plan has checked and kept them.
    """

    def __init__(self, **_: Any) -> None:
        super().__init__()

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Nothing is kept: the plan has every job's config."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs; each one's return value is its cell's score, None if it has none."""
        from capsexp import launch

        scores = launch.run(job_overrides)
        return [
            JobReturn(overrides=overrides, status=JobStatus.COMPLETED, _return_value=score)
            for overrides, score in zip(job_overrides, scores, strict=True)
        ]
