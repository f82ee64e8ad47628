"""The sweeper ``optuna``: a search by Optuna, which creates its cells during the search (extra ``optuna``)."""

from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Searches for the swept values with the best score; see :class:`capsexp.sweep.search.Search`.

    Args:
        params: the experiment's axes, which the search reads from the config.
        **options: the arguments of :class:`capsexp.sweep.search.Search`.
    """

    def __init__(self, params: Any = None, **options: Any) -> None:
        self._options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the config and its loader, and create the launcher."""
        self._config, self._loader = config, hydra_context.config_loader
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: Sequence[str]) -> None:
        """Run the search.

        Raises:
            ConfigError: Optuna is not installed.
        """
        from capsexp.errors import ConfigError
        from capsexp.text import install

        try:
            from capsexp.sweep.search import Search
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            rule = f"be one that is installed: {install('optuna')}"
            raise ConfigError("hydra/sweeper", rule, "optuna") from error
        try:
            search = Search(**self._options)
        except TypeError as error:
            rule = f"have the options in conf/hydra/sweeper/optuna.yaml alone ({error})"
            raise ConfigError("hydra.sweeper", rule, sorted(self._options)) from error
        search.run(self._config, self._loader, self._launcher)
