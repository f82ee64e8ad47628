"""``--watch``, colours, and what else depends on the terminal."""

import re
import signal
import subprocess
import sys
import time

import pytest
from status_fakes import RUN, filled, finish, put

from capsexp.status import __main__ as command
from capsexp.status.__main__ import main

# -- colour -----------------------------------------------------------------------------------------------------------


def drawn_map(out):
    return out.partition("test accuracy")[2].partition("\n\n")[0]


def test_colour_only_in_a_terminal_that_wants_it(mixed, shown, monkeypatch):
    plain = shown(mixed[0])
    assert "\x1b" not in plain
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    coloured = shown(mixed[0])
    assert coloured.count("\x1b[48;5;") == 3
    assert re.sub(r"\x1b\[[\d;]*m", "", drawn_map(coloured)).split() == drawn_map(plain).split()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown(mixed[0])


# -- watching ---------------------------------------------------------------------------------------------------------


def test_watching_ends_when_nothing_is_left(mixed, shown, monkeypatch):
    root, cells = mixed
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        assert len(naps) < 3
        if len(naps) == 2:
            finish(root, cells[6])
        for cell in cells[9:]:
            put(root, cell, "failed" if cell is cells[9] else "done")

    monkeypatch.setattr(command.time, "sleep", sleep)
    out = shown(root, "--watch", "0.5")
    assert naps == [0.5, 0.5]
    blocks = re.findall(r"^\d+ done.*$", out, re.MULTILINE)
    assert blocks == [
        "6 done, 1 running, 2 failed, 3 pending; 1 orphaned directory",
        "8 done, 1 running, 3 failed; 1 orphaned directory",
        "9 done, 3 failed; 1 orphaned directory",
    ]
    assert "\x1b" not in out


@pytest.mark.parametrize("what", ["pending", "interrupted", "corrupt", "running"])
def test_watching_goes_on_while_a_cell_may_still_run(tmp_path, monkeypatch, what):
    filled(tmp_path, ["done", "failed", "stale", what])

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupt)
    assert main([str(tmp_path), "--watch"]) == 0


def test_watching_ends_at_once_when_all_is_settled(tmp_path, monkeypatch):
    filled(tmp_path, ["done", "failed", "stale"])
    monkeypatch.setattr(command.time, "sleep", lambda _: pytest.fail("it went on"))
    assert main(["--watch", str(tmp_path)]) == 0  # which is not taken for the number of seconds


def test_the_screen_is_drawn_anew_and_keeps_its_top(mixed, shown, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("LINES", "12")
    monkeypatch.setattr(command.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
    out = shown(mixed[0], "--watch")
    lines = out.splitlines()
    assert lines[0].startswith(f"{command.CLEAR}fake")
    assert lines[-1].endswith("more lines: make the window higher, or leave out --watch)")
    rows = sum(max(-(-len(line.removeprefix(command.CLEAR)) // 80), 1) for line in lines)
    assert rows <= 11


def test_ctrl_c_ends_it_without_a_word(tmp_path):
    filled(tmp_path, ["done", "missing"])
    with subprocess.Popen([*RUN, str(tmp_path), "--watch", "60"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as it:
        assert it.stdout
        assert it.stderr
        assert it.stdout.readline().startswith(b"fake")
        time.sleep(0.2)
        it.send_signal(signal.SIGINT)
        it.stdout.read()
        assert (it.stderr.read(), it.wait(timeout=120)) == (b"", 0)
