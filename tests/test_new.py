"""``python -m capsexp.new``: the project that it writes runs from any folder, and what it refuses."""

import errno
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from capsexp import new, records
from capsexp.new import main
from tests.conftest import results

Run = Callable[..., int]

NAME = "little_project"
SMALL = ["data.source.count=60", "model.c1=4", "model.c2=8", "trainer.max_epochs=1", "threads=1"]
QUIET = ["logger.wandb.mode=disabled", "callbacks.memory_check=null"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new project; its modules are forgotten at the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("new"))
        assert main([NAME]) == 0
        yield Path.cwd() / NAME
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        del sys.modules[name]


def test_its_experiment_runs_from_another_folder(
    project: Path, run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(project))
    assert run("--config-dir", str(project / "conf"), f"+experiment={NAME}", *SMALL, *QUIET) == 0, capsys.readouterr()
    (body,) = results(Path("multirun") / NAME).values()
    assert body["data"]["name"] == NAME
    assert list(body["code"]) == [f"{NAME}.data", f"{NAME}.routing"]
    assert 0 <= body["metrics"]["test/acc"] <= 1


def test_its_own_tests_pass(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pytest.main(["-q", "-p", "no:cacheprovider", "-c", str(project / "pyproject.toml"), str(project)]) == 0
    assert "4 passed" in capsys.readouterr().out
    assert not (project / "multirun").exists()


def test_every_file_has_the_name(project: Path) -> None:
    files = {path.relative_to(project).as_posix() for path in project.rglob("*") if "__pycache__" not in path.parts}
    assert {f"{NAME}/routing.py", f"conf/experiment/{NAME}.yaml", f"tests/test_{NAME}.py", ".gitignore"} <= files
    left = [path for path in project.rglob("*") if path.is_file() and b"@NAME@" in path.read_bytes()]
    assert left == []
    assert "pip install pytest" in (project / "README.md").read_text()
    assert not any("@" in name or name.endswith(".in") for name in files)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("there", "be a folder that does not exist"),
        ("my-project", "be a Python name"),
        ("a/b", "be a Python name"),
        ("", "be a Python name"),
        ("größe", "be a Python name"),
        ("a" * 61, "be a Python name of at most 60"),
        ("class", "be no keyword"),
        ("Null", "be no keyword"),
        ("json", "be the name of no module"),
        ("torch", "be the name of no module"),
        ("capsexp", "be the name of no hydra/help"),
        ("tests", "be no folder of the project itself"),
        ("multirun", "be no folder of the project itself"),
        ("max_min", "be the name of no routing of capsexp"),
        ("digits", "be the name of no data of capsexp"),
        ("cnn", "be the name of no model of capsexp (conf/model)"),
        ("auto", "be the name of no hydra/launcher of capsexp"),
        ("config", "be the name of no config of capsexp (conf)"),
        ("depth", "be the name of no experiment of capsexp"),
    ],
)
def test_a_name_is_refused_in_one_line(name: str, rule: str, in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (in_tmp / "there").mkdir()
    assert main([name]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"capsexp.new: error: NAME must {rule}")
    assert captured.err.endswith(f", got {name!r}\n")
    assert captured.err.count("\n") == 1
    assert [path.name for path in in_tmp.rglob("*")] == ["there"]


def test_all_is_written_or_nothing(
    in_tmp: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write, written = records.write_text, []

    def until_the_disk_is_full(path: Path, text: str) -> None:
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        write(path, text)

    monkeypatch.setattr(new.records, "write_text", until_the_disk_is_full)
    assert main(["half_project"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list(in_tmp.iterdir()) == []
