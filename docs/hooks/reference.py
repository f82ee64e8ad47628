"""The generated part of the reference: every key of ``conf/`` with its default and comment, and the API's pages."""

import ast
import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PACKAGE = ROOT / "src" / "capsexp"
API = "reference/api"
KEYS = "reference/keys.md"

UNLISTED = {"claims", "experiment", "protocol", "help", "hydra_logging", "job_logging"}
"""Groups whose files are no defaults of keys, or of none to override: they set the keys of others, are read by another
command, or are texts of Hydra's."""


# -- keys of the configuration ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """A key of a YAML file.

    Attributes:
        name: dotted, as on the command line.
        default: the text of its value in the file.
        comment: what the file says of it, empty where nothing.
    """

    name: str
    default: str
    comment: str


def header(text: str) -> str:
    """The comment at the head of a YAML file, without the line that names its package."""
    lines: list[str] = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if "@package" not in line:
            lines.append(line.removeprefix("#").strip())
    return " ".join(line for line in lines if line)


def keys(text: str, prefix: str) -> list[Key]:
    """All keys of a YAML file whose values are no mappings, in its order; a class counts where the file comments on it.

    Args:
        text: of the file.
        prefix: of the names, such as ``model.``; empty for the root.
    """
    lines, found = text.splitlines(), []
    for name, key, value in _leaves(yaml.compose(text), ()):
        comment, default = _comment(lines, key, value), " ".join(text[_span(value)].split())
        if name[-1] == "_target_":
            name, default = name[:-1], default.rpartition(".")[2]
        if name and name[0] != "defaults" and not name[-1].startswith("_") and (key.value != "_target_" or comment):
            found.append(Key(prefix + ".".join(name), default, comment))
    return found


def classes(text: str) -> list[str]:
    """The classes of this package that a YAML file names."""
    return list(dict.fromkeys(re.findall(r"_target_: (capsexp\.[\w.]+)", text)))


def prefix_of(path: Path) -> str:
    """The dots and names before the keys of a file of ``conf/``: those of its group."""
    if "@package _global_" in path.read_text(encoding="utf-8"):
        return ""
    return "".join(f"{part}." for part in path.relative_to(CONF).parent.parts)


def keys_page() -> str:
    """The page of all keys: a section per group, a table per file.

    A key without a comment has that of its namesake in another file of the group.
    """
    body = ["# Keys", "", INTRODUCTION, ""]
    for group, paths in _groups():
        body += [f"## `{group}`" if group else "## The root", ""]
        listed = {path: keys(path.read_text(encoding="utf-8"), prefix_of(path)) for path in paths}
        said = {key.name: key.comment for each in reversed(listed.values()) for key in each if key.comment}
        for path, each in listed.items():
            body += _section(path, group, [replace(key, comment=key.comment or said.get(key.name, "")) for key in each])
    return "\n".join(body)


INTRODUCTION = """Every key that a command can override, with its default and the comment of its file in `conf/`. A file
of a group is chosen by name (`model=capsnet`), a key is set with its dots (`model.c1=64`), and a key that is not there
is added with a plus (`+pruning.merge=true`). `python -m capsexp --cfg job` prints the resolved keys of a cell. The
keys of a `report:` block stand in the [gallery](../guides/gallery.md#the-keys-of-a-report-block)."""


def _groups() -> Iterator[tuple[str, list[Path]]]:
    found: dict[str, list[Path]] = {"": [CONF / "config.yaml"]}
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.relative_to(CONF).parent.as_posix()
        if path.parent.name not in UNLISTED and group != ".":
            found.setdefault(group, []).append(path)
    yield from found.items()


def _section(path: Path, group: str, listed: list[Key]) -> list[str]:
    text = path.read_text(encoding="utf-8")
    lines = [f"### `{group}={path.stem}`", ""] if group else []
    lines += [_escaped(header(text)), ""] if header(text) else []
    named = classes(text)
    lines += ["Classes: " + ", ".join(f"[`{name}`][{name}]" for name in named) + ".", ""] if named else []
    if listed:
        lines += ["| key | default | meaning |", "|---|---|---|"]
        lines += [f"| `{key.name}` | {_code(key.default)} | {_escaped(key.comment)} |" for key in listed]
        lines.append("")
    return lines


def _leaves(node: Any, name: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """The name, key and value of each entry whose value is no mapping over several lines."""
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(value, yaml.MappingNode) and not value.flow_style:
            yield from _leaves(value, (*name, key.value))
        else:
            yield (*name, key.value), key, value


def _span(node: Any) -> slice:
    return slice(node.start_mark.index, node.end_mark.index)


def _comment(lines: list[str], key: Any, value: Any) -> str:
    """The comment at the end of an entry's last line, with the lines that go on with it, else that above the entry."""
    column = key.start_mark.column
    last = value.end_mark.line if value.end_mark.column else value.end_mark.line - 1
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", lambda quoted: "q" * len(quoted[0]), lines[last])
    if at_end := re.search(r"(?:^|\s)#\s?(.*)$", unquoted):
        said = [lines[last][at_end.start(1) :]]
        below = (re.match(rf"\s{{{column + 1},}}#\s*(.*)$", line) for line in lines[last + 1 :])
        said += [line[1] for line in itertools.takewhile(bool, below) if line]
    else:
        above = (re.match(rf"\s{{{column}}}#\s?(.*)$", line) for line in reversed(_body(lines)[: key.start_mark.line]))
        said = [line[1] for line in itertools.takewhile(bool, above) if line][::-1]
    return " ".join(" ".join(said).split())


def _body(lines: list[str]) -> list[str]:
    """The lines of a file, with those of its header empty."""
    start = next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return [""] * start + lines[start:]


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")


# -- the API ----------------------------------------------------------------------------------------------------------


def api_pages() -> dict[str, str]:
    """The place and text of each page of the API: one per package and per module of ``capsexp``, and a list of them."""
    pages: dict[str, str] = {}
    for path in sorted(PACKAGE.iterdir()):
        if path.suffix == ".py" and not path.stem.startswith("_"):
            pages[path.stem] = _api_page(path.stem, [f"capsexp.{path.stem}"])
        elif (path / "__init__.py").exists():
            pages[path.name] = _api_page(path.name, _modules(path))
    options = '    options:\n      filters: ["!^_", "!^[A-Z]+$"]\n'
    start = (
        f"# API\n\nWhat `import capsexp` gives, and every module.\n\n::: capsexp\n{options}\n{_module_list(pages)}\n"
    )
    return {f"{API}/index.md": start, **{f"{API}/{name}.md": text for name, text in pages.items()}}


def _module_list(names: Iterable[str]) -> str:
    """The modules of the library, those that are commands, and the others, each with a link."""
    (library,) = re.findall(
        r"^PACKAGES = \((.*)\)$", (PACKAGE / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    command = re.compile(r"^\| `python -m capsexp\.(\w+)`", re.MULTILINE)
    groups = {
        "The library, in plain PyTorch": set(re.findall(r"\w+", library)),
        "Commands": set(command.findall((ROOT / "docs/reference/commands.md").read_text(encoding="utf-8"))),
    }
    rest = set(names) - set().union(*groups.values())
    listed = (
        f"## {title}\n\n" + "\n".join(f"- [`capsexp.{name}`]({name}.md)" for name in sorted(group))
        for title, group in {**groups, "Inside": rest}.items()
    )
    return "\n\n".join(listed)


def _modules(folder: Path) -> list[str]:
    names = [
        path.relative_to(PACKAGE.parent).with_suffix("") for path in folder.rglob("*.py") if path.stem != "__main__"
    ]
    return sorted(".".join(part for part in name.parts if part != "__init__") for name in names)


def _api_page(name: str, modules: list[str]) -> str:
    """A page whose modules leave out what the package, the first of them, exports and has described."""
    first, *others = modules
    exported = "|".join(_exported(PACKAGE / name / "__init__.py"))
    options = f'    options:\n      filters: ["!^_", "!^({exported})$"]\n' if exported else ""
    return f"# capsexp.{name}\n\n::: {first}\n\n" + "\n".join(f"::: {module}\n{options}" for module in others)


def _exported(path: Path) -> list[str]:
    """The names in a file's ``__all__``, none where there is no such file."""
    tree = ast.parse(path.read_text(encoding="utf-8")) if path.exists() else ast.Module([], [])
    lists = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(goal, ast.Name) and goal.id == "__all__" for goal in node.targets)
    ]
    return [name for each in lists for name in ast.literal_eval(each)]


def broken_at_dots(html: str) -> str:
    """A page whose tables may break the names in their first columns after dots, by the style sheet nowhere else."""
    names = re.compile(r"(<tr>\s*<td[^>]*><code>)([^<]*)(</code>)")
    return names.sub(lambda found: f"{found[1]}{found[2].replace('.', '.<wbr>')}{found[3]}", html)


# -- hooks of mkdocs --------------------------------------------------------------------------------------------------


def on_config(config: "MkDocsConfig") -> "MkDocsConfig":
    """Put the API's pages in the navigation, where ``mkdocs.yml`` names their folder."""
    for section in config.nav or []:
        for pages in section.values():
            for entry in pages if isinstance(pages, list) else []:
                if isinstance(entry, dict) and API in entry.values():
                    (title,) = entry
                    entry[title] = sorted(api_pages(), key=lambda place: (not place.endswith("index.md"), place))
    return config


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the generated pages."""
    from mkdocs.structure.files import File

    for place, text in {KEYS: keys_page(), **api_pages()}.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_content(html: str, **_: object) -> str:
    """Names of keys in tables."""
    return broken_at_dots(html)
