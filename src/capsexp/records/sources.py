"""One's own code: the source files of the modules that a config names outside capsexp and outside installed packages.

Their digests are written into a result.  If the files have other contents later, the cell's numbers come from other
code than today's: it is stale.  Nothing is imported here, so a folder can be read without running anybody's code.
"""

import ast
import functools
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

OURS = ("capsexp", "hydra_plugins")
"""Packages whose numbers ``NUMERICS_VERSION`` stands for."""

INSTALLED = tuple(
    Path(path).resolve() for name, path in sysconfig.get_paths().items() if name in ("stdlib", "platstdlib", "purelib")
)


def own_code(configs: Any) -> dict[str, str]:
    """The digest of the sources of each module of one's own that a config, or a list of them, names, by its name.

    The sources are the module's file, those of the packages around it, and those that they import from one's own code.
    A process that has imported a module goes on with what it has read, so each digest is computed once per process.
    """
    found = {name: _digest_once(name) for name in _modules(configs)}
    return {name: digest for name, digest in found.items() if digest is not None}


def own_files(modules: Iterable[str]) -> list[Path]:
    """The source files of modules of one's own, and of what they import from one's own code, sorted."""
    return sorted({path for name in modules for path in _files(name).values()})


def changed_code(code: Mapping[str, str]) -> str | None:
    """The first module whose sources have another digest now; one that is not found is not judged."""
    for name, digest in sorted(code.items()):
        if digest_of(name) not in (None, digest):
            return name
    return None


def digest_of(module: str) -> str | None:
    """SHA-256 over the names and contents of a module's sources as they are now; None if it is not one's own."""
    files = _files(module)
    if not files:
        return None
    lines = [f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for name, path in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


_digest_once = functools.cache(digest_of)


def _modules(configs: Any) -> list[str]:
    """The modules of one's own that the targets in a tree name."""
    return sorted({name for target in set(_targets(configs)) for name in [_module_of(target)] if name is not None})


@functools.cache
def _module_of(target: str) -> str | None:
    """The module of one's own that a target names, which may be a method of a class; None if it is not one's own."""
    names = target.split(".")
    prefixes = (".".join(names[:end]) for end in range(len(names) - 1, 0, -1))
    return None if names[0] in OURS else next(filter(_file, prefixes), None)


def _targets(tree: Any) -> Iterator[str]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            target = node.get("_target_")
            if isinstance(target, str):
                yield target
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _files(module: str) -> dict[str, Path]:
    """The source files of a module and of what it imports from one's own code, by the modules' names."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in found or name.partition(".")[0] in OURS else _file(name)
        if path is not None:
            found[name] = path
            waiting += [*filter(None, [name.rpartition(".")[0]]), *_imported(name, path)]
    return found


def _file(module: str) -> Path | None:
    """The source file of a module of one's own; None for one that is installed, built in or not found."""
    if module.partition(".")[0] in sys.stdlib_module_names:
        return None
    spec = _spec(module)
    if spec is None or spec.origin is None or not spec.has_location:
        return None
    path = Path(spec.origin).resolve()
    installed = any(path.is_relative_to(folder) for folder in INSTALLED)
    return None if installed or path.suffix != ".py" or not path.is_file() else path


def _spec(module: str) -> ModuleSpec | None:
    """Where a module lies; the packages around it are not imported, as ``importlib.util.find_spec`` does."""
    head, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(head)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as __main__
        return None
    for end, _ in enumerate(rest, 2):
        folders = spec.submodule_search_locations if spec is not None else None
        spec = None if folders is None else PathFinder.find_spec(".".join(module.split(".")[:end]), list(folders))
    return spec


def _imported(module: str, path: Path) -> Iterator[str]:
    """The modules that a source file may import: each name, and each name in a package."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # the import of the module reports it
        return
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*around, *([node.module] if node.module else [])])
            yield from filter(None, [base, *(f"{base}.{alias.name}" for alias in node.names)])
