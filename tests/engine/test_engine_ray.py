"""The engine on a cluster of two nodes, each with real processes of its own, and fake cells."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine.ray_nodes import HEAD, LONG_S, MARK, ROOT, Nodes, marked

ray = pytest.importorskip("ray", reason="the extra ray is not installed")

from capsexp import cli, records  # noqa: E402
from capsexp.cell import Cell  # noqa: E402
from capsexp.engine import ray as engine_ray  # noqa: E402
from capsexp.engine import ray_cluster, ray_workers, retry_policy  # noqa: E402
from capsexp.engine.base import Group, Summary  # noqa: E402
from capsexp.engine.options import Layout, Options  # noqa: E402
from capsexp.engine.ray import RayEngine  # noqa: E402
from capsexp.engine.ray_cluster import Node  # noqa: E402
from capsexp.errors import ConfigError  # noqa: E402
from tests.conftest import quick_words, write_tiny_npz  # noqa: E402
from tests.engine import ray_work, work  # noqa: E402
from tests.engine.sweeps import Heard, at_once, cells_in, executions, status_of, wait_until  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

WIDE = Layout(("",), 2, None, 8)
"""A worker takes both cores of the head, or half of the other node, and no GPU."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head with two cores."""
    nodes = Nodes()
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.end()
    assert marked(nodes.mark) == []
    assert not nodes.folder.exists()


@pytest.fixture(scope="module")
def head(nodes: Nodes) -> Iterator[Nodes]:
    """The same, and this process is a driver, so that the tests' engines need not become one."""
    before = signal.getsignal(signal.SIGTERM)
    assert ray_cluster.connect(nodes.address)
    assert not ray_cluster.connect(None)
    yield nodes
    ray_cluster.disconnect()
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.fixture
def two(head: Nodes) -> Nodes:
    """The same and another node with four cores and two GPUs, as far as Ray knows."""
    if not head.second:
        head.add()
    head.wait()
    return head


def run_sweep(
    nodes: Nodes,
    cells: Sequence[Cell],
    heard: Heard,
    layout: Layout = WIDE,
    options: Options | None = None,
    groups: Sequence[Group] | None = None,
) -> Summary:
    """Run the cells and check what holds for every sweep: none is lost, none counted twice, nothing stays behind."""
    options = replace(options or Options(), engine="ray", address=nodes.address)
    engine = RayEngine(options, layout, work.FakeWork(run_cell=ray_work.run))
    summary = engine.run(groups or [(cell,) for cell in cells], heard)
    assert sorted([*summary.outcomes, *(cell.id for cell in summary.left)]) == sorted(cell.id for cell in cells)
    assert summary.outcomes == heard.ended_
    assert list(cells[0].directory.parent.glob(f"{ray_cluster.PREFIX}*")) == []
    wait_until(lambda: not any(is_alive(each.pid) for each in executions(cells[0].directory.parent)), LONG_S)
    return summary


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def nodes_of(cell: Cell) -> list[str]:
    return [node for node, *_ in ray_work.words(cell.directory.parent, cell.id)]


# -- stopping ----------------------------------------------------------------------------------------------------------


class Sweep:
    """A sweep of three fake cells, one at a time, in a process of its own."""

    def __init__(self, nodes: Nodes, folder: Path, fault: str) -> None:
        self.folder, self.cells = folder, cells_in(folder, 3)
        line = [sys.executable, "-m", "tests.engine.ray_driver", str(folder), "3", fault, nodes.address]
        with (folder / "printed").open("w") as printed:
            self.process = subprocess.Popen(
                line, cwd=ROOT, env=nodes.variables(), stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
            )

    def printed(self) -> str:
        return (self.folder / "printed").read_text()

    def wait_for(self, name: str) -> int:
        """Wait until the first cell is in the middle of its work; gives its process."""

        def there() -> bool:
            assert self.process.poll() is None, self.printed()
            begun = len(executions(self.folder)) == 1
            return begun and len(list(self.folder.glob(f"cell-*/{name}"))) == 1

        wait_until(there, LONG_S)
        (execution,) = executions(self.folder)
        return execution.pid

    def over(self, worker: int) -> list[str | None]:
        """Wait until nothing of it lives; gives the cells' states."""
        self.process.wait(LONG_S)
        wait_until(lambda: not is_alive(worker), LONG_S)
        found = (records.read_status(cell.directory) for cell in self.cells)
        return [status and status.state for status in found]

    def summary(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.folder / "summary.json").read_text())
        return told


@pytest.fixture
def sweep(nodes: Nodes, tmp_path: Path) -> Iterator[Callable[[str], Sweep]]:
    begun: list[Sweep] = []

    def begin(fault: str) -> Sweep:
        begun.append(Sweep(nodes, tmp_path, fault))
        return begun[-1]

    yield begin
    for each in begun:
        each.process.kill()
        each.process.wait()


def test_ctrl_c_lets_running_cells_save_and_starts_no_more(sweep: Callable[[str], Sweep]) -> None:
    running = sweep("obey")
    worker = running.wait_for("status.json")
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.over(worker) == ["interrupted", None, None]
    saved, *left = running.cells
    assert (saved.directory / "saved").exists()
    assert running.summary() == {"stopped": True, "left": [cell.id for cell in left], "ended": [saved.id]}
    said, ended = running.printed().splitlines()  # and nothing that Ray has to say
    assert said == "stopping: 1 running cells save themselves; Ctrl-C again ends them at once"
    assert ended.startswith("[0/3]")


def test_sigterm_ends_cells_that_ignore_everything(sweep: Callable[[str], Sweep]) -> None:
    running = sweep("deaf")
    worker = running.wait_for("deaf")
    running.process.send_signal(signal.SIGTERM)
    assert running.over(worker) == ["interrupted", None, None]
    assert running.summary()["stopped"]
    assert status_of(running.cells[0]).cause == "stopped by the user"
    assert len(running.printed().splitlines()) == 1
    assert list(running.folder.glob(f"{ray_cluster.PREFIX}*")) == []


def test_no_worker_outlives_a_command_that_is_killed(sweep: Callable[[str], Sweep]) -> None:
    running = sweep("deaf")
    worker = running.wait_for("deaf")
    running.process.send_signal(signal.SIGKILL)
    assert running.over(worker) == ["interrupted", None, None]
    (leftover,) = running.folder.glob(f"{ray_cluster.PREFIX}*")
    os.utime(leftover, (0, 0))  # a young one may belong to a command that is about to take the lock
    ray_cluster.SharedFolder(running.folder).close()
    assert not leftover.exists(), "the next sweep tidies up behind one that was killed"


# -- nodes, cells and workers ------------------------------------------------------------------------------------------


def test_a_node_that_joins_gets_cells(head: Nodes, tmp_path: Path) -> None:
    """It is asked to look around before."""
    cells = cells_in(tmp_path, 4, faults=["wait_for_word"] * 9)
    begun: list[str] = []

    def look() -> None:
        if not begun and executions(tmp_path):
            begun.append(head.add())
        if set(begun) & {node for cell in cells for node in nodes_of(cell)}:
            (tmp_path / work.WORD).touch()

    heard = Heard(at_tick=look)
    run_sweep(head, cells, heard, options=Options(max_cells_per_worker=1))
    assert {status_of(cell).state for cell in cells} == {"done"}
    assert heard.put_back_ == []
    assert len({each.pid for each in executions(tmp_path)}) == 4


def test_what_goes_wrong_in_one_cell_costs_only_that_one(
    two: Nodes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On both nodes; and of a stack that dies the others are done in halves.  Ray's own words are not printed."""
    cells = cells_in(tmp_path, 9)
    raising, hanging, hungry, killer = cells[1], cells[3], cells[4], cells[7]
    for cell, fault in ((raising, "raise"), (hanging, "hang"), (hungry, "memory"), (killer, "kill")):
        cell.config["faults"] = [fault] * 9
    heard = Heard()
    groups = [*((cell,) for cell in cells[:6]), tuple(cells[6:])]
    run_sweep(two, cells, heard, replace(WIDE, most=2), Options(retries=1, cell_timeout=2.0), groups)

    found = {cell.id: status_of(cell) for cell in cells}
    failed = {key: status.kind for key, status in found.items() if status.state == "failed"}
    assert failed == {
        raising.id: "exception",
        hanging.id: "timeout",
        hungry.id: "out-of-memory",
        killer.id: "signal",
    }
    assert sum(status.state == "done" for status in found.values()) == 5
    where, causes = nodes_of(killer), [*found[killer.id].retried, found[killer.id].cause]
    why = "was killed (by hand, or by the system when memory ran out)"
    assert causes == [f"its process on node {node} {why}" for node in where[-2:]]
    assert found[hanging.id].cause == "ran longer than hydra.launcher.cell_timeout=2 s and was ended"
    assert found[raising.id].cause == "RuntimeError: the numbers are wrong"
    tries = {cell.id: len(nodes_of(cell)) for cell in cells[:6]}
    assert tries == {cell.id: 2 if cell is hungry else 1 for cell in cells[:6]}
    assert heard.split_[0][0] == [killer.id, cells[8].id], "what the stack had done before it died stays done"
    assert {node for cell in cells for node in nodes_of(cell)} == {HEAD, two.second}
    assert {(each.omp, each.cuda) for each in executions(tmp_path)} == {("2", "")}
    told = {(folder, absolute) for cell in cells for _, folder, absolute in ray_work.words(tmp_path, cell.id)}
    assert told == {(str(Path.cwd()), "True")}
    assert capfd.readouterr() == ("", "")


def test_cells_on_gpus(two: Nodes, tmp_path: Path) -> None:
    """Two at most on each, never astride two; the head has none and gets none."""
    cells = cells_in(tmp_path, 7, seconds=0.1)
    heard = Heard()
    run_sweep(two, cells, heard, Layout((None,), 1, 2, 3))
    found = executions(tmp_path)
    assert {node for cell in cells for node in nodes_of(cell)} == {two.second}
    by_gpu = {gpu: [each for each in found if each.cuda == gpu] for gpu in ("0", "1")}
    assert sum(len(each) for each in by_gpu.values()) == 7
    assert sorted(len({each.pid for each in by_gpu[gpu]}) for gpu in by_gpu) == [1, 2]
    assert max(at_once(each) for each in by_gpu.values()) <= 2
    assert heard.most["all"] == 3
    assert {each.at_import["torch"] for each in found} == {False}


def test_workers_that_can_never_start_end_the_sweep(
    two: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_policy, "MOST_FAILED_STARTS", 1)
    monkeypatch.setattr(engine_ray, "RayWorker", ray_work.NeverBegins)
    cells, heard = cells_in(tmp_path, 5), Heard()
    summary = run_sweep(two, cells, heard, Layout(("",), 2, None, 1))
    (_, where), *_ = heard.started_
    given_up = "worker processes die before they can begin; the sweep is given up"
    assert heard.messages == [f"a worker on {where} died before it could begin", given_up]
    assert len(summary.left) == 5


def test_cells_for_which_there_is_no_room_yet_are_left_when_the_user_stops(two: Nodes, tmp_path: Path) -> None:
    """Somebody else's work holds the node; the cells wait, and do not hold up the end."""
    (node,) = (each.id for each in ray_cluster.nodes() if each.name == two.second)
    other = ray.remote(ray_work.Holder).options(num_cpus=4, scheduling_strategy=ray_cluster.on(node)).remote()
    ray.get(other.ready.remote())
    cells = cells_in(tmp_path, 2)
    once = iter([signal.SIGINT])
    heard = Heard(at_tick=lambda: next((os.kill(os.getpid(), each) for each in once), None))
    try:
        summary = run_sweep(two, cells, heard, replace(WIDE, threads=4))
    finally:
        ray.kill(other)
    assert [key for key, _ in heard.started_] == [cells[0].id]
    assert summary.stopped
    assert executions(tmp_path) == []


# -- the check of the nodes --------------------------------------------------------------------------------------------


def refused(nodes: Nodes, folder: Path) -> str:
    """What a sweep is told that cannot begin; the cells are as they were."""
    with pytest.raises(ConfigError) as error:
        run_sweep(nodes, cells_in(folder, 2), Heard())
    assert error.value.key == "hydra.launcher.address"
    assert list(folder.iterdir()) == []
    return error.value.rule


def test_a_node_that_does_not_share_the_folder_is_named(
    two: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ray_cluster.SharedFolder.ask

    def elsewhere(self: Any, node: Node) -> Any:
        if node.name == HEAD:
            return ask(self, node)
        return ray.remote(ray_workers.inspect_folder).options(num_cpus=0).remote(self.folder / "elsewhere", node.id)

    monkeypatch.setattr(ray_cluster.SharedFolder, "ask", elsewhere)
    folder = tmp_path / "sweep"
    rule = refused(two, folder)
    assert rule == f"be of a cluster whose nodes share the sweep's folder: node {two.second} does not see {folder}"


def test_what_a_node_must_have(head: Nodes, tmp_path: Path) -> None:
    """Each of it is named where it is missing."""
    node = Node("an id", "10.0.0.7", 1, 0, 0)
    with contextlib.closing(ray_cluster.SharedFolder(tmp_path)) as shared:
        fine = ray_workers.inspect_folder(shared.folder, node.id)
        assert shared.fault(node, ray.put(fine)) is None

        rule = shared.fault(node, ray.put(replace(fine, versions="capsexp 7")))
        assert rule == f"be of a cluster with {ray_workers.versions()} on every node: node 10.0.0.7 has capsexp 7"
        rule = shared.fault(node, ray.put(replace(fine, token="another")))
        assert rule == f"be of a cluster whose nodes share the sweep's folder: node 10.0.0.7 does not see {tmp_path}"
        assert "does not respect locks" in str(shared.fault(node, ray.put(replace(fine, locked=False))))
        assert "cannot write into" in str(shared.fault(node, ray.put(replace(fine, wrote=False))))
        (shared.folder / node.id).write_text("of another sweep")
        assert "or what it writes is not seen here" in str(shared.fault(node, ray.put(fine)))


def test_a_node_without_the_package_is_named(head: Nodes, tmp_path: Path) -> None:
    with contextlib.closing(ray_cluster.SharedFolder(tmp_path)) as shared:
        rule = shared.fault(Node("an id", "10.0.0.7", 1, 0, 0), ray.remote(missing).options(num_cpus=0).remote())
    why = "ModuleNotFoundError: No module named 'capsexp'"
    assert rule == f"be of a cluster whose nodes can run capsexp: node 10.0.0.7 says {why}"


def missing() -> None:
    raise ModuleNotFoundError("No module named 'capsexp'")


def test_what_no_node_has_room_for_is_refused(two: Nodes) -> None:
    with pytest.raises(ConfigError, match=r"cpus_per_cell must be at most 4, the CPUs of a node, got 64"):
        RayEngine(Options(address=two.address), Layout(("",), 64, None, 8), work.FakeWork())


# -- the command -------------------------------------------------------------------------------------------------------


def test_the_command_on_a_cluster(two: Nodes, tmp_path: Path, in_tmp: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [word for word in quick_words(write_tiny_npz(tmp_path)) if word != "hydra/launcher=basic"]
    engine = ["hydra.launcher.engine=ray", f"hydra.launcher.address={two.address}", "hydra.launcher.max_cells=1"]
    assert cli.main([*words, *engine, "trainer.accelerator=cpu", "seed=0,1", "-m"]) == 0
    results = sorted(in_tmp.glob("multirun/adhoc/*/result.json"))
    assert len(results) == 2
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "multirun/adhoc: 2 cells"
    assert lines[1] == "running 2, 1 at once, 1 thread per cell"
    assert [line[:5] for line in lines[2:4]] == ["[1/2]", "[2/2]"]
    assert lines[4].startswith("2 of 2 cells done")


def test_the_mark_is_on_every_process(nodes: Nodes) -> None:
    """Which is how the fixture knows that none is left."""
    assert len(marked(nodes.mark)) >= 6, MARK


# -- the last: it costs a node -----------------------------------------------------------------------------------------


def test_a_node_that_dies_costs_its_cells_a_try(two: Nodes, tmp_path: Path) -> None:
    cells = cells_in(tmp_path, 4, faults=["wait_for_word"] * 9)
    dead, killed = two.second, list[int]()

    def look() -> None:
        if not killed and len(executions(tmp_path)) == 2:
            killed.append(two.kill_second())
        if heard.put_back_:
            (tmp_path / work.WORD).touch()

    heard = Heard(at_tick=look)
    run_sweep(two, cells, heard, replace(WIDE, most=2))
    assert {status_of(cell).state for cell in cells} == {"done"}
    (lost,) = (cell for cell in cells if nodes_of(cell)[0] == dead)
    assert status_of(lost).retried == (f"node {dead} died, or cannot be reached",)
    assert [key for key, _ in heard.put_back_] == [lost.id]
    assert nodes_of(lost) == [dead, HEAD]
    assert [nodes_of(cell) for cell in cells if cell is not lost] == [[HEAD]] * 3
