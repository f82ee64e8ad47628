"""The sweeper ``capsexp``: Hydra's basic one, but that the plan has already composed every cell."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class CapsexpSweeper(BasicSweeper):
    """Hydra's basic sweeper without its own check of every job, which takes 15 s for 225 cells.

    The plan has composed them all by then, and an impossible one has stopped the command.
    """

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> Any:
        """Nothing is left to be checked."""
