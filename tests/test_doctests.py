"""The examples in the docstrings of all that the library's packages export, run as their reader would."""

import doctest
import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import capsexp
from capsexp import master_coefficients

PACKAGES = [importlib.import_module(f"capsexp.{name}") for name in capsexp.PACKAGES]


def exported() -> Iterator[tuple[str, dict[str, Any]]]:
    """The classes and functions that have examples, each with the names that these may use: what is exported."""
    for package in PACKAGES:
        names = {name: getattr(package, name) for name in package.__all__}
        yield from ((f"{package.__name__}.{name}", names) for name, value in names.items() if callable(value))
    yield "capsexp.accumulate", {"accumulate": master_coefficients.accumulate}


EXPORTED = dict(exported())


@pytest.mark.parametrize("name", EXPORTED)
def test_the_example_of_an_exported_object_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"torch": torch, **EXPORTED[name]}
    value = names[name.rpartition(".")[2]]
    document = inspect.getdoc(value) or ""
    test = doctest.DocTestParser().get_doctest(document, names, name, None, None)
    assert test.examples, "an exported object has an example"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test)
    assert failed == 0, capsys.readouterr().out


@pytest.mark.parametrize("package", PACKAGES, ids=lambda each: each.__name__)
def test_a_package_says_what_it_exports(package: Any) -> None:
    told = inspect.getdoc(package) or ""
    assert len(told.split()) > 20, "a paragraph says what is there"
    names = {name.rpartition(".")[2] for name in re.findall(r":(?:class|func|data):`~?([\w.]+)`", told)}
    assert names - {"accumulate", "ChannelNetwork"} <= set(package.__all__), "it names what is not exported"
