"""What README and docs tell people to do: every recipe for an addition, and every command."""

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from capsexp import plan
from tests.conftest import results

Run = Callable[..., int]

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FILE = re.compile(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ENTRY = re.compile(r"[Aa]n\s+entry in `(\w+)` of\s+`([\w/]+\.py)`,\s+`(\"[^`]*)`")
ADDED = dict(FILE.findall(PAGES[0].read_text(encoding="utf-8").partition("\n## Adding to it\n")[2]))
"""The files of "Adding to it", by their places in the project."""

PLAIN = ["trainer.max_epochs=1", "threads=1", "logger.wandb.mode=disabled", "callbacks.memory_check=null"]
CAPSULES = ["model=capsnet", "model.c1=8", "model.c2=16", "model.decoder=null"]


def test_every_file_of_the_recipes_is_found() -> None:
    assert {name.rpartition("/")[0] for name in ADDED} == {
        *(f"src/capsexp/{room}" for room in ("analysis/figures", "data", "pruning", "recipes", "routing")),
        *(f"conf/{group}" for group in ("data", "experiment", "pruning", "recipe", "routing")),
        "tests/references",
    }


# -- recipes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def added(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of the recipes beside the project's own; importable, and found with ``--config-dir``."""
    folder = in_tmp.parent / "added"
    for name, text in ADDED.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    modules = [name[4:-3].replace("/", ".") for name in ADDED if name.startswith("src/")]
    for package in {module.rpartition(".")[0] for module in modules}:
        there = importlib.import_module(package)
        monkeypatch.setattr(there, "__path__", [*there.__path__, str(folder / "src" / package.replace(".", "/"))])
    yield folder
    for module in modules:
        sys.modules.pop(module, None)


@pytest.mark.parametrize(
    ("words", "metric"),
    [
        (["data=bars"], "test/acc"),
        (["pruning=spread"], "test/acc"),
        (["recipe=prune_and_retrain", "pruning=spread", "pruning.ratio=0.5"], "test/acc"),
        ([*CAPSULES, "routing=tempered"], "test/acc"),
        (["recipe=train_and_shake"], "shaken/acc"),
        (["+experiment=dropout", "model.dropout=0.1"], "test/acc"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_a_recipe_runs(run: Run, added: Path, tiny_npz: Path, words: list[str], metric: str) -> None:
    data = [] if words == ["data=bars"] else ["data=dhcd", f"data.path={tiny_npz}", "data.batch_size=40"]
    assert run("--config-dir", str(added / "conf"), *words, *data, *PLAIN) == 0
    (body,) = results(Path("multirun")).values()
    assert 0 <= body["metrics"][metric] <= 1


@pytest.mark.slow
def test_the_recipes_pass_the_contracts(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "multirun", "docs", "__pycache__"))
    for name, text in ADDED.items():
        assert not (copy / name).exists(), "a recipe must not replace a file"
        (copy / name).write_text(text, encoding="utf-8")
    for table, file, entry in ENTRY.findall(PAGES[0].read_text(encoding="utf-8")):
        tests = (copy / file).read_text(encoding="utf-8")
        found = re.search(rf"^{table}: [^=]*=\s*(?:\w+\(\s*)?\{{\n", tests, re.MULTILINE)
        assert found is not None, table
        (copy / file).write_text(f"{tests[: found.end()]}    {entry},\n{tests[found.end() :]}", encoding="utf-8")
    for name in ("bars", "spread", "tempered", "train_and_shake", "scatter", "dropout"):
        words = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", "-k", name, "-p", "no:cacheprovider"]
        where = {"PYTHONPATH": f"{copy / 'src'}:{copy}", "PATH": str(Path(sys.executable).parent)}
        ended = subprocess.run(
            [*words, "tests/contracts", "tests/data/test_data_contracts.py"],
            cwd=copy,
            env=where,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout[-3000:]
        assert " passed" in ended.stdout


# -- commands ---------------------------------------------------------------------------------------------------------


def commands() -> Iterator[list[str]]:
    """The arguments of every ``python -m capsexp`` in a block or between backticks, but those that need an addition."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"python -m capsexp ([^`\n]*)", text):
            words = shlex.split(line.partition(" #")[0].partition("   (")[0].rstrip("&").partition(">")[0])
            if words != ["--help"] and not any(Path(name).stem in line for name in ADDED):
                yield words


def one_cell(words: Iterable[str]) -> Iterator[str]:
    """The overrides of a sweep's first cell."""
    for override in OverridesParser.create().parse_overrides([word for word in words if word != "-m"]):
        if not override.is_sweep_override():
            yield str(override.input_line)
        elif override.is_discrete_sweep():
            yield f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


@pytest.mark.parametrize("words", {tuple(words): None for words in commands()}, ids=" ".join)
def test_a_command_names_what_is_there(
    words: tuple[str, ...], in_tmp: Path, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [re.sub(r"/my/\w+\.npz", str(tiny_npz), word) for word in one_cell(words)]
    code = plan.main([*given, "--folder"])
    assert code == 0, capsys.readouterr().err
