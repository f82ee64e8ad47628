"""The notebooks of examples/: what is stored is what they show, and they run from top to bottom."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import capsexp

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "notebooks"
NAMES = ("own_routing", "prune_network", "sweep_to_figure")
MACHINE = re.compile(r"/(home|root|tmp|work|var|opt|usr|mnt|Users|private)\b|site-packages|[A-Z]:\\|0x[0-9a-f]{8}")
CLOCK = re.compile(r"\d (m?s|min|h)$", re.MULTILINE)

each_notebook = pytest.mark.parametrize("name", NAMES)


def cells(path: Path) -> list[dict[str, Any]]:
    """The cells with code."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def kinds(cell: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What each output of a cell is: a stream with so many lines, or its forms."""
    return [
        ("stdout", "".join(output["text"]).count("\n"))
        if output["output_type"] == "stream" and output["name"] == "stdout"
        else (output["output_type"], *sorted(output.get("data", {})))
        for output in cell["outputs"]
    ]


def test_every_notebook_is_tested_listed_and_on_the_site() -> None:
    assert tuple(sorted(path.stem for path in FOLDER.glob("*.ipynb"))) == NAMES
    page = (ROOT / "docs/guides/notebooks.md").read_text(encoding="utf-8")
    assert tuple(sorted(re.findall(r"notebooks/(\w+)\.ipynb\)", page))) == NAMES
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert tuple(sorted(re.findall(r"^ +- .*: notebooks/(\w+)\.md$", site, re.MULTILINE))) == NAMES


@each_notebook
def test_outputs_are_those_of_one_run_and_name_no_machine(name: str) -> None:
    book, code = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")), cells(FOLDER / f"{name}.ipynb")
    assert (book["nbformat"], len({cell["id"] for cell in book["cells"]})) == (4, len(book["cells"]))
    assert book["metadata"].keys() == {"kernelspec", "language_info"}
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    forms = {kind for cell in code for kind in kinds(cell) if kind[0] != "stdout"}
    assert forms <= {("execute_result", "text/html", "text/plain"), ("display_data", "image/png")}, "nothing went wrong"
    assert ("display_data", "image/png") in forms
    for cell in book["cells"]:
        assert cell["metadata"].keys() <= {"alt"}
        for output in cell.get("outputs", ()):
            texts = [output.get("text", ""), *(text for kind, text in output.get("data", {}).items() if "text" in kind)]
            said = "\n".join("".join(text) for text in texts)
            assert not MACHINE.search(said)
            assert not CLOCK.search(said)
            assert "<style" not in said
    assert not MACHINE.search("".join(line for cell in book["cells"] for line in cell["source"]))


@each_notebook
def test_code_names_what_the_package_offers(name: str) -> None:
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells(FOLDER / f"{name}.ipynb")))
    found = list(named(tree))
    assert found
    for module, attribute in found:
        assert not any(part.startswith("_") for part in f"{module}.{attribute}".split("."))
        offered = importlib.import_module(module)
        assert attribute in getattr(offered, "__all__", vars(offered)), f"{module}.{attribute}"


def named(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The names of capsexp that code uses, each with its module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "capsexp":
            yield from ((node.module, each.name) for each in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "capsexp":
            yield capsexp.__name__, node.attr


@pytest.mark.slow
@each_notebook
def test_it_runs_from_top_to_bottom_and_shows_what_is_stored(name: str, tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "execute.py"), name, "--into", str(tmp_path / "run")]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    stored, now = cells(FOLDER / f"{name}.ipynb"), cells(tmp_path / "run" / f"{name}.ipynb")
    assert [cell["source"] for cell in now] == [cell["source"] for cell in stored]
    assert [kinds(cell) for cell in now] == [kinds(cell) for cell in stored]


@pytest.mark.slow
def test_a_cell_that_fails_ends_the_command_and_changes_no_file(tmp_path: Path) -> None:
    shutil.copy(FOLDER / "execute.py", tmp_path)
    cell = {"cell_type": "code", "execution_count": None, "id": "one", "metadata": {}, "outputs": [], "source": "1 / 0"}
    text = json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    (tmp_path / "bad.ipynb").write_text(text)
    ended = subprocess.run([sys.executable, str(tmp_path / "execute.py")], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "bad.ipynb" in ended.stderr
    assert "ZeroDivisionError" in ended.stderr
    assert (tmp_path / "bad.ipynb").read_text() == text
