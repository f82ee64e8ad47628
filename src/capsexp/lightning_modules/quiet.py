"""Lightning without its hints."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

HINTS = (".*smaller than the logging interval.*", ".*treespec, LeafSpec.*", ".*in eval mode at the start of training.*")
"""What a stack begins with is in evaluation mode where its members' parts are frozen."""


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Keep Lightning's hints about hardware, products and intervals away; its other warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
        logging.getLogger(name).handlers.clear()  # its own handler would print every line twice
    with warnings.catch_warnings():
        for hint in HINTS:
            warnings.filterwarnings("ignore", message=hint)
        yield
