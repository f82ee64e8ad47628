"""Weights & Biases can be absent, unreachable or broken; the cell does not care."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb

from capsexp.tracking import guard, login
from tests.conftest import results

Run = Callable[..., int]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(guard.process, "most", "online")
    monkeypatch.setattr(guard.process, "warned", set())


@pytest.fixture
def online(quick: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    return [*quick[:-1], "logger.wandb.mode=online", "logger.wandb.timeout_s=20"]


def test_a_login_is_found_where_wandb_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = wandb.Settings().base_url.partition("://")[2].rstrip("/")
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    assert not login.has_login()
    netrc.write_text(f"machine {host}\n  login user\n  password {'a' * 40}\n")
    netrc.chmod(0o600)
    assert login.has_login()


@pytest.mark.parametrize("damage", ["folder", "words", "bytes"])
def test_a_strange_netrc_is_no_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    netrc = tmp_path / "netrc"
    if damage == "folder":
        netrc.mkdir()
    else:
        netrc.write_bytes(b"nonsense here" if damage == "words" else b"\xff\xfe\xff")
    monkeypatch.setenv("NETRC", str(netrc))
    assert not login.has_login()


def test_a_key_in_the_environment_is_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    assert login.has_login()


def test_auto_obeys_wandbs_own_switch(
    run: Run, quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert run(*quick[:-1], "logger.wandb.mode=auto") == 0
    assert not list(in_tmp.rglob("wandb"))


def test_an_unreachable_server_is_waited_for_once_and_costs_no_run(
    run: Run, online: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    init = guard._init

    def unreachable(about: Any, options: Any, mode: str, seconds: float) -> Any:
        asked.append(mode)
        if mode == "online":
            raise TimeoutError("no answer")
        return init(about, options, mode, seconds)

    monkeypatch.setattr(guard, "_init", unreachable)
    assert run(*online, "seed=0,1", "-m") == 0
    assert asked == ["online", "offline", "offline"]
    assert len(list(in_tmp.rglob("run-*.wandb"))) == 2
    assert capsys.readouterr().out.count("cannot be reached") == 1


def test_a_wandb_that_breaks_in_the_middle_costs_one_warning(
    run: Run, quick: list[str], in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("gone")

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger.log_metrics", broken)
    assert run(*quick[:-1], "logger.wandb.mode=offline", "seed=0,1", "-m") == 0
    assert len(results(in_tmp)) == 2
    assert capsys.readouterr().out.count("Weights & Biases") == 1
