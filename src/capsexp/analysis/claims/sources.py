"""Finds the file of a paper's claims, and the tables that its sources name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from capsexp import records
from capsexp.analysis.claims import schema, table
from capsexp.analysis.claims.schema import Claims, Source
from capsexp.analysis.claims.table import Table, TableError
from capsexp.errors import require, require_choice

MULTIRUN = Path("multirun")


def load(name: str, folder: Path | None = None) -> Claims:
    """The claims of a paper.

    Args:
        name: of the file, without its ending.
        folder: where the files are; None: ``conf/claims``.

    Raises:
        ConfigError: there is no such file, or it breaks a rule.
        TableError: it is no YAML.
    """
    files = {path.stem: path for path in sorted((folder or records.CONF / "claims").glob("*.yaml"))}
    path = files[require_choice("the paper's name", name, files)]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TableError(f"{path} is no YAML: {error}") from error
    return schema.parse(name, content)


def folders(claims: Claims, words: Sequence[str]) -> dict[str, list[Path]]:
    """The folders that ``source=FOLDER,FOLDER`` words give.

    Raises:
        ConfigError: a word is none of these, names an unknown source, or one twice.
    """
    given: dict[str, list[Path]] = {}
    for word in words:
        name, equals, text = word.partition("=")
        require(bool(equals and text), word, "be SOURCE=FOLDER", word)
        require_choice("source", name, claims.sources)
        require(name not in given, name, "be given once, with a comma between folders", word)
        given[name] = [Path(part) for part in text.split(",") if part]
    return given


def read(claims: Claims, given: Mapping[str, Sequence[Path]]) -> dict[str, list[Table]]:
    """The tables of each source: those of the folders given, else that of its sweep below ``multirun`` if it is there.

    Raises:
        TableError: a folder that was given has no table, or that of another one; a table is damaged, or another
            source's.
    """
    return {
        name: [_read(source, path) for path in _paths(claims, name, given.get(name))]
        for name, source in claims.sources.items()
    }


def _read(source: Source, path: Path) -> Table:
    """A table that has what the source's tables have."""
    found = table.read(path)
    for word, needed, there in (("axis", source.axes, found.axes), ("column", source.columns, found.metrics)):
        lacking = [name for name in needed if name not in there]
        if lacking:
            raise TableError(f"{source.name}: {path} has no {word} {lacking[0]}: it is no table of {source.folder}")
    return found


def _paths(claims: Claims, name: str, given: Sequence[Path] | None) -> list[Path]:
    if given is None:
        found = table.find(MULTIRUN / claims.sources[name].folder)
        return [found] if found else []
    paths = [table.find(folder) for folder in given]
    for folder, path in zip(given, paths, strict=True):
        if path is None:
            raise TableError(f"{name}: {folder} has no {table.NAME}; of a sweep, python -m capsexp.report writes it")
    there = [path for path in paths if path]
    for place, table_path in enumerate(there):
        if table_path.resolve() in [other.resolve() for other in there[:place]]:
            raise TableError(f"{name}: {table_path} was given twice; once is enough")
    return there


@dataclass(frozen=True)
class Request:
    """A command: which claims, from which tables, and its words as they were given."""

    claims: Claims
    tables: Mapping[str, Sequence[Table]]
    words: Sequence[str]
    page: Path
