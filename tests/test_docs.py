"""What README and the pages of the site tell people to do: every addition, every command and every block of code."""

import importlib
import json
import math
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

import capsexp
from capsexp import claims, cli, commands, plan
from tests.conftest import quick_words, results, write_tiny_npz

Run = Callable[..., int]

ROOT = Path(__file__).parents[1]
SITE = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "results" not in page.parts]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *SITE]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
EXTEND = "".join(text for name, text in TEXTS.items() if name.startswith("docs/extend/"))
FILE = re.compile(r"`([\w/]+\.(?:py|yaml))`:\n\n```\w+\n(.*?)^```$", re.DOTALL | re.MULTILINE)
ENTRY = re.compile(r"[Aa]n\s+entry in `(\w+)` of\s+`([\w/]+\.py)`,\s+`(\"[^`]*)`")
ADDED = dict(FILE.findall(EXTEND))
"""The files of "Extend", by their places in a folder of one's own, or in the project (``tests/references``)."""
MOVED = dict(re.findall(r"`(mykit/\w+\.py)` becomes\s+`(src/capsexp/[\w/]+\.py)`", EXTEND))
"""The places in the package that the pages name for modules of such a folder."""

PLAIN = ["trainer.max_epochs=1", "threads=1", "logger.wandb.mode=disabled", "callbacks.memory_check=null"]
CAPSULES = ["model=capsnet", "model.c1=8", "model.c2=16", "model.decoder=null"]


def test_every_file_of_the_recipes_is_found() -> None:
    assert {name.rpartition("/")[0] for name in ADDED} == {
        "mykit",
        *(
            f"conf/{group}"
            for group in ("claims", "data", "experiment", "filter", "model", "pruning", "recipe", "routing")
        ),
        *("tests/references", ""),
    }
    assert set(MOVED) == {name for name in ADDED if name.startswith("mykit/")}
    assert {place.removeprefix("src/capsexp/").rpartition("/")[0] for place in MOVED.values()} == {
        *("analysis/claims/rules", "analysis/figures", "data", "filters", "models", "pruning", "recipes", "routing"),
    }


# -- recipes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def added(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The files of the recipes in the folder of the command, as their reader has them."""
    for name, text in {**ADDED, "mykit/__init__.py": ""}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(in_tmp))
    yield
    modules = {name.removesuffix(".py").replace("/", ".") for name in ADDED}
    for module in ("mykit", *modules):
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
        (["model=strided"], "test/acc"),
        ([*CAPSULES, "recipe=accumulate", "filter=strong"], "fast/acc"),
        (["+callbacks.norm._target_=weight_norm.WeightNorm"], "test/acc"),
        (["+callbacks.lines._target_=json_lines.JsonLines", "+callbacks.lines.path=epochs.jsonl"], "test/acc"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
@pytest.mark.usefixtures("added")
def test_a_recipe_runs(run: Run, tiny_npz: Path, words: list[str], metric: str) -> None:
    data = (
        ["data.source.count=120"]
        if words == ["data=bars"]
        else ["data=dhcd", f"data.path={tiny_npz}", "data.batch_size=40"]
    )
    assert run("--config-dir", "conf", *words, *data, *PLAIN) == 0
    (body,) = results(Path("multirun")).values()
    assert 0 <= body["metrics"][metric] <= 1
    if "weight_norm" in words[0]:
        assert body["metrics"]["norm/weights"] > 0
    if "json_lines" in words[0]:
        assert [json.loads(line)["epoch"] for line in Path("epochs.jsonl").read_text().splitlines()] == [0]


@pytest.mark.usefixtures("added")
def test_the_claims_of_the_example_are_read() -> None:
    assert claims.main(["conf/claims/dropout.yaml", "--out", "page.md"]) == 0
    assert "best network reaches an accuracy of .97" in Path("page.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("added")
def test_the_rule_of_the_example_judges_if_it_is_trusted(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["cell,model.dropout,seed,data,select_on,state,test/acc"]
    lines += [f"c{n}-{n},{n // 2},{n % 2},digits,val,done,{acc}" for n, acc in enumerate((0.9, 0.91, 0.8, 0.83))]
    Path("table").mkdir()
    Path("table/cells.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command = ["conf/claims/steady.yaml", "dropout=table", "--out", "page.md"]
    assert claims.main(command) == 2
    assert "claims[0].kind must be one of flat, trend, " in capsys.readouterr().err
    assert "mykit.steady" not in sys.modules
    assert claims.main([*command, "--trust"]) == 0
    assert capsys.readouterr().out == "digits: 0 hold, 1 do not hold, 0 undecided\npage.md\n"
    assert "at model.dropout = 1 (`c2-2`, `c3-3`)" in Path("page.md").read_text(encoding="utf-8")
    Path("mykit/empty.py").write_text("")
    wrong = ADDED["conf/claims/steady.yaml"].replace("mykit.steady", "mykit.empty")
    Path("conf/claims/steady.yaml").write_text(wrong, encoding="utf-8")
    assert claims.main([*command, "--trust"]) == 2
    assert "kind must name a module with a subclass of Rule that has " in capsys.readouterr().err


@pytest.mark.slow
def test_the_recipes_pass_the_contracts(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "multirun", "docs", "__pycache__"))
    for name, text in ADDED.items():
        place = copy / MOVED.get(name, name)
        assert not place.exists(), "a recipe must not replace a file"
        if "/" in name:
            place.write_text(in_the_package(text), encoding="utf-8")
    for table, file, entry in ENTRY.findall(EXTEND):
        tests = (copy / file).read_text(encoding="utf-8")
        found = re.search(rf"^{table}: [^=]*=\s*(?:\w+\(\s*)?\{{\n", tests, re.MULTILINE)
        assert found is not None, table
        (copy / file).write_text(f"{tests[: found.end()]}    {entry},\n{tests[found.end() :]}", encoding="utf-8")
    for name in ("bars", "spread", "tempered", "train_and_shake", "scatter", "dropout", "strong", "strided"):
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


def in_the_package(text: str) -> str:
    """A file of a folder of one's own as the pages say that it stands in the package."""
    for kind in ("scatter", "steady"):
        text = text.replace(f"mykit.{kind}", kind)
    for name, place in MOVED.items():
        former, present = (path.removesuffix(".py").replace("/", ".") for path in (name, place.removeprefix("src/")))
        text = text.replace(former, present)
    return text


# -- commands ---------------------------------------------------------------------------------------------------------


def composed() -> Iterator[list[str]]:
    """The arguments of every ``python -m capsexp`` in a block or between backticks, but those that need an addition.

    Those in the text of notebooks too.
    """
    added = "|".join(sorted({Path(name).stem for name in ADDED} | {"mine", "NAME", "key"}))
    books = (path.read_text(encoding="utf-8") for path in sorted((ROOT / "examples" / "notebooks").glob("*.ipynb")))
    cells = (cell for book in books for cell in json.loads(book)["cells"] if cell["cell_type"] == "markdown")
    for text in [*TEXTS.values(), *("".join(cell["source"]) for cell in cells)]:
        for line in re.findall(r"python -m capsexp ([^`\n]*)", text.replace("\\\n", " ")):
            if re.search(rf"^--help|\b({added})\b|─", line):
                continue
            words = shlex.split(line.partition(" #")[0].partition("   (")[0].rstrip("&").partition(">")[0])
            yield [word for word in words if word not in ("--cfg", "job", "--resolve")]


def one_cell(words: Iterable[str]) -> Iterator[str]:
    """The overrides of a sweep's first cell."""
    for override in OverridesParser.create().parse_overrides([word for word in words if word != "-m"]):
        if not override.is_sweep_override():
            yield str(override.input_line)
        elif override.is_discrete_sweep():
            yield f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


@pytest.mark.parametrize("words", {tuple(words): None for words in composed()}, ids=" ".join)
def test_a_command_names_what_is_there(
    words: tuple[str, ...], in_tmp: Path, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [re.sub(r"(/my/)?\w+\.npz$", str(tiny_npz), word) for word in one_cell(words)]
    code = plan.main([*given, "--folder"])
    assert code == 0, capsys.readouterr().err


# -- blocks -----------------------------------------------------------------------------------------------------------

NOT_RUN = {
    "needs a finished sweep of the example experiment": 1,
    "installs packages": 8,
    "needs a cluster": 1,
    "needs a GPU": 1,
    "needs MNIST": 2,
    "needs files that are not public": 1,
    "publishes": 1,
}
"""The marks above blocks of code that no test runs, and how many of each there may be."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: its page.
        language: of the fence.
        text: inside.
        above: the last line above it that is not empty.
    """

    page: str
    language: str
    text: str
    above: str

    @property
    def mark(self) -> str:
        """The reason why it is not run, empty if there is none."""
        found = re.fullmatch(r"<!-- not run: (.+) -->", self.above)
        return found[1] if found else ""

    @property
    def is_file(self) -> bool:
        """True if the line above names it as a file."""
        return re.search(r"`[\w/]+\.(?:py|yaml)`:$", self.above) is not None


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page."""
    above, inside, language = "", None, ""
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        if line.startswith("```") and inside is None:
            inside, language = list[str](), line[3:]
        elif line == "```" and inside is not None:
            yield Block(page, language, "\n".join(inside) + "\n", above)
            inside = None
        elif inside is not None:
            inside.append(line)
        elif line.strip():
            above = line
    assert inside is None, f"{page}: a block has no end"


ALL = [*TEXTS, *(page.relative_to(ROOT).as_posix() for page in sorted((ROOT / "docs/results").rglob("*.md")))]
"""All pages, those of results too, whose commands made what is kept."""
BLOCKS = [block for page in ALL for block in blocks(page)]
RUN = [block for block in BLOCKS if block.language == "python" and not block.is_file and not block.mark]
"""The blocks of Python that are run, page by page."""


def test_every_block_is_run_or_says_why_not() -> None:
    assert Counter(block.mark for block in BLOCKS if block.mark) == NOT_RUN
    languages = {block.language for block in BLOCKS}
    assert languages == {"python", "sh", "text", "yaml"}
    for block in BLOCKS:
        if block.language == "yaml" and block.page != "docs/guides/gallery.md" and not block.mark:
            assert block.is_file or block.text.startswith("# yaml-language-server"), block


def lines(block: Block) -> Iterator[list[str]]:
    """The commands of a block, without variables before them and without what the shell does after them."""
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.partition(" #")[0].partition(">")[0].rstrip("& "))
        while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] in ("nohup", "srun")):
            words = words[1:]
        if words and not line.startswith("#"):
            yield words


@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if block.language == "sh"}))
def test_commands_in_a_block_are_there(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "run", lambda parser, work, words, **_: parser.parse_intermixed_args(words) and 0)
    for block in blocks(page):
        for words in lines(block) if block.language == "sh" else ():
            assert is_there(words) or block.mark, words


def is_there(words: list[str]) -> bool:
    """Whether a command is one of this project, and takes what it is given; ``python -m capsexp`` is tested above."""
    match words:
        case ["make", *more]:
            targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
            return all(word in targets or re.match(r"[A-Z]+=", word) for word in more)
        case [python, "-m", "capsexp", *_]:
            return python.endswith("python")
        case [_, "-m", module, *more] if module.startswith("capsexp."):
            package = module in ("capsexp.status", "capsexp.export")
            importlib.import_module(f"{module}.__main__" if package else module).main(more)
            return True
        case [_, "-m", "pytest", *more]:
            return all((ROOT / word).exists() for word in more if not word.startswith("-"))
        case [python, script, *_] if python.endswith("python"):
            return (ROOT / script).is_file()
        case [".venv/bin/pre-commit", "install"]:
            return True
    return False


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small sweeps of the names that the pages use, and two cells."""
    folder = tmp_path_factory.mktemp("workspace")
    small = [*quick_words(write_tiny_npz(folder)), "trainer.max_epochs=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            [*small, "sweep.name=widths", "model.c2=2,3", "seed=0,1", "-m"],
            [*small, "sweep.name=one", "seed=0,1", "-m"],
            [*small, "sweep.name=two", "model.dropout=0.5", "seed=0,1", "-m"],
            [*small, "sweep.name=cnn"],
            [*_without_model(small), "sweep.name=capsnet", *CAPSULES, "recipe=accumulate"],
        ):
            assert cli.main(words) == 0
    return folder


def _without_model(words: list[str]) -> list[str]:
    return [word for word in words if not word.startswith("model.")]


@pytest.mark.parametrize("page", sorted({block.page for block in RUN}))
def test_python_of_a_page_runs(page: str, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All its blocks one after the other, as in one notebook; sweeps are given small data."""
    small = [*quick_words(workspace / "tiny.npz"), "trainer.max_epochs=1"]
    run_sweep = capsexp.run_sweep
    monkeypatch.setattr(capsexp, "run_sweep", lambda words: run_sweep([*small, "sweep.name=mine", *words[:2]]))
    monkeypatch.chdir(workspace)
    with np.load("tiny.npz") as arrays:
        given: dict[str, Any] = {"__name__": "__main__", "capsexp": capsexp, **arrays}
    for block in RUN:
        if block.page == page:
            exec(compile(cells_named(block.text), page, "exec"), given)


def cells_named(text: str) -> str:
    """The text with the cells of the workspace in place of those that the pages name."""
    for name, sweep in {"c2-08_seed-01-1a2b3c4d5e": "cnn", "cell-1a2b3c4d5e": "capsnet"}.items():
        (cell,) = (Path("multirun") / sweep).iterdir()
        text = text.replace(f"multirun/adhoc/{name}", cell.as_posix())
    return text


# -- README -----------------------------------------------------------------------------------------------------------


def test_readme_is_short() -> None:
    assert len(TEXTS["README.md"].splitlines()) <= 200


def test_the_routing_of_readme_trains(run: Run, in_tmp: Path, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((name, text),) = FILE.findall(TEXTS["README.md"])
    Path(name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(in_tmp))
    (words,) = re.findall(r"^python -m capsexp (.*mine\.Tempered.*) -m$", TEXTS["README.md"], re.MULTILINE)
    data = ["data=dhcd", f"data.path={tiny_npz}", "data.batch_size=40"]
    assert run(*one_cell(shlex.split(words)), *data, *PLAIN, *CAPSULES[1:]) == 0


def test_readme_lists_every_experiment_with_its_cells() -> None:
    rows = dict(re.findall(r"^\|[^|]*\| `(\w+)` \| (\d+) \|", TEXTS["README.md"], re.MULTILINE))
    counted = {}
    for path in (ROOT / "conf" / "experiment").glob("*.yaml"):
        axes = (
            (yaml.safe_load(path.read_text(encoding="utf-8")).get("hydra") or {}).get("sweeper", {}).get("params", {})
        )
        parsed = OverridesParser.create().parse_overrides([f"{key}={values}" for key, values in axes.items()])
        sizes = [len(list(axis.sweep_string_iterator())) for axis in parsed if axis.is_sweep_override()]
        counted[path.stem] = str(math.prod(sizes))
    assert rows == counted


def test_the_page_of_results_says_of_every_experiment_whether_it_was_run() -> None:
    """A command of an experiment on a page of results, or a row among those that were not run, and never both."""
    finished = (ROOT / "docs" / "results").glob("[!.]*/README.md")  # not the archives of sweeps that are not complete
    texts = [path.read_text(encoding="utf-8") for path in finished]
    names = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    targets = {name for text in texts for name in re.findall(r"(?:\+experiment=|EXPERIMENT=)(\w+)", text)}
    run = names & (targets | {"cnn_prune"})  # `make sweep` alone is cnn_prune
    page = (ROOT / "docs" / "results" / "README.md").read_text(encoding="utf-8")
    _, _, rest = page.partition("## Defined, not yet run")
    waiting = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", rest, re.MULTILINE))
    cells = dict(re.findall(r"^\|[^|]*\| `(\w+)` \| (\d+) \|", TEXTS["README.md"], re.MULTILINE))
    assert set(waiting) == names - run
    assert all(cells[name] == count for name, count in waiting.items())
