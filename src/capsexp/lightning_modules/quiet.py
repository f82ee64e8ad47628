"""A context in which Lightning gives no hints."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

HINTS = (".*smaller than the logging interval.*", ".*treespec, LeafSpec.*", ".*in eval mode at the start of training.*")
"""Patterns of hints to hide.  The last occurs if members of a stack have frozen parts, which start in eval mode."""


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Hide Lightning's hints about hardware, products and intervals; its other warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).handlers.clear()  # its own handler would print every line twice
    with warnings.catch_warnings():
        for hint in HINTS:
            warnings.filterwarnings("ignore", message=hint)
        yield
