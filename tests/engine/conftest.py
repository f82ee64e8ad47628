"""Workers that start fast."""

import sys

import pytest


@pytest.fixture(autouse=True)
def _workers_do_not_import_pytest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A spawned process imports its parent's main module first; here that would be pytest."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None, raising=False)
    monkeypatch.delattr(main, "__file__", raising=False)
