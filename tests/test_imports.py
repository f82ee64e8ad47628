"""Imports go one way, and heavy libraries are imported only where they are used."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "capsexp"

TRAINING_TOOLS = {"models", "losses", "metrics", "pruning", "filters", "routing", "nn", "types"}
BELOW_RECIPES = {"lightning_modules", "callbacks", "data"}

PLANNED_STACKS = {"stacking.grouping"}
"""What of stacks is known before one is trained."""

REPORTS = {"analysis", "analysis.spec"}
"""What reads results; the planner uses no more of it than the rules of the report's block."""

MAY_IMPORT: dict[str, set[str]] = {
    "__main__": {"cli"},
    "cli": {"hardware", "resolvers", "sweep"},
    "api": {"cli", "sweep"},
    "archive": {"commands"},
    "clean": {"commands"},
    "new": {"commands"},
    "plan": {"cli", "commands", "forecast", "resolvers", "sweep"},
    "forecast": {"build", "lightning_modules", "making", "recipes", "sweep"},
    "commands": set(),
    "resolvers": {"sweep"},
    "sweep": {"cell", "engine", "stop_request", "run_settings", "tracking", "analysis.spec", "stacking.grouping"},
    "engine": {"build", "cell", "fit_progress", "stop_request", "hardware", "stacking", *PLANNED_STACKS},
    "cell": {"build"},
    "status": {"commands", "fit_progress"} | REPORTS,
    "claims": {"commands"} | REPORTS,
    "report": {"commands"} | REPORTS,
    "sync": {"commands", "tracking"},
    "dashboard": {"commands", "tracking"} | REPORTS,
    "export": {"commands", "build", "recipes", "data", "routing", "nn", "types"},
    "analyse": {"commands", "build", "nn", "tracking"} | REPORTS,
    "hardware": set(),
    "fit_progress": set(),
    "run_settings": {"tracking"},
    "stop_request": set(),
    "build": {"hardware", "loading", "making", "rng", "run_settings", "recipes", "stacking", "tracking", "trainers"}
    | BELOW_RECIPES
    | TRAINING_TOOLS,
    "loading": {"recipes"} | BELOW_RECIPES | TRAINING_TOOLS,
    "making": {"recipes"},
    "trainers": {"callbacks", "run_settings", "making", "progress_bar", "recipes", "stacking"},
    "progress_bar": {"callbacks"},
    "stacking": {"stop_request", "rng", "stacking.grouping"} | BELOW_RECIPES | TRAINING_TOOLS,
    "stacking.grouping": set(),
    "analysis.spec": {"analysis"},
    "rng": set(),
    "tracking": set(),
    "analysis": {"analysis.spec"},
    "recipes": {"stop_request", "rng"} | BELOW_RECIPES | TRAINING_TOOLS,
    **{room: TRAINING_TOOLS for room in BELOW_RECIPES - {"callbacks"}},
    "callbacks": TRAINING_TOOLS
    | {"master_coefficients", "fit_progress", "memory_estimate", "stop_request", "hardware", "rng"},
    "memory_estimate": {"nn", "types"},
    "master_coefficients": {"filters", "metrics", "routing", "nn", "types"},
    **{room: {"routing", "nn", "types"} for room in ("models", "losses", "metrics")},
    "filters": {"metrics", "types"},  # filter and metric share what a correlation is
    "pruning": {"metrics", "routing", "nn", "types"},  # criterion and metric share one cosine similarity
    "routing": {"nn", "types"},
    "nn": {"types"},
    "types": set(),
    "records": set(),
    "errors": set(),
    "text": set(),
    "renamed": set(),
    "": {"renamed"},
}
"""Rooms, and which others each may import.  "" is the package itself (its version); everybody may import ``BOTTOM``."""

BOTTOM = {"", "records", "errors", "text"}

ONLY_IN: dict[str, set[str]] = {
    "hydra": {"api", "cli", "making", "plan", "sweep"},
    "omegaconf": {"api", "cli", "making", "plan", "resolvers", "sweep"},
    "pebble": {"engine"},
    "lightning": {"build", "forecast", "loading", "progress_bar", "recipes", "stacking", "tracking", "trainers"}
    | BELOW_RECIPES,
    "greenlet": {"stacking"},
    "torch": {"build", "export", "forecast", "loading", "memory_estimate", "rng", "recipes", "stacking", "trainers"}
    | {"master_coefficients"}
    | BELOW_RECIPES
    | TRAINING_TOOLS,
    "torchmetrics": {"metrics", "lightning_modules"},
    "wandb": {"tracking"},
    "matplotlib": {"analysis"},
    "pandas": {"analysis"},
    "pydantic": REPORTS,
    "jinja2": {"analysis"},
    "markupsafe": {"analysis"},
    "sklearn": {"data", "filters"},
    "onnx": {"export"},
    "onnxruntime": {"export"},
    "ray": {"engine"},
    "optuna": {"sweep"},
}
"""Libraries that belong into few rooms."""

STANDARD_LIBRARY_ALONE = BOTTOM | PLANNED_STACKS | {"__main__", "renamed", "stop_request", "hardware", "fit_progress"}


def room_of(module: str) -> str:
    """``capsexp.models.cnn`` is in the room ``models``; a package's command may be a room of its own."""
    room = module.partition(".")[2]
    return room if room in MAY_IMPORT else room.partition(".")[0]


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, also of those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            origin = ".".join([*base, node.module] if node.module else base)
            if origin == "capsexp":
                yield from ((node.lineno, f"capsexp.{alias.name}") for alias in node.names if "__" not in alias.name)
            else:
                yield node.lineno, origin


def fault(room: str, name: str) -> str | None:
    """Why a module in ``room`` must not import ``name``; None where it may."""
    top = name.split(".")[0]
    if top == "capsexp":
        target = room_of(name)
        if target not in MAY_IMPORT:
            return f"{target} has no place in MAY_IMPORT"
        allowed = {room} | (set() if room in BOTTOM else BOTTOM) | MAY_IMPORT[room]
        return None if target in allowed else f"{room} must not import {target}"
    if room not in ONLY_IN.get(top, {room}):
        return f"{top} does not belong into {room or 'the package itself'}"
    if room in STANDARD_LIBRARY_ALONE and top not in sys.stdlib_module_names:
        return f"{room} imports {top}, which is not in the standard library"
    return None


def faults(source: str, module: str, is_package: bool = False) -> list[str]:
    """Everything in a module's source that points the wrong way."""
    tree, room = ast.parse(source), room_of(module)
    if room not in MAY_IMPORT:
        return [f"{module}: {room} has no place in MAY_IMPORT"]
    found = [(line, fault(room, name)) for line, name in imported(tree, module, is_package)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            command = room == "cli" or module.endswith(".__main__")
            found.append((node.lineno, None if command else "only commands print"))
    return [f"{module}:{line}: {why}" for line, why in found if why]


FILES = {
    ".".join(["capsexp", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}


@pytest.mark.parametrize("module", FILES)
def test_every_import_points_the_right_way(module: str) -> None:
    path = FILES[module]
    assert faults(path.read_text(encoding="utf-8"), module, path.name == "__init__.py") == []


def test_all_modules_are_seen() -> None:
    assert {"capsexp", "capsexp.__main__", "capsexp.cli", "capsexp.models.cnn", "capsexp.analysis.page"} <= set(FILES)


WRONG = [
    ("capsexp.models.cnn", "from capsexp.recipes.train import Train", "models must not import recipes"),
    ("capsexp.models.cnn", "from capsexp import build", "models must not import build"),
    ("capsexp.models.cnn", "import capsexp.callbacks.peak", "models must not import callbacks"),
    ("capsexp.models.cnn", "from ..callbacks import peak", "models must not import callbacks"),
    ("capsexp.models.cnn", "from capsexp.metrics.running import RunningMean", "models must not import metrics"),
    ("capsexp.models.cnn", "def f():\n    from capsexp.data.base import X", "models must not import data"),
    ("capsexp.models.cnn", "if TYPE_CHECKING:\n    import capsexp.cell", "models must not import cell"),
    ("capsexp.models.cnn", "import lightning.pytorch as pl", "lightning does not belong into models"),
    ("capsexp.models.cnn", "from hydra.utils import instantiate", "hydra does not belong into models"),
    ("capsexp.models.cnn", "def f():\n    print(1)", "only commands print"),
    ("capsexp.callbacks.peak", "from capsexp.data.base import X", "callbacks must not import data"),
    ("capsexp.memory_estimate", "import lightning", "lightning does not belong into memory_estimate"),
    ("capsexp.data.base", "from capsexp.lightning_modules import base", "data must not import lightning_modules"),
    ("capsexp.recipes.train", "from capsexp import tracking", "recipes must not import tracking"),
    ("capsexp.recipes.train", "from omegaconf import OmegaConf", "omegaconf does not belong into recipes"),
    ("capsexp.routing.dynamic", "from capsexp.models import cnn", "routing must not import models"),
    ("capsexp.nn.votes", "from capsexp.routing import base", "nn must not import routing"),
    ("capsexp.types", "from capsexp.nn import votes", "types must not import nn"),
    ("capsexp.build", "from capsexp import cell", "build must not import cell"),
    ("capsexp.build", "import wandb", "wandb does not belong into build"),
    ("capsexp.cell", "import torch", "torch does not belong into cell"),
    ("capsexp.cell", "from capsexp.sweep import plan", "cell must not import sweep"),
    ("capsexp.cli", "def f():\n    import torch.nn", "torch does not belong into cli"),
    ("capsexp.cli", "from capsexp import analysis", "cli must not import analysis"),
    ("capsexp.sweep.plan", "from capsexp import build", "sweep must not import build"),
    ("capsexp.analysis.page", "from capsexp.cell import Cell", "analysis must not import cell"),
    ("capsexp.analysis.page", "import torch", "torch does not belong into analysis"),
    ("capsexp.analysis", "from ..build import run", "analysis must not import build"),
    ("capsexp.records", "from capsexp import errors", "records must not import errors"),
    ("capsexp.records", "import numpy", "records imports numpy, which is not in the standard library"),
    ("capsexp.errors", "import yaml", "errors imports yaml, which is not in the standard library"),
    ("capsexp.attic.old", "import os", "attic has no place in MAY_IMPORT"),
    ("capsexp.cell", "from capsexp import attic", "attic has no place in MAY_IMPORT"),
]


@pytest.mark.parametrize(("module", "source", "why"), WRONG)
def test_a_wrong_import_is_found(module: str, source: str, why: str) -> None:
    (found,) = faults(source, module, is_package=module == "capsexp.analysis")
    assert found.endswith(f": {why}")


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("capsexp.cli", "from capsexp import sweep, resolvers, records, __version__\nprint(1)"),
        ("capsexp.models.cnn", "from capsexp.errors import require\nfrom .base import X\nfrom capsexp.nn import votes"),
        ("capsexp.recipes.train", "from capsexp.models import base\nimport lightning, torch, numpy"),
        (
            "capsexp.analysis.page",
            "from capsexp.analysis import paper_tables, spec\nfrom capsexp import records\nimport matplotlib",
        ),
    ],
)
def test_right_imports_pass(module: str, source: str) -> None:
    assert faults(source, module) == []


# -- circles ----------------------------------------------------------------------------------------------------------


def modules_imported(source: str, module: str, is_package: bool, known: Mapping[str, object]) -> set[str]:
    """The modules of ``known`` that a source imports anywhere: in functions and under ``TYPE_CHECKING`` too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            dotted = [f"{origin}.{alias.name}" for alias in node.names]
            found |= {name if name in known else origin for name in dotted}
    return found & known.keys()


def circles(sources: Mapping[str, tuple[str, bool]]) -> list[set[str]]:
    """Strongly connected components of more than one module, and modules that import themselves.

    Args:
        sources: text of each module, and whether it is a package.
    """
    graph = {name: modules_imported(text, name, package, sources) for name, (text, package) in sources.items()}
    reached = {name: reachable(graph, name) for name in graph}
    components = [frozenset(other for other in reached[name] if name in reached[other]) for name in graph]
    return [set(component) for component in dict.fromkeys(components) if component]


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """All modules that a module imports, directly or through others; itself only if it lies on a circle."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph[name]
    return found


def sources_of_the_package() -> dict[str, tuple[str, bool]]:
    return {name: (path.read_text(encoding="utf-8"), path.name == "__init__.py") for name, path in FILES.items()}


def test_there_is_no_circle_of_imports() -> None:
    assert circles(sources_of_the_package()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "from capsexp.stacking.folding import fold",
        "from capsexp.stacking import folding",
        "from . import folding",
        "import capsexp.stacking.folding",
        "def f():\n    from capsexp.stacking.folding import fold",
        "if TYPE_CHECKING:\n    from capsexp.stacking.folding import fold",
        "from capsexp.stacking.signature import signature",
    ],
)
def test_a_planted_circle_is_found(planted: str) -> None:
    sources = {name: each for name, each in sources_of_the_package().items() if name.startswith("capsexp.stacking")}
    text, package = sources["capsexp.stacking.layers"]
    (found,) = circles({**sources, "capsexp.stacking.layers": (f"{text}\n{planted}\n", package)})
    assert {"capsexp.stacking.layers", "capsexp.stacking.folding"} <= found


def test_a_module_that_imports_itself_is_a_circle() -> None:
    sources = {"capsexp.a": ("import capsexp.a", False), "capsexp.b": ("import capsexp.a", False)}
    assert circles(sources) == [{"capsexp.a"}]


# -- what is loaded ---------------------------------------------------------------------------------------------------

HEAVY = ("torch", "lightning", "torchmetrics", "matplotlib", "pandas", "pydantic", "sklearn", "scipy", "wandb", "rich")


def loaded_by(code: str, *libraries: str) -> list[str]:
    """Which of the libraries a fresh interpreter has imported after ``code``."""
    script = f"{code}\nimport json, sys\nprint('\\n' + json.dumps([n for n in {libraries!r} if n in sys.modules]))"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import capsexp.cli",
        "import capsexp.cell",
        "from capsexp.cli import main\ntry: main(['--help'])\nexcept SystemExit as end: assert not end.code",
        "from capsexp.cli import main; assert main(['--version']) == 0",
        "from capsexp.cli import main; assert main(['model.c9=1']) == 2",
        "from capsexp.cli import main; assert main(['trainer.devices=2']) == 2",
        "from capsexp.cli import main; assert main(['+experiment=a,b', '-m']) == 2",
    ],
)
def test_help_and_errors_load_nothing_heavy(code: str, in_tmp: Path) -> None:
    assert loaded_by(code, *HEAVY) == []


@pytest.mark.parametrize(
    "command",
    ["status.__main__", "report", "claims", "dashboard", "analyse", "plan", "sync", "export.__main__", "new"],
)
def test_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    code = f"from capsexp.{command} import main\ntry: main(['--help'])\nexcept SystemExit as end: assert not end.code"
    assert loaded_by(code, *HEAVY, "pydantic", "jinja2") == []


def test_the_report_loads_no_training_code() -> None:
    modules = [name for name in FILES if room_of(name) == "analysis"]
    code = f"import importlib\nfor name in {modules!r}: importlib.import_module(name)"
    assert loaded_by(code, "torch", "lightning", "hydra", "omegaconf", "wandb", "sklearn") == []


def test_the_check_sees_what_is_loaded() -> None:
    assert loaded_by("import yaml", "yaml", "torch") == ["yaml"]
