"""What this code plans, computes, reports and says is what the kept files say: see README.md."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.golden import cases, collect, differences, names

KEPT = Path(__file__).parent / "kept"
quick_sweeps = [name if name in cases.QUICK else pytest.param(name, marks=pytest.mark.slow) for name in cases.SWEEPS]


def kept(part: str) -> Any:
    return json.loads((KEPT / names.file_of(part)).read_text())


def plainly(value: Any) -> Any:
    """As it comes back from a file."""
    return json.loads(json.dumps(collect.text_of_numbers(value)))


def close(old: list[Any], new: list[Any], within: float = 1e-5) -> bool:
    return bool(np.allclose(np.array(old), np.array(new), rtol=0, atol=within))


def check(old: Any, new: Any, part: str, *, exact: bool) -> None:
    """Fail at any difference; on another kind of machine other numbers are told and allowed."""
    old, new = (differences.without_stage_digests(each) for each in (old, plainly(new)))
    found = list(differences.unlike(old, new, part))
    grave = found if exact else [each for each in found if differences.serious(each)]
    for each in found:
        print(each)  # noqa: T201 - the report of a test that passes elsewhere
    assert grave == [], f"{len(grave)} differences from what is kept, the first: {grave[0]}"


@pytest.fixture(scope="module")
def exact() -> bool:
    """Whether this is the kind of machine, and the versions, on which the files were made."""
    return bool(collect.machine() == json.loads((KEPT / "machine.json").read_text()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


def test_experiments_plan_the_same_cells(folder: Path) -> None:
    found = collect.plans(folder / "plans", cases.QUICK_PLANS)
    check({name: kept("plans")[name] for name in cases.QUICK_PLANS}, found, "plans", exact=True)


@pytest.mark.slow
def test_other_plans_have_the_same_cells(folder: Path) -> None:
    others = [name for name in cases.plans() if name not in cases.QUICK_PLANS]
    found = collect.plans(folder / "others", others)
    check({name: each for name, each in kept("plans").items() if name in others}, found, "plans", exact=True)


@pytest.mark.slow
def test_every_option_of_every_group_has_the_same_ids(folder: Path) -> None:
    check(kept("ids"), collect.singles(folder / "ids"), "ids", exact=True)


def test_commands_say_the_same(folder: Path) -> None:
    check(kept("said"), collect.said(folder / "said"), "said", exact=True)


@pytest.mark.parametrize("name", quick_sweeps)
def test_sweeps_and_reports_are_the_same(name: str, folder: Path, exact: bool) -> None:
    old, new = kept(f"sweeps:{name}"), collect.swept(name, folder / name)
    assert differences.unlike_losses(old, plainly(new)) == [], "first training losses"
    check(old, new, f"sweeps:{name}", exact=exact)
    old, new = kept(f"reports:{name}"), collect.reported(name, folder / name)
    lost = differences.lost_from_the_page(old, new)
    assert not (exact and lost), f"numbers that the page had: {lost}"
    check(old, new, f"reports:{name}", exact=exact)


def test_directories_that_older_code_wrote_are_read(folder: Path) -> None:
    old, new = kept("older"), collect.older(folder / "older")
    before, after = old.pop("scores"), new.pop("scores")
    assert before.keys() == after.keys()
    assert all(close(before[name], after[name]) for name in before), "scores of loaded networks"
    for name, each in old.items():
        assert differences.lost_from_the_page(each["report"], new[name]["report"]) == [], f"numbers of {name}'s page"
    check(old, new, "older", exact=True)


@pytest.mark.slow
def test_a_stack_computes_the_same(folder: Path, exact: bool) -> None:
    old, new = kept("stacked"), collect.stacked(folder / "stacked")
    assert differences.unlike_losses(old, plainly(new)) == [], "first training losses"
    check(old, new, "stacked", exact=exact)


@pytest.mark.slow
def test_interrupted_and_resumed_cells_are_the_same(folder: Path, exact: bool) -> None:
    found = collect.interrupted(folder / "interrupted")
    assert [each["differences"] for each in found.values()] == [[]] * len(found), "resumed and uninterrupted"
    check(kept("interrupted"), found, "interrupted", exact=exact)


# -- the means themselves ----------------------------------------------------------------------------------------------


def test_differences_are_named() -> None:
    old = {"a": [1, {"b": 2.0}], "c": ["x", "y"], "d": {"sha": "0"}}
    new = {"a": [1, {"b": 2.5}], "c": ["x"], "d": {"sha": "1"}}
    found = list(differences.unlike(old, new))
    assert [each.where for each in found] == ["/a/1/b", "/c (2 entries, now 1)", "/d/sha"]
    assert [differences.serious(each) for each in found] == [False, True, False]
    assert list(differences.unlike(old, old)) == []


def test_an_order_and_a_missing_key_are_differences() -> None:
    assert [each.where for each in differences.unlike({"a": 1, "b": 2}, {"b": 2, "a": 1})] == [" (order)"]
    assert [each.where for each in differences.unlike({"a": 1}, {})] == ["/a"]


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("model.c2 must be >= 1, got 0", "model.c2 has to be >= 1, not 0", True),
        ("model.c2 must be >= 1, got 0", "model.c3 must be >= 1, got 0", False),
        ("model.c2 must be >= 1, got 0", "model.c2 must be >= 2, got 0", False),
        ("cell 3a28439c9d is done.", "the cell 3a28439c9d has ended.", True),
        ("cell 3a28439c9d is done.", "cell 3a28439c9e is done.", False),
        ("| 0.9570 | 1,200 |", "| 0.9570 | 1,201 |", False),
        ("see multirun/a/log.txt", "read multirun/a/log.txt", True),
        (["a", "b 1"], ["c 1"], True),
        ({"exit": 2}, {"exit": 1}, False),
    ],
)
def test_a_wording_is_told_from_a_fact(old: Any, new: Any, same: bool) -> None:
    assert differences.only_words(old, new) is same


def test_first_losses_are_compared_by_a_share() -> None:
    def part(loss: float) -> dict[str, Any]:
        return {"cells": {"a": {"metrics.csv": ["epoch,train/loss", f"1,{loss}", "2,9"]}}, "stages": {}}

    assert differences.unlike_losses(part(1.0), part(1.0 + 1e-7)) == []
    assert differences.unlike_losses(part(1.0), part(1.0 + 1e-5)) == ["cells/a/metrics.csv: 1.0 and 1.00001"]


def test_what_is_kept_is_small_and_names_no_machine() -> None:
    files = [path for path in Path(__file__).parent.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in files) < 3_000_000
    texts = [path.read_text() for path in files if path.suffix in (".json", ".yaml", ".csv")]
    assert [text for text in texts if "/home/" in text or "/root/" in text or "site-packages/" in text] == []
