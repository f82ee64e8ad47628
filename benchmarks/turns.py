"""Alternating runs of the two sides of a benchmark, so that a busy machine slows both."""

import time
from collections.abc import Callable

Work = Callable[[], None]


def take_turns(reference: Work, ours: Work, seconds: float, least: int = 2) -> tuple[list[float], list[float]]:
    """Milliseconds of each run of both, of at least so many runs."""
    times, until = [(clock(reference), clock(ours))], time.perf_counter() + seconds
    while len(times) <= least or time.perf_counter() < until:
        times.append((clock(reference), clock(ours)))
    return [first for first, _ in times[1:]], [second for _, second in times[1:]]  # the first run of each is a warm-up


def clock(work: Work) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)
