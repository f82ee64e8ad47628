"""What the commands beside ``python -m capsexp`` share: help, errors in one line, and exit codes."""

import argparse
import importlib
import sys

import pytest

from capsexp import commands
from capsexp.errors import CommandError, ConfigError

COMMANDS = ("report", "claims", "archive", "clean", "plan", "status", "analyse", "export", "sync", "dashboard", "new")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_has_its_own_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"capsexp.{name}.__main__" if name in ("status", "export") else f"capsexp.{name}")
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m capsexp.{name} ")


class OwnError(CommandError):
    exit_code = 1


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("model.c2", "be odd", 4), 2, "capsexp.x: error: model.c2 must be odd, got 4"),
        (CommandError("two\n  lines\x1b"), 2, "capsexp.x: error: two lines?"),
        (OwnError("lost"), 1, "capsexp.x: error: lost"),
        (FileNotFoundError(2, "No such file", "there"), 2, "capsexp.x: error: [Errno 2] No such file: 'there'"),
        (KeyboardInterrupt(), 130, ""),
        (BrokenPipeError(), 0, ""),
    ],
)
def test_an_error_is_one_line(
    error: BaseException, code: int, line: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands.os, "dup2", lambda *_: None)
    assert commands.run(commands.parser("x", "Does x."), lambda _: _raise(error), []) == code
    assert capfd.readouterr().err.strip() == line


def test_what_the_work_returns_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = commands.parser("x", "Does x.")
    parser.add_argument("words", nargs="*")
    monkeypatch.setattr(sys, "argv", ["x", "a", "b"])

    def work(given: argparse.Namespace) -> int:
        return len(given.words)

    assert commands.run(parser, work) == 2
    assert commands.run(parser, lambda _: None) == 0


def test_other_errors_are_no_ones_mistake() -> None:
    with pytest.raises(ZeroDivisionError):
        commands.run(commands.parser("x", "Does x."), lambda _: 1 // 0, [])
