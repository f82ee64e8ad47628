"""The order in which pytest-xdist's workers get the tests."""

from typing import Any

from xdist.scheduler import LoadScopeScheduling

WAITING = "tests that wait"
FOLDERS = ("engine", "processes", "status", "tracking")
"""Folders of tests that start, stop and time processes: they stay together, since two sweeps slow each other down."""
ON_RAY = "tests/engine/test_engine_ray.py"
LONG = (
    *("tests/contracts/test_recipe_contract.py", "tests/golden/test_golden.py", "tests/stacking/test_stacked_cells.py"),
    *("tests/test_prune_cells.py", "tests/test_accumulate_cells.py", "tests/test_export.py"),
)
"""Long files with few tests: they begin early, so that none is left alone at the end."""


class ByFile(LoadScopeScheduling):  # type: ignore[misc]
    """All tests of a file run in one process, which computes what they share once.

    The tests that wait most of the time run in the last process, before any others; the rest computes all the time.
    ``--dist loadgroup`` cannot say this, and has no effect with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return WAITING if file.split("/")[1] in FOLDERS and file != ON_RAY else file

    def _assign_work_unit(self, node: Any) -> None:
        waits, last = (WAITING, ON_RAY), max(self.nodes, key=lambda each: str(each.gateway.id))
        order = [*waits, *LONG] if node is last else [*LONG, *(each for each in self.workqueue if each not in waits)]
        scope = next((each for each in order if each in self.workqueue), None)
        if scope is not None:
            self.workqueue.move_to_end(scope, last=False)
        super()._assign_work_unit(node)
