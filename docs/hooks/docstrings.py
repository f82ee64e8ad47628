"""Docstrings as Markdown: what is written for Sphinx and for doctest, in the form that the site reads."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|math):`[~.]?([^`]*)`")
FORMULA = re.compile(r"^( *)\.\. math::\s+(\S.*(?:\n\1 +\S.*)*)", re.MULTILINE)
PRODUCT = re.compile(r"(`+[^`]*`+|^ *(?:>>>|\.\.\.) [^\n]*$)|(?<=\w)\*(?=\w)", re.MULTILINE)
"""A star between two names, such as that of ``J*E``, outside code."""
SESSION = re.compile(r"^>>> .*$(?:\n(?!\s*$).*$)*", re.MULTILINE)


def as_markdown(text: str) -> str:
    """A docstring: names without roles, formulas and examples as blocks, and one colon before an indented block."""
    text = PRODUCT.sub(lambda found: found[1] or r"\*", text)
    text = FORMULA.sub(lambda found: f"{found[1]}```text\n{found[1]}{found[2]}\n{found[1]}```", text)
    text = ROLE.sub(r"`\1`", text)
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    text = re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)  # the section that griffe knows
    return SESSION.sub(lambda found: f"```pycon\n{found[0]}\n```", text)


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
