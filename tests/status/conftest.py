"""What the tests of ``capsexp.status`` share."""

import os

import pytest
from status_fakes import fail, finish, start, sweep

from capsexp.status.__main__ import main

GRID = {"model.c2": [2, 4], "model.c3": [2, 4, 8], "seed": [0, 1]}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """Fake sweeps need not outlive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "50")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def mixed(tmp_path):
    """A sweep in the middle: 6 done, 1 running, 2 failed, 3 pending, and an orphan."""
    cells = sweep(tmp_path, GRID, age=200)
    for i, cell in enumerate(cells[:6]):
        finish(tmp_path, cell, 0.9 + i / 100, seconds=10.0 + i)
    start(tmp_path, cells[6], ago=3)
    fail(tmp_path, cells[7], "RuntimeError: bad \x1b[2J luck", tries=1)
    fail(tmp_path, cells[8], tries=3)
    (tmp_path / "c2-99-0123456789").mkdir()
    return tmp_path, cells


@pytest.fixture
def shown(capsys):
    """What the command prints, given some arguments that it ends well with."""

    def run(*arguments):
        assert main([str(each) for each in arguments]) == 0
        return capsys.readouterr().out

    return run
