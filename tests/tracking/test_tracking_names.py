"""Names keep to Weights & Biases' limits and tell everything apart that is different."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import wandb
from hypothesis import assume, example, given
from hypothesis import strategies as st

import capsexp
from capsexp import records
from capsexp.errors import ConfigError
from capsexp.tracking import names

CELLS = st.text("0123456789abcdef", min_size=10, max_size=10)
PLAIN = st.text("abcXYZ019_.-", min_size=1, max_size=80)
SWEEPS = st.one_of(PLAIN, st.text(min_size=1, max_size=200), PLAIN.map(lambda text: text + "-" + "0" * 20))
VALUES = st.one_of(
    st.integers(-99, 999), st.floats(), st.booleans(), st.none(), st.text(max_size=8), st.text("a", max_size=150),
    st.sampled_from(["True", "none", "a.", "a", "a b", "07", "a_b", "1e-3", "x-0123456789"]),
)  # fmt: skip


@given(SWEEPS, CELLS)
def test_a_run_id_is_short_and_plain(sweep: str, cell: str) -> None:
    name = names.run_id(sweep, cell)
    assert re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", name)
    assert name.endswith(cell)
    assert wandb.Settings(run_id=name).run_id == name


@given(st.tuples(SWEEPS, CELLS), st.tuples(SWEEPS, CELLS))
@example(("a b", "0" * 10), ("a-b", "0" * 10))
@example(("x" * 54, "0" * 10), ("x" * 55, "0" * 10))
@example(("x" * 100 + "y", "0" * 10), ("x" * 100 + "z", "0" * 10))
def test_different_cells_have_different_run_ids(one: tuple[str, str], other: tuple[str, str]) -> None:
    assume(one != other)
    assert names.run_id(*one) != names.run_id(*other)


@given(SWEEPS, CELLS)
def test_no_sweep_can_take_a_shortened_ones_id(sweep: str, cell: str) -> None:
    """A sweep named like the beginning of another one's shortened id gets another id."""
    long = names.run_id(sweep + "y" * 60, cell)
    thief = long[: -len(cell) - 1]
    assert thief != sweep + "y" * 60
    assert names.run_id(thief, cell) != long


def test_a_usual_run_id_is_readable() -> None:
    assert names.run_id("cnn_prune", "1a2b3c4d5e") == "cnn_prune-1a2b3c4d5e"


@given(st.text(max_size=200), st.text(max_size=200))
@example("x" * 129, "x" * 130)
def test_a_group_is_short_and_tells_sweeps_apart(one: str, other: str) -> None:
    assert len(names.group(one)) <= 128
    assert (names.group(one) == names.group(other)) == (one == other)
    assert names.group("cnn_prune") == "cnn_prune"


@given(st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=6))
@example([(1, "07"), (1, 7)])
@example([("a b", 1), ("a.b", 1)])
@example([(True, 1), ("True", 1)])
@example([("a" * 150, 1), ("a" * 150, 2)])
@example([("", 1), (None, 1), ("none", 1)])
def test_no_two_cells_of_a_sweep_share_a_display_name(points: list[tuple[Any, Any]]) -> None:
    cells = {repr(point): dict(zip(("model.c2", "data"), point, strict=True)) for point in points}
    taken = {}
    for key, axes in cells.items():
        cell = records.cell_id({"axes": key})
        name = names.display_name(records.cell_name(axes, cell), cell, axes)
        assert 0 < len(name) <= 128
        assert taken.setdefault(name, key) == key


@given(st.text(max_size=300), CELLS)
def test_any_display_name_is_short(directory: str, cell: str) -> None:
    assert len(names.display_name(f"{directory}-{cell}", cell, {})) <= 128


def test_a_display_name_is_the_swept_values_or_keeps_the_id() -> None:
    assert names.display_name("c2-16_c3-07-1a2b3c4d5e", "1a2b3c4d5e", {"c2": 16, "c3": 7}) == "c2-16_c3-07"
    assert names.display_name("cell-1a2b3c4d5e", "1a2b3c4d5e", {}) == "cell-1a2b3c4d5e"


@pytest.mark.parametrize("project", ["", " ", None, 7, "a" * 129, *(f"a{char}b" for char in r"/\#?%:")])
def test_a_project_that_would_be_refused_is_refused_before(project: object) -> None:
    with pytest.raises(ConfigError, match=r"^logger\.wandb\.project must be a text of 1 to 128 .*, got ") as raised:
        names.check(project, None, "sweep")
    assert raised.value.value == project
    if isinstance(project, str) and project.strip():
        with pytest.raises(wandb.errors.UsageError):
            wandb.Settings(project=project)


@given(st.text(max_size=140))
def test_what_is_taken_wandb_takes_too(project: str) -> None:
    try:
        names.check(project, None, "sweep")
    except ConfigError:
        return
    assert wandb.Settings(project=project).project == project


@pytest.mark.parametrize("entity", ["", 3, "my/team"])
def test_an_entity_that_would_be_refused_is_refused_before(entity: object) -> None:
    with pytest.raises(ConfigError, match=r"^logger\.wandb\.entity must "):
        names.check("capsexp", entity, "sweep")


@pytest.mark.parametrize("sweep", ["", "  ", None, 3])
def test_a_sweep_needs_a_name(sweep: object) -> None:
    with pytest.raises(ConfigError, match=r"^sweep\.name must "):
        names.check("capsexp", "me", sweep)


def test_usual_names_pass_however_long_the_sweep() -> None:
    names.check("capsexp", None, "x" * 500)
    names.check("a" * 128, "my-team", "cnn_prune")


@pytest.mark.parametrize("module", ["tracking", "tracking.names", "tracking.sync", "sync", "dashboard"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    heavy = ["wandb", "lightning", "torch", "numpy", "hydra", "matplotlib", "wandb_workspaces"]
    code = f"import sys, capsexp.{module}; print([name for name in {heavy} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(Path(capsexp.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, env=environment
    )
    assert done.stdout == "[]\n"
