"""The library: the same plan, engine and files as the command, from a script or notebook."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import capsexp
from capsexp.api import CellError
from capsexp.errors import CommandError, ConfigError
from tests.conftest import results


def without(quick: list[str], *keys: str) -> list[str]:
    return [word for word in quick if not word.startswith(keys)]


def test_a_sweep_is_run_and_read(quick: list[str], in_tmp: Path) -> None:
    folder = capsexp.run_sweep([*without(quick, "sweep.name"), "sweep.name=own", "model.c2=2,3"])
    assert folder == in_tmp / "multirun" / "own"
    cells = capsexp.load_sweep(folder)
    assert cells["state"].tolist() == ["done", "done"]
    assert cells["test/acc"].tolist() == [body["metrics"]["test/acc"] for body in results(folder).values()]


def test_a_failed_cell_of_a_sweep_is_in_the_table(quick: list[str], in_tmp: Path) -> None:
    folder = capsexp.run_sweep([*quick, "model.dropout=0.5,2"])
    cells = capsexp.load_sweep(folder).set_index("axes.model.dropout")
    assert cells["state"].to_dict() == {0.5: "done", 2: "failed"}
    assert "model.dropout" in cells.loc[2, "cause"]


def test_a_cell_is_run_and_loaded(quick: list[str], in_tmp: Path) -> None:
    directory = capsexp.run_cell(quick)
    assert capsexp.load_run(directory).result == results(in_tmp)[directory.name]
    assert capsexp.run_cell(quick) == directory, "a finished cell is not run again"


def test_a_cell_that_is_not_done_is_an_error(quick: list[str], in_tmp: Path) -> None:
    with pytest.raises(CellError, match=r"model\.dropout must be a number in \[0, 1\), got 2"):
        capsexp.run_cell([*quick, "model.dropout=2"])


@pytest.mark.parametrize("run", ["run_cell", "run_sweep"])
def test_refused_arguments_are_errors(run: str, quick: list[str], in_tmp: Path) -> None:
    with pytest.raises(CommandError, match=r"model\.c9"):
        getattr(capsexp, run)([*quick, "model.c9=1"])
    assert not (in_tmp / "multirun").exists()


def test_a_value_for_the_whole_sweep_is_a_config_error(quick: list[str], in_tmp: Path) -> None:
    with pytest.raises(ConfigError) as error:
        capsexp.run_sweep([*quick, "sweep.name=a,b"])
    assert error.value.key == "sweep.name"


def test_a_grid_is_no_cell(quick: list[str], in_tmp: Path) -> None:
    with pytest.raises(CommandError, match="run_sweep"):
        capsexp.run_cell([*quick, "model.c2=2,3", "-m"])


def test_names_that_are_not_there(in_tmp: Path) -> None:
    assert set(capsexp.__all__) == {*capsexp.PUBLIC, *capsexp.PACKAGES} <= set(dir(capsexp))
    with pytest.raises(AttributeError, match="no attribute 'load_all'"):
        _ = capsexp.load_all  # type: ignore[attr-defined]


def test_type_checkers_know_all_names() -> None:
    stub = ast.parse(Path(capsexp.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    names = {alias.name for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert names == set(capsexp.__all__)


def test_importing_the_package_loads_no_library() -> None:
    code = "import sys, capsexp; dir(capsexp); sys.exit(str({'torch', 'pandas', 'hydra', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stderr.strip() == "set()"
