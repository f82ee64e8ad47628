"""The notebooks of ``examples/notebooks`` as pages: their text, their code, and the outputs that are stored in them.

Links in a notebook start from its folder, as the repository's host follows them; ``links.py`` adapts them.
"""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "examples" / "notebooks"
PLACE = "notebooks"
"""Folder of the pages in the site."""


@dataclass(frozen=True)
class NotebookPage:
    """A notebook as a page.

    Attributes:
        text: its Markdown.
        pictures: the bytes of its figures, by the names that the text uses.
    """

    text: str
    pictures: dict[str, bytes]


def page_of(path: Path) -> NotebookPage:
    """The page of a notebook."""
    pictures: dict[str, bytes] = {}
    blocks: list[str] = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
            continue
        blocks.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            blocks += _shown(output, cell["metadata"].get("alt", ""), path.stem, pictures)
    title, _, rest = "\n\n".join(blocks).partition("\n")
    download = f'This page is a notebook: <a href="{path.name}" download>{path.name}</a>.'
    return NotebookPage(f"{title}\n\n{download}\n{rest}\n", pictures)


def _shown(output: dict[str, Any], alt: str, stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """An output as Markdown; its picture is added to the others."""
    if output["output_type"] == "stream":
        yield _block("".join(output["text"]))
        return
    data = {kind: "".join(value) for kind, value in output["data"].items()}
    if "image/png" in data:
        name = f"{stem}_{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(data["image/png"])
        yield f"![{alt}]({name})"
    elif "text/html" in data:
        yield _table(data["text/html"])
    else:
        yield _block(data["text/plain"])


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def _table(html: str) -> str:
    """The table of a DataFrame without its own looks, so that it looks as the others do."""
    found = re.search(r"<table.*</table>", html, re.DOTALL)
    assert found is not None, "a DataFrame is a table"
    plain = re.sub(r"<(table|tr|th|td)\b[^>]*>", r"<\1>", found[0])
    return "\n".join(line.strip() for line in plain.splitlines() if line.strip())


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Add the pages, their pictures, and the notebooks themselves."""
    from mkdocs.structure.files import File

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        page = page_of(path)
        files.append(File.generated(config, f"{PLACE}/{path.stem}.md", content=page.text))
        files.append(File.generated(config, f"{PLACE}/{path.name}", abs_src_path=str(path)))
        for name, content in page.pictures.items():
            files.append(File.generated(config, f"{PLACE}/{name}", content=content))
    return files
