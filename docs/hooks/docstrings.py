"""Docstrings as Markdown: what is written for Sphinx and for doctest, in the form that the site reads."""

import re
from collections.abc import Iterator
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|math):`[~.]?([^`]*)`")
FORMULA = re.compile(r"^( *)\.\. math::\s+(\S.*(?:\n\1 +\S.*)*)", re.MULTILINE)
PRODUCT = re.compile(r"(`+[^`]*`+|^ *(?:>>>|\.\.\.) [^\n]*$)|(?<=\w)\*(?=\w)", re.MULTILINE)
"""A star between two names, such as that of ``J*E``, outside code."""
SESSION = re.compile(r"^>>> .*$(?:\n(?!\s*$).*$)*", re.MULTILINE)

TABLE = re.compile(r"^( *)(=+(?: =+)+)\n(.*?)\n\1\2\n(.*?)\n\1\2 *$", re.MULTILINE | re.DOTALL)
"""A simple table of Sphinx: a head and rows between three rules of one or more stretches of ``=``."""


def as_markdown(text: str) -> str:
    """A docstring: tables, names without roles, formulas and examples as blocks, one colon before an indented block."""
    text = TABLE.sub(_table, text)
    text = PRODUCT.sub(lambda found: found[1] or r"\*", text)
    text = FORMULA.sub(lambda found: f"{found[1]}```text\n{found[1]}{found[2]}\n{found[1]}```", text)
    text = ROLE.sub(r"`\1`", text)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)  # the section that griffe knows
    return SESSION.sub(lambda found: f"```pycon\n{found[0]}\n```", text)


def _table(found: re.Match[str]) -> str:
    """The same table in Markdown, each row on one line."""
    indent, rule, head, body = found.groups()
    starts = [len(indent) + stretch.start() for stretch in re.finditer("=+", rule)]
    rows = [*_rows(head, starts), ["---"] * len(starts), *_rows(body, starts)]
    return "\n".join(f"{indent}| {' | '.join(row)} |" for row in rows)


def _rows(text: str, starts: list[int]) -> Iterator[list[str]]:
    """The cells of each row; a line that begins with an empty cell goes on with the row above it."""
    present: list[str] = []
    for line in text.splitlines():
        ends = [*starts[1:], None]
        cells = [line[start:end].strip().replace("|", "\\|") for start, end in zip(starts, ends, strict=True)]
        if cells[0] and present:
            yield present
            present = []
        present = [f"{above} {cell}".strip() for above, cell in zip(present or [""] * len(cells), cells, strict=True)]
    yield present


class Markdown(griffe.Extension):
    """Rewrites every docstring of a package once, when all of it is read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite the docstrings of a package and of all that it defines."""
        waiting: list[griffe.Object | griffe.Alias] = [pkg]
        while waiting:
            present = waiting.pop()
            if present.docstring:
                present.docstring.value = as_markdown(present.docstring.value)
            waiting += [each for each in present.members.values() if not each.is_alias]
