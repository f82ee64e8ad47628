"""The search for the best values of some keys by Optuna: ``hydra/sweeper=optuna``."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import InstantiationException
from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from capsexp import records
from capsexp.errors import ConfigError, LaunchError, require, require_choice, require_int, require_number
from capsexp.sweep.grid import CommandOverride, command_overrides

RESULT = "optimization_results.yaml"
"""The best values and their score, in the sweep's folder."""


class Search:
    """Runs batches of trials; each batch depends on the scores of the batches before.

    Args:
        n_trials: total number of cells.
        n_jobs: cells per batch.
        direction: ``maximize`` or ``minimize``.
        sampler: one of Optuna's, as a config with its ``_target_``.
        storage: Optuna's storage URL of the study; None to keep it in memory.
        study_name: the name of the study.
        max_failure_rate: share of a batch that may fail, 0 to 1.
        max_batch_size: None, since ``n_jobs`` sets it.
    """

    def __init__(
        self,
        *,
        n_trials: int,
        n_jobs: int,
        direction: str,
        sampler: Any,
        storage: str | None,
        study_name: str,
        max_failure_rate: float,
        max_batch_size: None = None,
    ) -> None:
        self._trials = require_int("hydra.sweeper.n_trials", n_trials, 1)
        self._batch = require_int("hydra.sweeper.n_jobs", n_jobs, 1)
        choice = require_choice("hydra.sweeper.direction", direction, ("maximize", "minimize"))
        self._direction = optuna.study.StudyDirection[choice.upper()]
        self._rate = require_number("hydra.sweeper.max_failure_rate", max_failure_rate, 0, 1)
        self._storage, self._name = storage, str(study_name)
        try:
            self._sampler = instantiate(sampler)
        except InstantiationException as error:
            rule = f"be a sampler of Optuna with its arguments ({_first_line(error.__cause__ or error)})"
            raise ConfigError("hydra.sweeper.sampler", rule, sampler) from error

    def run(self, config: DictConfig, loader: ConfigLoader, launcher: Launcher) -> None:
        """Run the search, and write the best values into the sweep's folder.

        Args:
            config: the composed config of the command, Hydra's own part included.
            loader: the loader that composed it.
            launcher: the launcher that runs the cells.

        Raises:
            ConfigError: a swept value cannot be searched for.
            LaunchError: too many cells of a batch failed.
        """
        overrides = command_overrides(config, loader, listed=False)
        space = {each.key: _distribution(each) for each in overrides if each.override.is_sweep_override()}
        require(bool(space), "hydra/sweeper", "be capsexp where nothing is swept", "optuna")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with self._study() as study:
            self._search(study, space, overrides, launcher, Path(config.paths.sweep))

    def _search(
        self,
        study: optuna.Study,
        space: dict[str, BaseDistribution],
        overrides: Sequence[CommandOverride],
        launcher: Launcher,
        folder: Path,
    ) -> None:
        try:
            for first in range(0, self._trials, self._batch):
                trials = [study.ask(space) for _ in range(min(self._batch, self._trials - first))]
                jobs = [_job(overrides, trial.params) for trial in trials]
                self._report_scores(study, trials, launcher.launch(jobs, initial_job_idx=first))
        finally:  # a search that was given up or stopped has its best values, too
            self._write_best(study, folder)

    @contextlib.contextmanager
    def _study(self) -> Iterator[optuna.Study]:
        """The study; the connections to its storage are closed after the block."""
        try:
            storage = None if self._storage is None else RDBStorage(self._storage)
            study = optuna.create_study(
                study_name=self._name,
                storage=storage,
                sampler=self._sampler,
                direction=self._direction,
                load_if_exists=True,
            )
        except Exception as error:  # whatever a database's library raises
            rule = f"be a storage that Optuna can open ({_first_line(error)})"
            raise ConfigError("hydra.sweeper.storage", rule, self._storage) from error
        try:
            yield study
        finally:
            if storage is not None:
                storage.remove_session()
                storage.engine.dispose()

    def _report_scores(self, study: optuna.Study, trials: Sequence[optuna.Trial], returns: Sequence[JobReturn]) -> None:
        """Report the scores of a batch to the study; a cell that is not done or has no score is a failed trial."""
        scores = [each._return_value if each.status == JobStatus.COMPLETED else None for each in returns]
        for trial, score in zip(trials, scores, strict=True):
            if score is None:
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, float(score))
        failed = scores.count(None)
        if failed > self._rate * len(trials):
            why = f"{failed} of {len(trials)} cells of a batch failed"
            raise LaunchError(f"{why}, more than hydra.sweeper.max_failure_rate={self._rate:g} allows")

    def _write_best(self, study: optuna.Study, folder: Path) -> None:
        if study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
            best = {"name": "optuna", "best_params": study.best_params, "best_value": study.best_value}
            lines = [f"{key}: {json.dumps(value)}\n" for key, value in best.items()]
            records.write_text(folder / RESULT, "".join(lines))
        else:
            (folder / RESULT).unlink(missing_ok=True)  # that of an earlier search


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _distribution(each: CommandOverride) -> BaseDistribution:
    """Optuna's distribution of a key's values."""
    try:
        return _distribution_of(each)
    except ValueError as error:
        raise ConfigError(
            each.key, f"have values to search ({_first_line(error)})", each.override.input_line
        ) from error


def _distribution_of(each: CommandOverride) -> BaseDistribution:
    value: Any = each.override.value()
    if each.override.is_interval_sweep():
        kind = IntDistribution if _whole(value.start, value.end) else FloatDistribution
        return kind(value.start, value.end, log="log" in value.tags)
    if each.override.is_range_sweep() and _whole(value.start, value.stop, value.step) and value.step > 0:
        values = range(value.start, value.stop, value.step)
        return IntDistribution(values[0], values[-1], step=value.step)
    # The texts of the listed values, since Optuna stores neither lists nor mappings.
    return CategoricalDistribution(list(each.override.sweep_string_iterator()))


def _whole(*numbers: float) -> bool:
    return all(isinstance(number, int) for number in numbers)


def _job(overrides: Sequence[CommandOverride], values: dict[str, Any]) -> list[str]:
    """The overrides of a job, in the command's order."""
    job = []
    for each in overrides:
        text = f"{each.override.get_key_element()}={values.get(each.key)}"
        job.append(text if each.key in values else str(each.override.input_line))
    return job
