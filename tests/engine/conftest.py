"""Workers that start fast."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _workers_do_not_import_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spawned process imports its parent's main module first; here that would be pytest."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None, raising=False)
    monkeypatch.delattr(main, "__file__", raising=False)


@pytest.fixture(autouse=True)
def _threads_are_the_engines_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves alone what the user has set, and so what the tests have set for themselves."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
