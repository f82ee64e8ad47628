"""Links between the pages of the site, and to files that are no pages.

The pages in ``docs/`` are written to be read in the repository too.  Three kinds of their links have no counterpart in
a site: to a folder, to a file outside ``docs/``, and to a page outside it.  A folder gets a page that lists its files,
a file is copied as text, and two pages are taken in.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
TAKEN = {"CONTRIBUTING.md": "developers/contributing.md", "CHANGELOG.md": "developers/changelog.md"}
"""Pages outside ``docs/`` that the site has, and their places in it."""
NOTEBOOKS = "examples/notebooks"
"""Folder of the notebooks, each of which has a page in ``notebooks/`` (``notebooks.py``)."""
START = {"README.md": "index.md"}
"""Pages outside ``docs/`` in whose place the site has another."""

LINK = re.compile(r"(\]\()([^)\s]+)(\))")
PICTURE = re.compile(r"^!\[[^\]]*\]\(([^)\s]+)\)$", re.MULTILINE)
SPAN = re.compile(r"(`+)(?:.*?)\1", re.DOTALL)


# -- text -------------------------------------------------------------------------------------------------------------


def outside_fences(text: str, change: Callable[[str], str]) -> str:
    """The text with ``change`` applied to each stretch that is outside fenced blocks."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else change(part) for part in parts)


def links(text: str) -> Iterator[str]:
    """The targets of all relative links outside fenced blocks, without their anchors."""
    found: list[str] = []

    def collect(part: str) -> str:
        found.extend(target for _, target, _ in LINK.findall(SPAN.sub("", part)))
        return part

    outside_fences(text, collect)
    return (target.partition("#")[0] for target in found if _is_relative(target))


def rewritten(text: str, place: str, home: str = "docs") -> str:
    """A page's text with its links as the site needs them, nested lists with four spaces, and pictures that open.

    Args:
        text: of the page.
        place: of the page in the site, such as ``guides/sweeps.md``.
        home: folder of the project from which its links start; ``docs`` with the page's own folder, another, or the
            root.
    """
    base = posixpath.normpath(posixpath.join("docs", posixpath.dirname(place))) if home == "docs" else home

    def link(match: re.Match[str]) -> str:
        target, _, anchor = match[2].partition("#")
        if not _is_relative(match[2]) or not target:
            return match[0]
        goal = goal_of(posixpath.normpath(posixpath.join(base, target)))
        relative = posixpath.relpath(goal, posixpath.dirname(place) or ".")
        anchored = f"{relative}#{anchor}" if anchor and goal != "index.md" else relative
        return f"{match[1]}{anchored}{match[3]}"

    def change(part: str) -> str:
        indented = re.sub(r"^( +)(?=- )", lambda spaces: spaces[1] * 2, part, flags=re.MULTILINE)
        return PICTURE.sub(r"[\g<0>](\1)", LINK.sub(link, indented))

    return outside_fences(text, change)


def goal_of(path: str) -> str:
    """The place in the site of a path of the project, such as ``docs/data.md`` or ``conf/config.yaml``."""
    if path in TAKEN or path in START:
        return {**TAKEN, **START}[path]
    if posixpath.dirname(path) == NOTEBOOKS and path.endswith((".ipynb", ".png")):
        return f"notebooks/{posixpath.basename(path)}".replace(".ipynb", ".md")
    if not path.startswith("docs/"):
        return f"source/{path}" if path.endswith(".txt") else f"source/{path}.txt"
    inside = path.removeprefix("docs/")
    return f"{inside}/README.md" if (ROOT / path).is_dir() else inside


def folder_page(folder: Path) -> str:
    """A page that lists the files of a folder, with its pictures."""
    names = sorted(path.name for path in folder.iterdir())
    lines = [f"# {folder.name}", "", *(f"- [{name}]({name})" for name in names), ""]
    lines += [f"![{name}]({name})" for name in names if name.endswith(".png")]
    return "\n".join(lines) + "\n"


def _is_relative(target: str) -> bool:
    return re.match(r"[a-z]+:|/", target) is None


# -- hooks of mkdocs --------------------------------------------------------------------------------------------------


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages that are taken in, those of linked folders, and the linked files outside ``docs/``."""
    from mkdocs.structure.files import File

    for path, place in TAKEN.items():
        text = rewritten((ROOT / path).read_text(encoding="utf-8"), place, home="")
        files.append(File.generated(config, place, content=text))
    linked = {ROOT / path for path in _linked()}
    for source in sorted(linked):
        goal = goal_of(source.relative_to(ROOT).as_posix())
        if goal.startswith("source/") and source.is_file():
            files.append(File.generated(config, goal, abs_src_path=str(source)))
    for folder in sorted({each for source in linked if source.is_dir() for each in _without_page(source)}):
        goal = goal_of(folder.relative_to(ROOT).as_posix())
        files.append(File.generated(config, goal, content=folder_page(folder)))
    return files


def on_page_markdown(markdown: str, page: "Page", **_: object) -> str:
    """The links of a page of ``docs/`` or of a notebook; pages that are taken in have theirs already."""
    place = page.file.src_uri
    if place in TAKEN.values():
        return markdown
    return rewritten(markdown, place, NOTEBOOKS if place.startswith("notebooks/") else "docs")


def _without_page(folder: Path) -> Iterator[Path]:
    """The folder and those in it, down to those that have a page of their own."""
    if not (folder / "README.md").exists():
        yield folder
        for inside in folder.iterdir():
            if inside.is_dir():
                yield from _without_page(inside)


def _linked() -> Iterator[str]:
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / path for path in TAKEN)]
    for page in pages:
        base = page.parent.relative_to(ROOT).as_posix()
        for target in links(page.read_text(encoding="utf-8")):
            if target:
                yield posixpath.normpath(posixpath.join(base, target))
