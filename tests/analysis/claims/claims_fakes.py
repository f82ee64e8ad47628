"""Tables of cells as a report writes them, and the page that they give."""

import csv
import hashlib
import itertools
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from capsexp.analysis.cells import Protocol
from capsexp.analysis.claims import evidence
from capsexp.analysis.claims.evidence import Evidence
from capsexp.analysis.claims.paper import Paper
from capsexp.analysis.claims.rules import base
from capsexp.analysis.claims.rules.base import Labels, Verdict
from capsexp.analysis.conditions import axis_text
from capsexp.analysis.validation import validated
from capsexp.claims import main

LABELS = Labels({})
FACTS = {"data": "digits", "select_on": "val", "state": "done", "kind": "", "cause": "", "retried": ""}
NAMED = {"name": "n", "statement": "s", "paper": "p"}
Value = Callable[..., float | str]


def cells(axes: Mapping[str, Sequence[Any]], **metrics: Value | float) -> list[dict[str, Any]]:
    """A finished cell for every combination of the axes' values.

    A metric is a number, or a function of these values in order.  In its name ``__`` stands for ``/``, in an axis' name
    for a dot.
    """
    names = [axis.replace("__", ".") for axis in axes]
    return [row(dict(zip(names, values, strict=True)), values, metrics) for values in itertools.product(*axes.values())]


def row(axes: dict[str, Any], values: Sequence[Any], metrics: Mapping[str, Value | float]) -> dict[str, Any]:
    """One finished cell."""
    text = "_".join(f"{axis}-{value}" for axis, value in axes.items()) or "cell"
    identifier = hashlib.sha256(text.encode()).hexdigest()[:10]
    numbers = {key.replace("__", "/"): item(*values) if callable(item) else item for key, item in metrics.items()}
    return {"cell": f"{text}-{identifier}"} | {key: axis_text(v) for key, v in axes.items()} | FACTS | numbers


def changed(rows: Sequence[dict[str, Any]], **facts: str) -> list[dict[str, Any]]:
    """The rows with other facts or numbers, as other cells (unless nothing but their state changes)."""
    mark = "".join(facts.values()) if facts.keys() - {"state"} else ""
    facts = {key.replace("__", "/"): value for key, value in facts.items()}
    return [row | facts | {"cell": row["cell"] + mark} for row in rows]


def protocol(data: str, select_on: str = "val") -> Protocol:
    """The protocol that a table names."""
    return Protocol(data, select_on=select_on)


def write(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write the table into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / evidence.NAME).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def protocols(folder: Path, **sources: Sequence[Mapping[str, Any]]) -> dict[Protocol, Evidence]:
    """The evidence of one table a source; the paper's data are dhcd."""
    tables = {name: [evidence.read(write(folder / name, rows) / evidence.NAME)] for name, rows in sources.items()}
    return evidence.gather(tables, {}, "dhcd")


def judge(folder: Path, claim: Mapping[str, Any], data: str = "digits", **sources: Any) -> Verdict:
    """The verdict on a claim (kind and keys) by the evidence of one data set."""
    (rule,) = validated(Paper, "paper", paper_of(claim, *sources)).claims
    assert rule.describe(LABELS).endswith(".")
    return base.judge(rule, protocols(folder, **sources)[protocol(data)], LABELS)


def paper_of(claim: Mapping[str, Any], *sources: str, **keys: Any) -> dict[str, Any]:
    """The content of a file with one claim (kind and keys) about some sources."""
    source = {"folder": "f", "command": "c {data}", "what": "w"}
    head = {"title": "t", "source": "s", "paper_data": "dhcd", "tolerance": 0.02, **keys}
    return {**head, "sources": dict.fromkeys(sources, source), "claims": [{**NAMED, **claim}]}


def remade(page: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the command that stands on a page gives today; the page itself is left alone.

    Args:
        page: a page of claims.
        root: the folder in which its command was given.
        monkeypatch: to go there.
    """
    (command,) = re.findall(r"```sh\n(.*?)\n```", page.read_text(encoding="utf-8"), re.DOTALL)
    written: list[str] = []
    monkeypatch.chdir(root)
    monkeypatch.setattr("capsexp.records.write_text", lambda path, text: written.append(text))
    assert main(shlex.split(command)[3:]) == 0
    return written[0]
