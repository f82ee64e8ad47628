"""An address behind which there is no cluster costs one clear line, within seconds."""

import contextlib
import importlib.util
import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from capsexp.engine import ray_cluster
from capsexp.engine.devices import Slot
from capsexp.engine.options import Layout, Options
from capsexp.engine.ray import Need, NodeSlot, RayEngine, need_of
from capsexp.engine.ray_cluster import Node
from capsexp.engine.ray_workers import why_died
from capsexp.engine.worker import CellWork
from capsexp.errors import ConfigError
from tests.engine.ray_nodes import free_port

LAYOUT = Layout(("",), 1, None, 4)


def refused(address: str | None) -> ConfigError:
    begun = time.monotonic()
    with pytest.raises(ConfigError) as error:
        RayEngine(Options(address=address), LAYOUT, CellWork())
    assert time.monotonic() - begun < 15
    assert "\n" not in str(error.value)
    return error.value


@contextlib.contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """Something that listens, and answers so; None = it is silent."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        calls: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                calls.append(listening.accept()[0])
                if answer is not None:
                    calls[0].recv(1000)
                    calls[0].sendall(answer)
                    calls[0].shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        thread.join()
        for call in calls:
            call.close()


@pytest.fixture(autouse=True)
def _ray_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests need none of it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "ray" or find(name))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_without_ray_the_command_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    rule = "hydra.launcher.engine must be local, or Ray be installed: pip install 'capsexp[ray]' (in a checkout: "
    assert str(refused(None)) == f"{rule}pip install -e '.[ray]'), got 'ray'"


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_that_nobody_answers(scheme: str) -> None:
    address = f"{scheme}127.0.0.2:{free_port()}"
    error = refused(address)
    assert (error.key, error.value) == ("hydra.launcher.address", address)
    assert error.rule.startswith("be of a Ray cluster that answers (")
    assert "refused" in error.rule


def test_an_address_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_cluster, "ANSWER_S", 0.2)
    with server(None) as address:
        assert "timed out" in refused(address).rule


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_an_address_of_something_else(answer: bytes) -> None:
    with server(answer) as address:
        assert refused(address).rule == "be of a Ray cluster; this is something else"


def test_the_address_that_the_environment_names_is_looked_at_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.2:{free_port()}")
    assert refused("auto").value == os.environ["RAY_ADDRESS"]


@pytest.mark.parametrize("address", ["local", "head", "head:", ":6379", "head:port", "127.0.0.1:99999"])
def test_what_is_no_address(address: str) -> None:
    assert refused(address).key == "hydra.launcher.address"


def test_gpus_are_not_the_users_to_name() -> None:
    with pytest.raises(ConfigError, match=r"hydra.launcher.gpus must be auto or \[\] in a cluster"):
        RayEngine(Options(gpus=("0",)), LAYOUT, CellWork())


# -- what nodes have room for ------------------------------------------------------------------------------------------

HEAD = Node("a", "10.0.0.1", 8, 0, 64_000_000_000)
GPUS = Node("b", "10.0.0.2", 64, 4, 64_000_000_000)
SMALL = Node("c", "10.0.0.3", 64, 0, 3_500_000_000)


@pytest.mark.parametrize(
    ("layout", "capacities"),
    [
        (Layout((None,), 1, None, 99), [0, 4, 0]),  # one on each GPU
        (Layout((None,), 1, 3, 99), [0, 12, 0]),
        (Layout((None,), 8, 3, 99), [0, 8, 0]),  # the cores of the node are the limit
        (Layout(("",), 2, None, 99), [4, 32, 3]),  # main memory is the limit of the last
    ],
)
def test_how_many_workers_fit_on_a_node(layout: Layout, capacities: list[int]) -> None:
    need = need_of(layout, [HEAD, GPUS, SMALL], None)
    assert [need.capacity(node) for node in (HEAD, GPUS, SMALL)] == capacities


def test_a_limit_of_the_users_own_is_believed_whatever_memory_there_is() -> None:
    assert need_of(LAYOUT, [SMALL], 99).capacity(SMALL) == 64


def test_without_gpus_in_the_cluster_cells_run_on_cores() -> None:
    need = need_of(Layout((None,), 2, 3, 9), [HEAD, SMALL], None)
    assert need.resources() == {"num_cpus": 2}
    assert need.capacity(HEAD) == 4


@pytest.mark.parametrize("per_gpu", [1, 2, 3, 7, 64])
def test_as_many_parts_of_a_gpu_as_cells(per_gpu: int) -> None:
    """Ray counts in ten thousandths; no part is left for one more."""
    part = Need(1, per_gpu).resources()["num_gpus"]
    assert round(part * 10_000) == part * 10_000
    assert per_gpu * part <= 1 < (per_gpu + 1) * part


def test_a_cell_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cpus_per_cell must be at most 64, the CPUs of a node with GPUs, got 65"):
        need_of(Layout((None,), 65, None, 9), [HEAD, GPUS], None)


def test_a_place_says_which_node_it_is() -> None:
    slot: Slot = NodeSlot("an id", 3, name="10.0.0.7")
    assert slot.where == "node 10.0.0.7"


# -- what ended a worker -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "there", "kind", "cause"),
    [
        ("Worker exit type: NODE_OUT_OF_MEMORY", True, "out-of-memory", "by Ray: the memory of node n ran low"),
        ("killed due to the node running low on memory", False, "out-of-memory", "the memory of node n ran low"),
        ("connection error code 2. End of file.", True, "signal", "its process on node n was killed"),
        ("connection error code 2. End of file.", False, "signal", "node n died, or cannot be reached"),
    ],
)
def test_why_a_worker_is_gone(text: str, there: bool, kind: str, cause: str) -> None:
    gone = why_died(RuntimeError(text), "n", there)
    assert gone.kind == kind
    assert cause in gone.cause
