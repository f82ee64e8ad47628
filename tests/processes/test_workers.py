"""What a worker process keeps from cell to cell: torch, and nothing else."""

import statistics
from collections.abc import Callable

from capsexp import records
from tests.conftest import results
from tests.processes.conftest import Sweep

MakeSweep = Callable[..., Sweep]

SHAPES, SHORT = "model.c2=2,11,3,7,16", "trainer.max_epochs=1"


def test_thirty_cells_of_mixed_shapes_leak_nothing(sweep: MakeSweep) -> None:
    many = sweep("Counted", "+recipe.number=range(0,6)", SHAPES, SHORT, "hydra.launcher.max_cells=1")
    code, told = many.run()
    assert code == 0, told
    executions = many.executions()
    assert len(executions) == 30
    assert len({execution.pid for execution in executions}) == 1
    sizes = [execution.resident_bytes / 1e6 for execution in executions][10:]
    slope = statistics.linear_regression(range(len(sizes)), sizes).slope
    assert slope < 1.0, f"{slope:.2f} MB a cell"
    # The last one's result is that of the same cell run alone.
    last = executions[-1].name
    alone = sweep("Counted", "+recipe.number=5", "model.c2=16", SHORT, name="alone")
    assert alone.run_here() == 0
    (single,) = results(alone.directory).values()
    body = results(many.directory)[last]
    kept = ("id", "metrics", "training", "environment", "params", "numerics")
    assert {key: body[key] for key in kept} == {key: single[key] for key in kept}
    metrics = [next(each.directory.glob(f"*{body['id']}")) / records.METRICS for each in (many, alone)]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()
