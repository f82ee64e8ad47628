"""The keys of a ``report:`` block in the gallery: a table from the schema in place of each ``<!-- keys: NAME -->``."""

import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

PAGE = "guides/gallery.md"
MARK = re.compile(r"^<!-- keys: (\w+) -->$", re.MULTILINE)
SHARED = ("name", "title", "where", "at", "paper", "note", "x_label", "y_label")
"""Keys of several kinds, which the page has in a table of their own."""
BLOCK = {"block": "Spec", "compare": "Comparison", "grids": "PaperTable", "label": "Label"}
"""The marks of the parts of the block that are no figure, and their names in the schema."""
WORDS = {
    "string": "text",
    "number": "number",
    "integer": "whole number",
    "boolean": "true or false",
    "array": "list",
    "object": "mapping",
    "null": "null",
}


@cache
def schema() -> dict[str, Any]:
    """The JSON schema that ``python -m capsexp.report --schema`` writes."""
    from capsexp.analysis.spec import Spec

    return Spec.model_json_schema()


def kinds() -> dict[str, dict[str, Any]]:
    """The schema of each kind of figure."""
    figures = schema()["properties"]["figures"]["anyOf"][0]["items"]["discriminator"]["mapping"]
    return {kind: schema()["$defs"][path.rpartition("/")[2]] for kind, path in figures.items()}


def table(mark: str) -> str:
    """The keys of a kind of figure, of ``shared`` ones, or of a part of the block.

    Raises:
        KeyError: if there is none of that name.
    """
    if mark == "shared":
        found = {key: body for kind in kinds().values() for key, body in kind["properties"].items() if key in SHARED}
        return _rows({key: found[key] for key in SHARED}, ())
    if mark in BLOCK:
        part = schema() if mark == "block" else schema()["$defs"][BLOCK[mark]]
        return _rows(part["properties"], part.get("required", ()))
    kind = kinds()[mark]
    own = {key: body for key, body in kind["properties"].items() if key not in (*SHARED, "kind")}
    return _rows(own, kind.get("required", ()))


def _rows(properties: dict[str, Any], required: Any) -> str:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, body in properties.items():
        default = "must be given" if key in required else _default(body.get("default"))
        lines.append(f"| `{key}` | {_value(body)} | {default} | {body.get('description', '')} |")
    return "\n".join(lines)


def _value(body: dict[str, Any]) -> str:
    if "enum" in body:
        return " or ".join(f"`{each}`" for each in body["enum"])
    if "$ref" in body:
        return "mapping"
    if "anyOf" in body:
        each = dict.fromkeys(_value(part) for part in body["anyOf"])
        return " or ".join(word for word in each if word != "null")
    return WORDS[body["type"]]


def _default(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def on_page_markdown(markdown: str, page: "Page", **_: object) -> str:
    """The gallery with its tables."""
    return MARK.sub(lambda found: table(found[1]), markdown) if page.file.src_uri == PAGE else markdown
