"""The wish that running cells save and stop, asked for between epochs.

Whoever runs cells in another process says there how the wish arrives (:func:`listen`); callbacks ask
:func:`requested` where stopping loses nothing.
"""

from collections.abc import Callable

_sources: list[Callable[[], bool]] = []


def listen(source: Callable[[], bool]) -> None:
    """Let ``source`` answer from now on whether this process is to save and stop; it takes the last one's place."""
    _sources[:] = [source]


def requested() -> bool:
    """Whether the cell that runs here should save itself and stop."""
    return any(source() for source in _sources)
