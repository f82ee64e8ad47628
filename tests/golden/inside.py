"""The names of the package's inside that goldens need beside the command line; change them here where they change."""

from pathlib import Path
from typing import Any

FIRST_TARGETS = {"capsexp.callbacks.collapse.CollapseGuard": "capsexp.callbacks.broken.BrokenGuard"}
"""Names that classes had in the code that the files were made with, by what configs call them now."""


def load_run(directory: Path) -> Any:
    """A finished cell, back in memory: its config, result and module."""
    from capsexp import build

    return build.load_run(directory)
