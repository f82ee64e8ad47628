"""What a finished cell's config may name: parts of a cell, and nothing else without trust."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from capsexp import analyse, records
from capsexp.build import load_run
from capsexp.errors import ConfigError
from capsexp.loading import read_config
from tests.conftest import ran_in
from tests.test_cell_life import the_cell

ran: list[object] = []


def gadget(*found: object, **more: object) -> int:
    """A function that a stranger's config names."""
    ran.append((found, more))
    return 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return the_cell(ran_in(tmp_path_factory.mktemp("trained")))


@pytest.fixture
def cell(trained: Path, tmp_path: Path) -> Path:
    """A finished cell of an older version, so that its config has no checksum."""
    there = tmp_path / trained.name
    shutil.copytree(trained, there)
    raw = records.read_json(there / records.RESULT) or {}
    records.write_json(there / records.RESULT, {key: raw[key] for key in ("schema", "checksum", "body")})
    ran.clear()
    return there


def edit(cell: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    config = yaml.safe_load((cell / records.CONFIG).read_text())
    change(config)
    (cell / records.CONFIG).write_text(yaml.safe_dump(config))


GADGET: dict[str, Any] = {"_target_": f"{__name__}.gadget"}
HIDDEN: dict[str, dict[str, Any]] = {
    "in place of the model": {"model": {**GADGET, "module": {}}},
    "as an argument": {"c1": GADGET},
    "as an argument of an argument": {"c1": {"_target_": "capsexp.models.cnn.CNN", "c1": GADGET}},
    "in a list": {"kernels": [7, GADGET, 3]},
    "from the package": {"c1": {"_target_": "capsexp.tracking.sync._upload"}},
    "a function of a room": {"c1": {"_target_": "capsexp.callbacks.checkpoints.read", "path": "/etc/passwd"}},
    "a class that a room imports": {"c1": {"_target_": "capsexp.models.cnn.nn.Linear"}},
    "a class of a room that is no part": {"c1": {"_target_": "capsexp.recipes.networks.Networks"}},
    "of the standard library": {"c1": {"_target_": "pathlib.Path", "_args_": ["/"]}},
    "no text": {"c1": {"_target_": 3}},
    "positional arguments": {"_args_": [1]},
    "a function made later": {"_partial_": True},
    "the environment": {"c1": "${oc.env:HOME}"},
}


@pytest.mark.parametrize("kind", HIDDEN)
def test_a_config_that_names_something_else_is_refused_in_one_line(cell: Path, kind: str) -> None:
    hidden = HIDDEN[kind]
    edit(cell, lambda config: config.update(hidden) if "model" in hidden else config["model"].update(hidden))
    with pytest.raises(ConfigError) as caught:
        load_run(cell)
    assert f"{cell / records.CONFIG}: model" in str(caught.value)
    assert "--trust" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert ran == []


@pytest.mark.parametrize("group", ["optimizer", "augment", "data", "callbacks", "recipe"])
def test_every_group_is_looked_at_before_anything_is_made(cell: Path, group: str) -> None:
    edit(cell, lambda config: config[group].update(more=[{"deep": GADGET}]))
    with pytest.raises(ConfigError, match=rf"{group}\.more\[0\]\.deep\._target_ must name a part of a cell"):
        load_run(cell)
    assert ran == []


def test_trust_makes_whatever_a_config_names(cell: Path) -> None:
    edit(cell, lambda config: config["model"].update(c1={**GADGET, "number": 3}))
    config = read_config(cell, trust=True)
    assert config["model"]["c1"]["number"] == 3
    with pytest.raises(ConfigError, match=r"hold a config\.yaml and a checkpoints/best\.ckpt of one network"):
        load_run(cell, trust=True)  # the gadget gives another width
    assert ran == [((), {"number": 3})]


def test_the_sizes_in_a_checkpoint_name_nothing_else_either(cell: Path) -> None:
    path = cell / records.BEST_CHECKPOINT
    saved = torch.load(path, weights_only=True)
    for sizes in ({"_target_": GADGET["_target_"]}, {"classes": GADGET}, {"classes": ({"more": GADGET},)}):
        known = {**saved["hyper_parameters"]["sizes"], **sizes}
        torch.save({**saved, "hyper_parameters": {**saved["hyper_parameters"], "sizes": known}}, path)
        with pytest.raises(ConfigError, match=r"best\.ckpt: sizes.*_target_ must name a part of a cell"):
            load_run(cell)
    assert ran == []


def test_the_command_refuses_with_exit_code_2(cell: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit(cell, lambda config: config["model"].update(c1=GADGET))
    assert analyse.main([str(cell)]) == 2
    error = capsys.readouterr().err
    assert "model.c1._target_ must name a part of a cell" in error
    assert error.count("\n") == 1


def test_a_config_that_was_changed_is_damaged_unless_only_paths_are(trained: Path, tmp_path: Path) -> None:
    cell = tmp_path / trained.name
    shutil.copytree(trained, cell)
    edit(cell, lambda config: (config["data"].update(path="elsewhere.npz"), config["paths"].update(output="there")))
    assert load_run(cell).config["data"]["path"] == "elsewhere.npz"
    edit(cell, lambda config: config["model"].update(dropout=0.5))
    with pytest.raises(ConfigError, match=r"config\.yaml is damaged: it is not the config that the cell was run with"):
        load_run(cell)


@pytest.mark.parametrize("text", [b"", b"model:", b"{a: [", b"\xff\xfe\x00", b"3", b"model: {}\n", b"[" * 100_000])
def test_a_damaged_config_is_one_line_that_names_the_file(cell: Path, text: bytes) -> None:
    (cell / records.CONFIG).write_bytes(text)
    with pytest.raises(ConfigError, match=r"config\.yaml is damaged") as caught:
        load_run(cell)
    assert "\n" not in str(caught.value)
