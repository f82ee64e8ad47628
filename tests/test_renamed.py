"""Former names of modules, and of what configs name on disk."""

import importlib
import sys
from typing import Any

import pytest
from omegaconf import OmegaConf

from capsexp import records, renamed

identity = importlib.import_module("capsexp.records.identity")  # the package has a function of this name


@pytest.mark.parametrize("former", renamed.MODULES)
def test_a_former_name_is_imported_with_a_warning(former: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, former, raising=False)
    with pytest.warns(DeprecationWarning, match=rf"{former} is now {renamed.MODULES[former]}"):
        module = importlib.import_module(former)
    present = importlib.import_module(renamed.MODULES[former])
    names = [name for name in vars(present) if not name.startswith("__")]
    renamed_here = {new: old.rpartition(".")[2] for old, new in renamed.NAMES.items() if old.startswith(former)}
    for name in names:
        assert getattr(module, renamed_here.get(name, name)) is getattr(present, name)
    monkeypatch.delitem(sys.modules, former, raising=False)


def test_what_was_never_there_is_not_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("capsexp.never")


def config(target: str, **more: Any) -> dict[str, Any]:
    return {"callbacks": {"broken": {"_target_": target, "last": 5}}, "data": {"path": None}, "more": more}


def test_a_renamed_target_keeps_the_id() -> None:
    for present, former in identity.FORMER_TARGETS.items():
        assert records.cell_id(config(present)) == records.cell_id(config(former)) != records.cell_id(config("x"))
        assert records.present_targets(config(former)) == config(present)


def test_every_present_target_exists() -> None:
    for present in identity.FORMER_TARGETS:
        module, _, name = present.rpartition(".")
        assert hasattr(importlib.import_module(module), name)


def test_a_key_that_came_later_counts_where_it_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    before = records.cell_id(config("x", old=1))
    monkeypatch.setattr(identity, "IMPLIED", {"more.new": False, "more.group": {"a": 1}})
    assert records.cell_id(config("x", old=1)) == before
    assert records.cell_id(config("x", old=1, new=False, group={"a": 1.0})) == before
    assert records.cell_id(config("x", old=1, new=True)) != before
    assert records.cell_id(config("x", old=1, new=0)) != before  # a number is no switch
    assert records.cell_id(config("x", old=1, group={"a": 2})) != before
    assert records.cell_id(config("x", old=1, new=None)) != before


@pytest.mark.parametrize("target", identity.IMPLIED_BY_TARGET)
def test_a_key_of_a_class_that_came_later_counts_where_it_differs(target: str) -> None:
    implied = identity.IMPLIED_BY_TARGET[target]

    def cell(target: str, keys: dict[str, Any]) -> str:
        part = OmegaConf.create({"_target_": target, "primary": {"types": 4}})
        for dotted, value in keys.items():
            OmegaConf.update(part, dotted, value)
        plain = OmegaConf.to_container(part)
        return records.cell_id({**config("x", routing=plain), "list": [plain]})

    assert cell(target, implied) == cell(target, {})
    for key in implied:
        assert cell(target, {**implied, key: "another"}) != cell(target, {})
        assert cell("of.Another", {key: implied[key]}) != cell("of.Another", {})


def test_what_scripts_took_from_plan_is_still_there() -> None:
    from capsexp import plan, resolvers
    from capsexp.sweep import cells

    with pytest.warns(DeprecationWarning, match=r"capsexp.plan.resolved is now capsexp.sweep.cells.resolved"):
        assert plan.resolved is cells.resolved
    with pytest.warns(DeprecationWarning, match=r"is now capsexp.resolvers.register"):
        assert plan.register_resolvers is resolvers.register
    with pytest.raises(AttributeError):
        plan.never  # noqa: B018
