"""The facts as lines of text."""

import time
from collections.abc import Iterable, Sequence

from capsexp.status.facts import CellTime, Facts, Failure, RunningCell
from capsexp.text import duration, plain, plural

MOST_FAILURES = 20
MOST_RUNNING = 20
WIDEST_BAR = 60


def lines(facts: Facts, map_lines: Sequence[str], width: int) -> list[str]:
    """All lines that the command prints, in blocks; the blocks that change most are at the top."""
    head = [line for line in (f"{facts.sweep}  {facts.folder}", facts.command) if line]
    progress = [bar(facts, width), _counts(facts), *_stale(facts), *_times(facts)]
    running = _running(facts.running)
    slowest = _timed("slowest", facts.slowest, len(facts.slowest))
    above, below = [head, progress, running], [_failures(facts.failures), slowest]
    blocks = [*_plain(above), list(map_lines), *_plain(below)]
    return [line for block in blocks if block for line in ("", *block)][1:]


def _plain(blocks: Iterable[Iterable[str]]) -> list[list[str]]:
    return [[plain(line) for line in block] for block in blocks]


def bar(facts: Facts, width: int) -> str:
    """A progress bar; full only when every cell is done."""
    done = facts.counts.get("done", 0)
    share = done / facts.planned if facts.planned else 0.0
    words = f" {done} of {facts.planned} cells done ({int(100 * share)} %)"
    room = min(max(width - len(words) - 2, 10), WIDEST_BAR)
    return f"[{'#' * int(room * share):.<{room}}]{words}"


def _counts(facts: Facts) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in facts.counts.items())
    orphans = len(facts.orphans)
    return counts + (f"; {orphans} orphaned {plural(orphans, 'directory', 'directories')}" if orphans else "")


def _stale(facts: Facts) -> list[str]:
    """Lines about stale cells: why, and what to do."""
    causes = "; ".join(f"{number} stale: {cause}" for cause, number in facts.stale.items())
    return [f"{causes} (sweep.rerun=stale runs them again)"] if causes else []


def _times(facts: Facts) -> list[str]:
    times = []
    if facts.elapsed_s is not None:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(facts.since))
        times.append(f"elapsed: {duration(facts.elapsed_s)} since {when}")
    if facts.cell_s is not None:
        times.append(f"finished cells took {duration(facts.cells_s)} together, {duration(facts.cell_s)} on average")
    return [*times, *_left(facts)]


def _left(facts: Facts) -> list[str]:
    """Lines about the remaining time; the end is estimated only while cells run."""
    running = len(facts.running)
    if facts.left_s == 0 and not running:
        return []
    if facts.left_s is None:
        return ["left: unknown until a cell has finished" + ("" if running else "; nothing is running")]
    if facts.eta_s is None:
        return [f"left: about {duration(facts.left_s)} of one cell at a time; nothing is running"]
    about = f"about {duration(facts.eta_s)}" if facts.eta_s >= 1 else "any moment now"
    return [f"left: {about}, with {running} {plural(running, 'cell', 'cells')} at a time"]


def _running(cells: Sequence[RunningCell]) -> list[str]:
    """The running cells, and how far the fit of each is."""
    shown = cells[:MOST_RUNNING]
    times = [CellTime(cell.name, cell.seconds) for cell in shown]
    heads = _timed("running", times, len(cells))
    widest = max((len(head) for head in heads[1:]), default=0)
    lines = [f"{head:<{widest}}  {cell.line}".rstrip() for head, cell in zip(heads[1:], shown, strict=False)]
    return [*heads[:1], *lines, *heads[1 + len(shown) :]]


def _timed(title: str, cells: Sequence[CellTime], count: int) -> list[str]:
    if not cells:
        return []
    longest = max(len(cell.name) for cell in cells)
    listed = [f"  {cell.name:<{longest}}  {duration(cell.seconds)}" for cell in cells]
    return [f"{title}:", *listed, *_more(count - len(cells))]


def _failures(failures: Sequence[Failure]) -> list[str]:
    if not failures:
        return []
    shown = [line for failure in failures[:MOST_FAILURES] for line in _failure(failure)]
    return ["failures:", *shown, *_more(len(failures) - MOST_FAILURES)]


def _failure(failure: Failure) -> Iterable[str]:
    times = failure.retried
    retried = f" (retried {plural(times, 'once', f'{times} times')})" if times else ""
    yield f"  {failure.name}  {failure.state}{retried}: {failure.cause}"
    yield f"    {failure.log or 'it has no log'}"


def _more(count: int) -> list[str]:
    return [f"  and {count} more"] if count > 0 else []
