"""Run the notebooks of this folder from top to bottom, and keep what they show.

From any folder::

    python examples/notebooks/execute.py                     # all, in place
    python examples/notebooks/execute.py own_routing         # one
    python examples/notebooks/execute.py --into DIR          # the executed copies go into another folder

Each notebook runs in a process and an empty folder of its own.  What changes from run to run or names this machine is
left out of what is kept: durations, versions, and the style sheets of tables.  A cell that fails ends the command with
its error, and the notebook stays as it was.  The extra ``notebooks`` has what this needs.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

HERE = Path(__file__).parent
TIME_LIMIT_S = 600
"""Longest time that a cell may take."""

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
DURATION = re.compile(r"(?<=  )(\d+ h )?(\d+ min )?\d+(\.\d+)? m?s$", re.MULTILINE)
STYLE_SHEET = re.compile(r"<style scoped>.*?</style>\n", re.DOTALL)


def execute(notebook: nbformat.NotebookNode) -> None:
    """Run a notebook in an empty folder, and replace its outputs by what is kept of the new ones."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"IPYTHONDIR": f"{folder}/.ipython", "JUPYTER_RUNTIME_DIR": folder}  # none of the user's settings
        options = {"timeout": TIME_LIMIT_S, "record_timing": False, "resources": {"metadata": {"path": folder}}}
        quiet = ["--log-level=ERROR"]  # no warning about the connection to the kernel, which stays on this machine
        NotebookClient(notebook, kernel_name="python3", extra_arguments=quiet, **options).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [kept(output) for output in joined(cell.outputs)]


def joined(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """The outputs with the lines of a stream in one, as they follow each other."""
    found: list[NotebookNode] = []
    for output in outputs:
        if found and output.output_type == "stream" and output.get("name") == found[-1].get("name"):
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def kept(output: NotebookNode) -> NotebookNode:
    """An output without what differs from run to run."""
    if output.output_type == "stream":
        output.text = "\n".join(line.rstrip() for line in DURATION.sub("", output.text).splitlines()) + "\n"
        return output
    output.metadata = nbformat.from_dict({})
    if "text/html" in output.data:
        output.data["text/html"] = STYLE_SHEET.sub("", output.data["text/html"])
    if "image/png" in output.data:
        output.data.pop("text/plain", None)
    return output


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the notebooks; returns the exit status, 1 if a cell of one fails."""
    parser = argparse.ArgumentParser(description="Run the notebooks from top to bottom, and keep what they show.")
    parser.add_argument("names", metavar="NAME", nargs="*", help="a notebook without its ending (default: all)")
    parser.add_argument("--into", metavar="DIR", type=Path, default=HERE, help="where to write (default: in place)")
    given = parser.parse_args(arguments)
    paths = [HERE / f"{name}.ipynb" for name in given.names] or sorted(HERE.glob("*.ipynb"))
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        try:
            execute(notebook)
        except CellExecutionError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            return 1
        given.into.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, given.into / path.name)
        print(given.into / path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
