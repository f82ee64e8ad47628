"""What fake cells do on the nodes of a cluster: as elsewhere, and they leave word of the node."""

import os
from pathlib import Path
from typing import Any

import ray

from capsexp.cell import Cell, CellOutcome
from tests.engine import work

NODES = "nodes"


def run(cell: Cell) -> CellOutcome:
    """The fake cell, behind a line with this node's address and this process' settings."""
    folder = cell.directory.parent / NODES
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / cell.id).open("a") as stream:
        stream.write(f"{ray.util.get_node_ip_address()} {Path.cwd()} {cell.directory.is_absolute()}\n")
    return work.run(cell)


def words(folder: Path, identifier: str) -> list[tuple[str, ...]]:
    """What the executions of a cell have left: node, working folder, whether its own folder's path is absolute."""
    path = folder / NODES / identifier
    return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []


class NeverBegins:
    """A worker that dies at its start."""

    def __init__(self, *_: Any) -> None:
        os._exit(7)

    def ready(self) -> None:
        """Never."""

    def run(self, *_: Any) -> None:
        """Never."""


class Holder:
    """Somebody else's work."""

    def ready(self) -> None:
        """It has what it asked for."""
