"""A table as text: CSV with every digit, Markdown for GitHub, and LaTeX with booktabs' rules."""

import csv
import io
import re
from collections.abc import Sequence

from capsexp.analysis.tables import Raw, Table

SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "\N{EN DASH}": "--",
    "\N{MINUS SIGN}": r"$-$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
}
ROWS_ON_A_PAGE = 40
"""A table with more rows becomes a longtable, which breaks over pages."""


def to_csv(table: Table) -> str:
    """RFC 4180 with bare newlines; floats with every digit, nothing where there is no value."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(table.raw_header)
    writer.writerows([[_harmless(value) for value in row] for row in table.raw_rows])
    return stream.getvalue()


def _harmless(value: Raw) -> Raw:
    """A value that a spreadsheet shows and does not compute: an apostrophe stands before a text like a formula."""
    if value is None:
        return ""
    formula = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") and not _is_number(value)
    return f"'{value}" if formula else value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def to_markdown(table: Table) -> str:
    """A GitHub table under its caption."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_markdown(cell) for cell in cells) + " |"

    lines = [_markdown(table.words), "", line(table.header), line(["---"] * len(table.header))]
    return "\n".join([*lines, *(line(row) for row in table.rows)]) + "\n"


def _markdown(text: str) -> str:
    """Text that GitHub shows as it is: no markup, no HTML, no second line."""
    return re.sub(r"([\\`*_{}\[\]<>|~])", r"\\\1", " ".join(text.split())) if text != "---" else text


def escape(text: str) -> str:
    """Text that LaTeX prints as it is; a minus before a number is a minus, not a hyphen."""
    escaped = "".join(SPECIAL.get(char, char) for char in " ".join(text.split()))
    return re.sub(r"(?<![\w-])-(?=\.?\d)", "$-$", escaped)


def to_latex(table: Table) -> str:
    """A ``table`` float, or a ``longtable`` where the rows do not fit on a page; needs the booktabs package."""
    long = len(table.rows) > ROWS_ON_A_PAGE
    head = _row(table.header)
    body = [line for place, row in enumerate(table.rows) for line in (*_apart(table, place), _row(row))]
    packages = "booktabs, longtable" if long else "booktabs"
    lines = [f"% needs \\usepackage{{{packages.replace(', ', ',')}}}", *(_long if long else _short)(table, head, body)]
    return "\n".join(lines) + "\n"


def _short(table: Table, head: str, body: list[str]) -> list[str]:
    return [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escape(table.words)}}}",
        rf"\label{{tab:{table.name}}}",
        rf"\begin{{tabular}}{{{_columns(table)}}}",
        *(r"\toprule", head, r"\midrule", *body, r"\bottomrule"),
        r"\end{tabular}",
        r"\end{table}",
    ]


def _long(table: Table, head: str, body: list[str]) -> list[str]:
    return [
        r"{\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\begin{{longtable}}{{{_columns(table)}}}",
        rf"\caption{{{escape(table.words)}}}\label{{tab:{table.name}}}\\",
        *(r"\toprule", head, r"\midrule", r"\endfirsthead"),
        *(r"\toprule", head, r"\midrule", r"\endhead"),
        *(r"\bottomrule", r"\endfoot", *body),
        r"\end{longtable}}",
    ]


def _apart(table: Table, place: int) -> list[str]:
    """Some room above a row of several lines."""
    return [r"\addlinespace"] if table.parts and place and table.rows[place][0] else []


def _row(cells: list[str]) -> str:
    line = " & ".join(escape(cell) for cell in cells) + r" \\"
    return f"{{}}{line}" if line[:1] in "[*" else line  # LaTeX would take these for an argument of the line above


def _columns(table: Table) -> str:
    """Numbers stand right, words left."""
    return "".join("r" if numeric else "l" for numeric in numeric_columns(table))


def numeric_columns(table: Table) -> list[bool]:
    """For each column whether most of its cells begin like a number; after the names of parts all do."""
    if table.parts:
        return [place > 1 for place in range(len(table.header))]
    counts = [sum(bool(re.match(r"[-+.\d]", row[i])) for row in table.rows) for i in range(len(table.header))]
    return [bool(table.rows) and count * 2 > len(table.rows) for count in counts]
