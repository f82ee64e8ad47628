"""The package and its pages are in plain technical English.

No retired names or phrases, and no docstring that begins like a question.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src"

ROOMS = (
    *("callbacks", "data", "engine", "export", "filters", "lightning_modules", "losses", "metrics", "models", "nn"),
    *("pruning", "recipes", "records", "routing", "stacking", "status", "sweep", "tracking"),
    *("analyse.py", "build.py", "cell.py", "cli.py", "commands.py", "dashboard.py", "errors.py", "hardware.py"),
    *("making.py", "memory_estimate.py", "plan.py", "renamed.py", "resolvers.py", "rng.py", "stop_request.py"),
    *("fit_progress.py", "master_coefficients.py", "progress_bar.py", "run_settings.py"),
    *("sync.py", "text.py", "trainers.py", "types.py", "../hydra_plugins"),
    *("analysis", "claims.py", "report.py", "api.py", "archive.py", "clean.py"),
)
"""Rooms of ``src/capsexp`` that are checked; a room that is rewritten later is added here."""

PAGES = [
    *(SRC.parent / name for name in ("README.md", "CONTRIBUTING.md")),
    *(page for page in sorted((SRC.parent / "docs").rglob("*.md")) if "results" not in page.parts),
]
"""Pages for people; those of results are partly written by commands."""

NOT_YET: tuple[str, ...] = ()
"""Files of these rooms that are not checked yet."""

RETIRED_MODULES = {
    *("broken", "crew", "examine", "fates", "footprint", "hub", "interruption", "life", "lots", "machine"),
    *("randomness", "routed", "seat", "staff", "stillborn", "words"),
}
RETIRED_NAMES = {
    *("Drawn", "Found", "Host", "Hub", "Life", "Look", "Looks", "Lot", "Places", "PlanCallback", "PlanError"),
    *("Planned", "Routed", "Seat", "Staff", "Tally", "Timed", "Together", "Told", "Vanished", "Watcher"),
}
"""Former names of classes."""
RETIRED_WORDS = {
    *("crew", "fate", "fates", "heard", "heeded", "hire", "hired", "hub", "lot", "lots", "mend", "seat", "seats"),
    *("staff", "stillborn", "tally", "told", "vanished", "watcher"),
}
"""Words that are part of no identifier."""
RETIRED_PHRASES = (
    r"\bbehind (the|a|an|an? \w+|its|their|it|them)\b",
    r"\banew\b",
    r"\bno number any ?more\b",
    r"\bis no number\b",
    r"\bin turns\b",
    r"\bby lot\b",
    r"\bthe lot\b",
    r"\bthe crew\b",
    r"\bat home in\b",
    r"\bwho(ever)? is told\b",
    r"\bwhoever\b",
    r"\bhears\b",
    r"\bwithout a word\b",
    r"\bis looked at\b",
    r"\blets go of\b",
    r"\bthe user can mend\b",
    r"\bcome to (its|their|an) end\b",
    r"\b(what|it) is told\b",
    r"\bthe rooms:",
    r"\b(once|twice|one row|one run|a number|a factor|seconds|bytes|kb|mb|threads?) an? "
    r"(cell|epoch|layer|member|stream|stack|second|fit)\b",
)
QUESTION = re.compile(r"(What|Which|How|Who|Whose|Where|Whether|Why)\b")


def files() -> list[Path]:
    """All checked files."""
    package = SRC / "capsexp"
    found = [
        path
        for room in ROOMS
        for path in ([package / room] if room.endswith(".py") else (package / room).rglob("*.py"))
    ]
    return sorted(path.resolve() for path in found if str(path.relative_to(package)) not in NOT_YET)


def name(path: Path) -> str:
    package = SRC / "capsexp"
    return str(path.relative_to(package if path.is_relative_to(package) else SRC))


@cache
def parsed(text: str) -> ast.Module:
    return ast.parse(text)


# -- the checks -------------------------------------------------------------------------------------------------------


def retired_names(text: str) -> Iterator[str]:
    """The retired names and words among the identifiers of a file."""
    for identifier in sorted(identifiers(parsed(text))):
        parts = {part.lower() for part in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", identifier)}
        if identifier in RETIRED_NAMES or parts & RETIRED_WORDS:
            yield identifier


def identifiers(tree: ast.Module) -> set[str]:
    """The names of variables, attributes, arguments, functions, classes and imported modules."""
    values = (value for node in ast.walk(tree) if not isinstance(node, ast.Constant) for value in vars(node).values())
    return {part for value in values if isinstance(value, str) for part in value.split(".")}


def retired_phrases(text: str) -> Iterator[str]:
    """The retired phrases in a file, also those that a line break divides."""
    joined = " ".join(word for word in text.lower().split() if word != "#")
    for phrase in RETIRED_PHRASES:
        for found in re.finditer(phrase, joined):
            yield joined[max(0, found.start() - 30) : found.end() + 30]


def questions(text: str) -> Iterator[str]:
    """First lines of public docstrings, those of constants included, that begin like a question."""
    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            public = isinstance(node, ast.Module) or not node.name.startswith("_")
            docs = [ast.get_docstring(node) or ""] if public else []
            after = zip(node.body, node.body[1:], strict=False)
            docs += [_text(doc) for assigned, doc in after if isinstance(assigned, ast.Assign | ast.AnnAssign)]
            yield from (doc.splitlines()[0] for doc in docs if QUESTION.match(doc))


def _text(node: ast.stmt) -> str:
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    return node.value.value if is_text else ""


@pytest.mark.parametrize("path", files(), ids=name)
def test_a_file_is_in_plain_english(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not list(retired_names(text))
    assert not list(retired_phrases(text))
    assert not list(questions(text))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(SRC.parent).as_posix())
def test_a_page_is_in_plain_english(page: Path) -> None:
    """Outside its blocks: these repeat the words of files."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert not list(retired_phrases(text))


def test_no_module_has_a_retired_name() -> None:
    found = {stem for path in files() for stem in (path.stem, path.parent.name)}
    assert not found & RETIRED_MODULES


def test_the_lists_are_of_this_package() -> None:
    assert all((SRC / "capsexp" / each).is_file() for each in NOT_YET)


# -- the checks can fail ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["class Tally: pass", "hire_worker = 1", "def f(seat): pass", "import crew", "x.told"])
def test_a_retired_name_is_found(code: str) -> None:
    assert list(retired_names(code))


@pytest.mark.parametrize("code", ["allotment = slot = plot = 1", "class Rehired: pass", "x = 'crew'  # crew"])
def test_other_names_are_not(code: str) -> None:
    assert not list(retired_names(code))


@pytest.mark.parametrize(
    "code", ['"""Behind the epoch."""', "# begin\n# anew", '"149 kB a cell"', "'its loss is no number any more'"]
)
def test_a_retired_phrase_is_found(code: str) -> None:
    assert list(retired_phrases(code))


@pytest.mark.parametrize(
    "code",
    ['"""What it is."""', 'def f():\n    """Whether x."""', 'A = 1\n"""How much."""', 'class C:\n    """Who."""'],
)
def test_a_question_is_found(code: str) -> None:
    assert list(questions(code))


@pytest.mark.parametrize("code", ['def _f():\n    """What."""', '"""True if it is."""', '"""Whatever."""'])
def test_other_docstrings_are_not(code: str) -> None:
    assert not list(questions(code))
