"""What this code plans, computes, reports and says is what the kept files say: see README.md."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.golden import cases, collect, differences, names

KEPT = Path(__file__).parent / "kept"
quick_sweeps = [name if name in cases.QUICK else pytest.param(name, marks=pytest.mark.slow) for name in cases.SWEEPS]


def kept(part: str) -> Any:
    return json.loads((KEPT / names.file_of(part)).read_text())


def plainly(value: Any) -> Any:
    """As it comes back from a file."""
    return json.loads(json.dumps(collect.text_of_numbers(value)))


def check(old: Any, new: Any, part: str, *, exact: bool) -> None:
    """Fail at any difference; on another kind of machine other numbers are told and allowed."""
    found = list(differences.unlike(old, plainly(new), part))
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
    assert differences.unlike_losses(old, new) == [], "first training losses"
    check(old, new, f"sweeps:{name}", exact=exact)
    check(kept(f"reports:{name}"), collect.reported(name, folder / name), f"reports:{name}", exact=exact)
