"""What is on disk: identity, whole files, statuses that are true, results that are whole."""

import copy
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capsexp import records, resolvers
from capsexp.sweep.cells import resolved

CONF = Path(__file__).parents[1] / "conf"

# A temporary folder may be shared by the examples of one test: every example writes its file anew.
quietly = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])

scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    scalars | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
bodies = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), values, max_size=5)


# -- identity ---------------------------------------------------------------------------------------------------------


def composed(*overrides: str) -> dict[str, Any]:
    resolvers.register()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return resolved(compose("config", list(overrides)))


def leaves(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def changed(tree: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = "changed"
    return tree


DECIDES_NOTHING = {
    "callbacks.divergence._target_",
    "callbacks.memory_check._target_",
    "callbacks.resume._target_",
    "callbacks.resume.min_interval_s",
    "data.path",  # the digest of the file counts instead
    "data.source.cache",
    "logger.wandb.entity",
    "logger.wandb.mode",
    "logger.wandb.project",
    "logger.wandb.timeout_s",
    "paths.cache",
    "paths.output",
    "paths.stages",
    "paths.sweep",
    "report",
    "sweep.name",
    "sweep.rerun",
    "threads",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.log_every_n_steps",
    "trainer.progress",
}


@pytest.mark.parametrize("overrides", [(), ("data=dhcd", "model=baseline_cnn", "augment=shift2")])
def test_every_key_decides_but_those_named_here(overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CAPSEXP_DATA", raising=False)
    config = composed(*overrides)
    paths = list(leaves(config))
    assert len(paths) > 30
    assert {"model.c2", "optimizer.lr", "data.split_seed", "seed"} <= {".".join(path) for path in paths}
    same = {".".join(path) for path in paths if records.cell_id(changed(config, path)) == records.cell_id(config)}
    assert same == DECIDES_NOTHING & {".".join(path) for path in paths}


def test_an_added_or_removed_key_decides() -> None:
    config = composed()
    added = config | {"new": {"key": 1}}
    assert records.cell_id(added) != records.cell_id(config)
    removed = copy.deepcopy(config)
    del removed["model"]["dropout"]
    assert records.cell_id(removed) != records.cell_id(config)


def test_a_volatile_group_may_be_left_out() -> None:
    config = composed()
    bare = {key: value for key, value in config.items() if key not in ("logger", "paths", "report", "sweep", "threads")}
    assert records.cell_id(bare) == records.cell_id(config)
    assert records.cell_id(config | {"hydra": {"job": {"num": 3}}, "launcher": "ray"}) == records.cell_id(config)


def test_the_data_file_counts_by_its_digest() -> None:
    config = composed("data=dhcd", "data.path=/a/x.npz")
    moved = composed("data=dhcd", "data.path=/b/y.npz")
    assert records.cell_id(config, "aa") == records.cell_id(moved, "aa") != records.cell_id(config, "bb")
    assert records.cell_id(config, "aa") != records.cell_id(config)
    assert records.identity(config, "aa")["data"]["path"] == "aa"


def test_every_file_that_a_config_names_is_replaced_by_its_digest(tmp_path: Path) -> None:
    paths = {key: str(tmp_path / key) for key in records.FILES}
    for key, path in paths.items():
        Path(path).write_text(key)
    source = {"path": paths["data.source.path"], "seed": 0}
    config = {
        "data": {"path": None, "source": source},
        "routing": {"coupling": paths["routing.coupling"]},
        "model": {"routing": {"coupling": paths["model.routing.coupling"]}},
    }
    before = copy.deepcopy(config)
    assert [dotted for dotted, _, _ in records.named_files(config)] == [
        "data.source.path",
        "routing.coupling",
        "model.routing.coupling",
    ]
    found = records.digested(config)
    assert config == before
    assert found["data"] == {"path": None, "source": {"path": records.file_sha256(Path(source["path"])), "seed": 0}}
    assert len(found["routing"]["coupling"]) == len(found["model"]["routing"]["coupling"]) == 64
    named = records.digested(config, lambda key, path: f"{key} in {path.parent.name}")
    assert named["routing"]["coupling"] == f"routing.coupling in {tmp_path.name}"
    given = records.digested(config | {"data": {"path": paths["data.path"], "source": source}})
    assert given["data"] == {"path": records.file_sha256(Path(paths["data.path"])), "source": {"path": None, "seed": 0}}


@pytest.mark.parametrize(
    "config", [{}, {"data": None}, {"data": {"source": None}, "routing": 5}, {"model": {"routing": {"coupling": [1]}}}]
)
def test_a_config_that_names_no_file_stays_as_it_is(config: dict[str, Any]) -> None:
    assert records.digested(config) == config


def test_identity_is_a_copy_and_order_plays_no_part() -> None:
    config = composed()
    before = copy.deepcopy(config)
    records.identity(config)["model"]["c2"] = 99
    assert config == before
    backwards = dict(reversed([(key, value) for key, value in config.items()]))
    assert records.cell_id(backwards) == records.cell_id(config)


def test_an_id_is_ten_hexadecimal_digits_and_the_same_for_good() -> None:
    assert records.cell_id({"model": {"c2": 16}, "seed": 0}) == "43c16656bb"
    assert len(records.cell_id({})) == records.ID_LENGTH


@given(bodies, bodies)
@settings(deadline=None, max_examples=50)
def test_ids_tell_configs_apart(first: dict[str, Any], second: dict[str, Any]) -> None:
    texts = [json.dumps(records.identity(config), sort_keys=True) for config in (first, second)]
    one, other = (json.dumps(json.loads(text, parse_float=whole_if_whole)) for text in texts)
    assert (records.cell_id(first) == records.cell_id(second)) == (one == other)


def whole_if_whole(text: str) -> float:
    return int(float(text)) if float(text).is_integer() else float(text)


def test_a_number_has_one_spelling_but_keeps_its_kind() -> None:
    ids = [records.cell_id({"model": {"dropout": value}}) for value in (0, 0.0, -0.0, False, None, "0", [0], 0.5)]
    assert len(set(ids)) == 6
    assert ids[0] == ids[1] == ids[2]
    assert records.cell_id({"kernels": [7, 5.0]}) == records.cell_id({"kernels": [7.0, 5]})


def test_file_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert records.file_sha256(tmp_path / "file") == expected


# -- writing ----------------------------------------------------------------------------------------------------------


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_replacing_makes_folders_and_leaves_one_readable_file(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    records.write_text(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_error_inside_keeps_the_old_file_and_no_temporary_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    records.write_text(path, "old")

    def fail() -> None:
        with records.replacing(path) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_kill_inside_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    records.write_json(path, {"old": 1})
    code = (
        "import os, pathlib, sys\nfrom capsexp import records\n"
        "with records.replacing(pathlib.Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('{'); os._exit(9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(CONF.parent / "src")}
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, env=environment)
    assert done.returncode == 9
    assert json.loads(path.read_text()) == {"old": 1}


def test_the_file_is_on_the_disk_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda handle: seen.append((tmp_path / "file").exists()))
    records.write_text(tmp_path / "file", "text")
    assert seen == [False]


def test_json_keeps_its_order_and_has_no_nan(tmp_path: Path) -> None:
    value = {"b": math.nan, "a": [math.inf, (1.5, -math.inf)], 3: True, "c": {"d": None}}
    records.write_json(tmp_path / "file", value)
    text = (tmp_path / "file").read_text()
    assert json.loads(text) == {"3": True, "a": [None, [1.5, None]], "b": None, "c": {"d": None}}
    assert text.index('"b"') < text.index('"a"')
    assert text.endswith("}\n")


# -- status -----------------------------------------------------------------------------------------------------------


def a_dead_process() -> int:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    return gone.pid


statuses = st.builds(
    records.Status,
    state=st.sampled_from(["pending", "done", "failed", "interrupted"]),
    id=st.text("0123456789abcdef", min_size=10, max_size=10),
    pid=st.integers(1, 2**22),
    host=st.text(max_size=9),
    started=st.floats(0, 2e9),
    updated=st.floats(0, 2e9),
    cause=st.none() | st.text(max_size=20),
)


@given(status=statuses)
@quietly
def test_status_round_trip(tmp_path: Path, status: records.Status) -> None:
    records.write_status(tmp_path, status)
    assert records.read_status(tmp_path) == status


def test_running_with_a_live_process_is_running(tmp_path: Path) -> None:
    status = records.Status("running", "0123456789")
    assert (status.pid, status.host) == (os.getpid(), socket.gethostname())
    records.write_status(tmp_path, status)
    assert records.read_status(tmp_path) == status


def test_running_with_a_dead_process_is_interrupted(tmp_path: Path) -> None:
    pid = a_dead_process()
    records.write_status(tmp_path, records.Status("running", "0123456789", pid=pid))
    status = records.read_status(tmp_path)
    assert status is not None
    assert (status.state, status.cause) == ("interrupted", f"process {pid} ended unexpectedly")


def test_a_process_of_before_a_restart_is_not_believed(tmp_path: Path) -> None:
    records.write_status(tmp_path, records.Status("running", "0123456789", boot="another start"))
    status = records.read_status(tmp_path)
    assert status is not None
    assert status.state == "interrupted"


def test_another_machine_is_believed(tmp_path: Path) -> None:
    status = records.Status("running", "0123456789", pid=a_dead_process(), host="elsewhere", boot="another start")
    records.write_status(tmp_path, status)
    assert records.read_status(tmp_path) == status


def test_another_machine_that_is_silent_is_not(tmp_path: Path) -> None:
    (tmp_path / records.LOCK).touch()
    old = time.time() - records.LOST_AFTER_S - 100
    records.write_status(tmp_path, records.Status("running", "0123456789", host="elsewhere", updated=old))
    status = records.read_status(tmp_path)
    assert status is not None
    assert status.state == "running"  # its lock was touched just now
    os.utime(tmp_path / records.LOCK, (old, old))
    status = records.read_status(tmp_path)
    assert status is not None
    assert (status.state, status.cause) == ("interrupted", "no sign of life from elsewhere for 7 minutes")


def test_a_process_number_that_another_process_has_now_is_not_believed(tmp_path: Path) -> None:
    own = records.Status("running", "0123456789")
    assert own.born > 0
    records.write_status(tmp_path, replace(own, born=own.born - 1))
    status = records.read_status(tmp_path)
    assert status is not None
    assert status.state == "interrupted"


def test_a_process_that_nobody_has_collected_is_dead(tmp_path: Path) -> None:
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays in the table
    records.write_status(tmp_path, records.Status("running", "0123456789", pid=zombie.pid, born=0))
    status = records.read_status(tmp_path)
    zombie.wait()
    assert status is not None
    assert status.state == "interrupted"


def test_a_result_set_aside_is_kept_and_the_cell_is_to_do(tmp_path: Path) -> None:
    cell = tmp_path / "c2-04-0123456789"
    records.write_result(cell, {"id": "0123456789", "numerics": 1})
    (cell / "checkpoints").mkdir()
    (cell / records.RESUME_CHECKPOINT).touch()
    for _ in range(2):
        records.set_aside(cell)
        assert records.read_result(cell) is None
        assert (cell / records.PREVIOUS_RESULT).exists()
        assert not (cell / records.RESUME_CHECKPOINT).exists()
        status = records.read_status(cell)
        assert status is not None
        assert (status.state, status.id) == ("pending", "0123456789")


def test_configs_round_trip_and_damaged_ones_are_none(tmp_path: Path) -> None:
    assert records.read_configs(tmp_path) == {}
    frozen = {"0123456789": records.FrozenCell({"model": {"c2": 4}}, ["model.c2=4"])}
    records.write_configs(tmp_path, frozen)
    assert records.read_configs(tmp_path) == frozen
    for text in ("", "[]", '{"cells": {"0": {"mood": 1}}}', '{"cells": []}'):
        (tmp_path / records.CONFIGS).write_text(text)
        assert records.read_configs(tmp_path) == {}


def test_now_keeps_who_and_when_it_began() -> None:
    status = records.Status("running", "0123456789", started=5.0, updated=5.0, cause="old")
    later = status.now("failed", "ValueError: x")
    assert later.updated > status.updated
    assert replace(later, state="running", updated=5.0, cause="old") == status


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\x00"])
def test_no_whole_status_is_none(tmp_path: Path, text: str) -> None:
    assert records.read_status(tmp_path) is None
    (tmp_path / records.STATUS).write_text(text)
    assert records.read_status(tmp_path) is None


@pytest.mark.parametrize("raw", [{}, {"state": "done"}, {"state": "done", "id": "0123456789", "mood": "good"}])
def test_a_status_of_another_layout_is_none(tmp_path: Path, raw: dict[str, Any]) -> None:
    records.write_json(tmp_path / records.STATUS, raw)
    assert records.read_status(tmp_path) is None


def test_user_errors() -> None:
    status = records.Status("failed", "0123456789")
    assert records.is_user_error(replace(status, kind="config"))
    assert not records.is_user_error(replace(status, kind="exception", cause="ConfigError: x"))
    assert not records.is_user_error(status)
    assert not records.is_user_error(replace(status, state="interrupted", kind="config"))


# -- result -----------------------------------------------------------------------------------------------------------


@given(body=bodies)
@quietly
def test_result_round_trip(tmp_path: Path, body: dict[str, Any]) -> None:
    records.write_result(tmp_path, body)
    assert records.read_result(tmp_path) == body


def test_nan_becomes_null_and_keeps_the_result_whole(tmp_path: Path) -> None:
    records.write_result(tmp_path, {"metrics": {"test/loss": math.nan, "x": [math.inf]}})
    assert records.read_result(tmp_path) == {"metrics": {"test/loss": None, "x": [None]}}


BODY = {"id": "0123456789", "metrics": {"test/acc": 0.9375, "distance/conv1/min": None}, "axes": {"model.c2": 16}}


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    records.write_result(tmp_path, BODY)
    path = tmp_path / records.RESULT
    whole = path.read_bytes()
    believed = []
    for place in range(len(whole)):
        for flip in (0x01, 0x10):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            result = records.read_result(tmp_path)
            if result is not None and result != BODY:
                believed.append(whole[max(0, place - 9) : place + 9])
    assert believed == []


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    records.write_result(tmp_path, BODY)
    path = tmp_path / records.RESULT
    whole = path.read_bytes()
    assert records.read_result(tmp_path) == BODY
    for length in range(len(whole) - 1):  # without its last line break it is still whole
        path.write_bytes(whole[:length])
        assert records.read_result(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"body": 3}', '{"body": {}}', '{"body": {}, "checksum": null}'])
def test_no_whole_result_is_none(tmp_path: Path, text: str) -> None:
    assert records.read_result(tmp_path) is None
    (tmp_path / records.RESULT).write_text(text)
    assert records.read_result(tmp_path) is None


def test_stale_is_another_version_of_the_numbers() -> None:
    assert not records.is_stale({"numerics": records.NUMERICS_VERSION})
    assert records.is_stale({"numerics": records.NUMERICS_VERSION + 1})
    assert records.is_stale({"numerics": 0})
    assert not records.is_stale({"numerics": 1, "training": {"epochs": 3}})
    assert not records.is_stale({"numerics": 1, "training": {"broken": False}})
    assert records.is_stale({"numerics": 1, "training": {"broken": True}}), "version 2 describes it at its last epoch"
    assert records.is_stale({})


# -- sweep ------------------------------------------------------------------------------------------------------------

cells = st.builds(records.PlannedCell, id=st.text(max_size=10), name=st.text(max_size=9), axes=bodies)
sweeps = st.builds(
    records.Sweep,
    name=st.text(max_size=9),
    axes=st.dictionaries(st.text(max_size=5), st.lists(values, max_size=3), max_size=3),
    cells=st.lists(cells, max_size=3),
    overrides=st.lists(st.text(max_size=9), max_size=3),
    report=bodies,
)


@given(sweep=sweeps)
@quietly
def test_sweep_round_trip(tmp_path: Path, sweep: records.Sweep) -> None:
    records.write_sweep(tmp_path, sweep)
    assert records.read_sweep(tmp_path) == sweep


def test_the_order_of_axes_and_cells_is_kept(tmp_path: Path) -> None:
    cells = [records.PlannedCell(id, id, {"b": 2, "a": 1}) for id in ("z", "a")]
    records.write_sweep(tmp_path, records.Sweep("s", {"b": [2, 1], "a": [1]}, cells, [], {}))
    sweep = records.read_sweep(tmp_path)
    assert sweep is not None
    assert [cell.id for cell in sweep.cells] == ["z", "a"]
    assert sweep.axes["b"] == [2, 1]
    assert list(sweep.axes) == ["b", "a"]


def test_no_sweep_is_none(tmp_path: Path) -> None:
    assert records.read_sweep(tmp_path) is None
    assert records.read_sweep(tmp_path / "nowhere") is None


# -- names ------------------------------------------------------------------------------------------------------------

ID = "1a2b3c4d5e"


@pytest.mark.parametrize(
    ("axes", "name"),
    [
        ({"model.c2": 16, "model.c3": 7}, f"c2-16_c3-07-{ID}"),
        ({}, f"cell-{ID}"),
        ({"seed": 100}, f"seed-100-{ID}"),
        ({"optimizer.lr": 0.0005}, f"lr-0.0005-{ID}"),
        ({"optimizer.lr": 1e-06}, f"lr-1e-06-{ID}"),
        ({"flag": True}, f"flag-True-{ID}"),
        ({"flag": None}, f"flag-None-{ID}"),
        ({"model": "cnn"}, f"model-cnn-{ID}"),
        ({"data.path": "/a b/c=d.npz"}, f"path-a.b.c.d.npz-{ID}"),
        ({"name": ""}, f"name-none-{ID}"),
        ({"name": "../.."}, f"name-none-{ID}"),
    ],
)
def test_cell_names(axes: dict[str, Any], name: str) -> None:
    assert records.cell_name(axes, ID) == name


def test_names_sort_as_values_do() -> None:
    found = [records.cell_name({"model.c2": value}, ID) for value in range(2, 17)]
    assert found == sorted(found)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=9), values, max_size=4))
@quietly
def test_any_name_is_one_folder_that_is_found_again(tmp_path: Path, axes: dict[str, Any]) -> None:
    axes = {"".join(char for char in key if char.isalnum()) or "key": value for key, value in axes.items()}
    name = records.cell_name(axes, ID)
    assert "/" not in name
    assert "=" not in name
    folder = tmp_path / name
    folder.mkdir(parents=True)
    assert records.cell_directories(tmp_path) == {ID: folder}
    folder.rmdir()


def test_cell_directories_are_those_with_an_id(tmp_path: Path) -> None:
    assert records.cell_directories(tmp_path / "nowhere") == {}
    for name in (f"c2-16-{ID}", "report", "x-1a2b3c4d5", "x-1a2b3c4d5g", ".stages-0123456789", "cell-0123456789"):
        (tmp_path / name).mkdir()
    (tmp_path / "file-aaaaaaaaaa").touch()
    expected = {ID: tmp_path / f"c2-16-{ID}", "0123456789": tmp_path / "cell-0123456789"}
    assert records.cell_directories(tmp_path) == expected
