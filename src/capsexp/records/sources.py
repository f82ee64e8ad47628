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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = ("capsexp", "hydra_plugins")
"""Packages whose numbers ``NUMERICS_VERSION`` stands for."""

INSTALLED = tuple(
    Path(path).resolve()
    for name, path in sysconfig.get_paths().items()
    if name in ("stdlib", "platstdlib", "purelib", "platlib")
)
FOLDERS_OF_PACKAGES = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class Source:
    """The content of a source file.

    Attributes:
        sha256: of its bytes, in hexadecimal.
        imports: the modules that it may import: each name, and each name in a package.
    """

    sha256: str
    imports: tuple[str, ...]


Read = Callable[[str, Path], Source]
"""Reads the source file of a module."""


def own_code(configs: Any) -> dict[str, str]:
    """The digest of the sources of each module of one's own that a config, or a list of them, names, by its name.

    The sources are the module's file, those of the packages around it, and those that they import from one's own code.
    A process that has imported a file goes on with what it has read, so each file is read once per process.
    """
    found = {name: _digest(name, _read_once) for name in _modules(configs)}
    return {name: digest for name, digest in found.items() if digest is not None}


def own_files(modules: Iterable[str]) -> list[Path]:
    """The source files of modules of one's own, and of what they import from one's own code, sorted."""
    return sorted({path for name in modules for path, _ in _files(name, _read).values()})


def changed_code(code: Mapping[str, str]) -> str | None:
    """The first module whose sources have another digest now; one that is not found is not judged."""
    for name, digest in sorted(code.items()):
        if _digest(name, _read) not in (None, digest):
            return name
    return None


def _digest(module: str, read: Read) -> str | None:
    """SHA-256 over the names and contents of a module's sources; None if it is not one's own."""
    files = _files(module, read)
    if not files:
        return None
    lines = [f"{name} {source.sha256}\n" for name, (_, source) in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


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


def _files(module: str, read: Read) -> dict[str, tuple[Path, Source]]:
    """The source files of a module and of what it imports from one's own code, by the modules' names."""
    found: dict[str, tuple[Path, Source]] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in found or name.partition(".")[0] in OURS else _file(name)
        if path is not None:
            found[name] = path, read(name, path)
            waiting += [*filter(None, [name.rpartition(".")[0]]), *found[name][1].imports]
    return found


# -- where a module lies ----------------------------------------------------------------------------------------------


def _file(module: str) -> Path | None:
    """The source file of a module of one's own; None for one that is installed, built in or not found.

    The packages around it are not imported, as they would be by ``importlib.util.find_spec``.
    """
    head, *rest = module.split(".")
    if head in sys.stdlib_module_names:
        return None
    try:
        spec = importlib.util.find_spec(head)
    except (ImportError, ValueError):  # ValueError: a module without a spec, such as __main__
        return None
    if spec is None:
        return None
    path = Path(spec.origin) if spec.origin and spec.has_location else None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    for name in rest:
        path, folders = _within(folders, name)
    if path is None or path.suffix != ".py" or not path.is_file():
        return None
    path = path.resolve()
    installed = any(path.is_relative_to(folder) for folder in INSTALLED)
    return None if installed or FOLDERS_OF_PACKAGES & set(path.parts) else path


def _within(folders: Iterable[Path], name: str) -> tuple[Path | None, list[Path]]:
    """The file of a module in a package with these folders, and its own folders if it is a package."""
    for folder in folders:
        if (folder / name / "__init__.py").is_file():
            return folder / name / "__init__.py", [folder / name]
        if (folder / f"{name}.py").is_file():
            return folder / f"{name}.py", []
    return None, [folder / name for folder in folders if (folder / name).is_dir()]


# -- what a file says -------------------------------------------------------------------------------------------------


@functools.cache
def _read_once(module: str, path: Path) -> Source:
    return _read(module, path)


def _read(module: str, path: Path) -> Source:
    stat = path.stat()
    return _read_version(module, path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=1024)
def _read_version(module: str, path: Path, _mtime_ns: int, _size: int) -> Source:
    content = path.read_bytes()
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):  # the import of the module reports it
        tree = ast.Module(body=[], type_ignores=[])
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return Source(hashlib.sha256(content).hexdigest(), tuple(dict.fromkeys(_imported(tree, package))))


def _imported(tree: ast.Module, package: str) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            around = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*around, *([node.module] if node.module else [])])
            yield from filter(None, [base, *(f"{base}.{alias.name}" for alias in node.names)])
