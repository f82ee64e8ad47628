"""The whole report as one HTML page that needs no other file: style and figures are inside it."""

import base64
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from capsexp import records
from capsexp.analysis import warnings
from capsexp.analysis.beside_sweep import Beside
from capsexp.analysis.cells import STATES
from capsexp.analysis.compare import Compared
from capsexp.analysis.page_tables import grid, section, table
from capsexp.analysis.results import Results
from capsexp.analysis.spec import Spec
from capsexp.analysis.style import Drawn
from capsexp.analysis.tables import Table

DATA = {
    **{"name": "data set", "source": "source", "sha256": "sha256", "generated": "generated", "classes": "classes"},
    **{"image_shape": "image shape", "n_train": "training images", "n_val": "validation images"},
    **{"n_test": "test images", "test_split": "test split", "split_seed": "seed of the splits"},
}
"""What a result says of its data, in the order in which a reader asks."""
STYLE_SHEET = Path(__file__).with_name("page.css")


@dataclass(frozen=True)
class Content:
    """What the page shows.

    Attributes:
        spec: the checked block.
        results: the sweep.
        compared: rows of the comparison.
        tables: by name; ``timings`` is only linked to, since its bytes differ from run to run.
        grids: the paper's tables beside ours.
        figures: the pictures.
        problems: one line for each table or figure that could not be made.
        beside: the surfaces beside those of another sweep, where they were asked for.
    """

    spec: Spec
    results: Results
    compared: Sequence[Compared]
    tables: dict[str, Table]
    grids: Sequence[Table]
    figures: Sequence[Drawn]
    problems: Sequence[str]
    beside: Beside | None = None


REPORT = ["python", "-m", "capsexp.report"]


def render(content: Content) -> str:
    """The page's HTML."""
    title = content.spec.title or content.results.sweep.name
    sections = [
        _header(content, title),
        _data(content.results),
        _comparison(content),
        _grids(content),
        _figures(content),
        _beside(content.beside),
        table("Results", content.tables["results"], "scroll tall"),
        _holes(content.results),
        _reproduce(content),
        _environment(content.results),
    ]
    body = "\n".join(section for section in sections if section)
    style = STYLE_SHEET.read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


# -- the sections -----------------------------------------------------------------------------------------------------


def _header(content: Content, title: str) -> str:
    spec, results = content.spec, content.results
    lines = [f"<h1>{escape(title)}</h1>"]
    lines += [f'<p class="source">{escape(spec.source)}</p>'] if spec.source else []
    state = results.partial or f"Complete: {len(results.cells)} of {len(results.cells)} cells done"
    lines.append(f'<p class="state {"partial" if results.partial else "complete"}">{escape(state)}</p>')
    lines += [f'<p class="claim"><strong>Claim.</strong> {escape(spec.claim)}</p>'] if spec.claim else []
    listed = "".join(f"<li>{escape(text)}</li>" for text in [*warnings.warnings(spec, results), *content.problems])
    return "\n".join([*lines, f'<ul class="warnings">{listed}</ul>' if listed else ""])


def _data(results: Results) -> str:
    described = Counter(_described(cell.result or {}) for cell in results.cells if cell.done)
    if not described:
        return section("Data and protocol", "<p>No cell has finished yet.</p>")
    parts = []
    for text, count in sorted(described.items()):
        rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(value)}</td></tr>" for key, value in json.loads(text))
        parts.append(f'<p>{count} of {len(results.cells)} cells:</p>\n<table class="facts">{rows}</table>')
    return section("Data and protocol", "\n".join(parts))


def _described(body: dict[str, Any]) -> str:
    """A result's data and protocol as JSON pairs of texts, equal for equal ones."""
    data = body.get("data") or {}
    pairs = [(name, _plain(data[key])) for key, name in DATA.items() if data.get(key) is not None]
    pairs += [(key, _plain(data[key])) for key in sorted(data) if key not in (*DATA, "select_on")]
    chosen = (body.get("training") or {}).get("select_on", "unknown")
    return json.dumps([*pairs, ("model chosen on", str(chosen))])


def _plain(value: object) -> str:
    if isinstance(value, list):
        return " × ".join(map(str, value))  # noqa: RUF001
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _comparison(content: Content) -> str:
    return table("Beside the paper", content.tables["comparison"]) if content.compared else ""


def _grids(content: Content) -> str:
    return section("Tables beside the paper's", "\n".join(map(grid, content.grids))) if content.grids else ""


def _figures(content: Content) -> str:
    return section("Figures", "\n".join(map(_figure, content.figures))) if content.figures else ""


def _beside(beside: Beside | None) -> str:
    if beside is None:
        return ""
    partial = beside.other.partial
    lines = [f"<p>{escape(beside.title)}</p>"] if beside.title else []
    lines += [f'<p class="state partial">{escape(partial)}</p>'] if partial else []
    listed = "".join(f"<li>{escape(text)}</li>" for text in beside.flags)
    lines += [f'<ul class="warnings">{listed}</ul>'] if listed else []
    return section(f"Beside {beside.name}", "\n".join([*lines, *map(_figure, beside.pictures)]))


def _figure(drawn: Drawn) -> str:
    image = base64.b64encode(drawn.png).decode("ascii")
    note = f"{escape(drawn.note)} " if drawn.note else ""
    name = escape(drawn.name, quote=True)
    return (
        f'<figure id="{name}">\n<img alt="{escape(drawn.title, quote=True)}" src="data:image/png;base64,{image}">\n'
        f'<figcaption>{note}<a href="{name}.png">PNG</a> · <a href="{name}.pdf">PDF</a></figcaption>\n</figure>'
    )


def _holes(results: Results) -> str:
    # Failures first: many missing cells would bury them.
    holes = sorted((cell for cell in results.cells if not cell.done), key=lambda cell: STATES.index(cell.state))
    rows = "".join(
        f'<tr class="hole"><td>{escape(cell.name)}</td><td>{escape(cell.state)}</td><td>{escape(cell.kind or "")}</td>'
        f"<td>{escape(cell.cause or '')}</td><td>{_times(cell.retried)}</td>"
        f"<td>{f'<code>{escape(cell.directory.name)}/{records.LOG}</code>' if cell.directory else ''}</td></tr>"
        for cell in holes
    )
    heads = ("cell", "state", "kind", "cause", "retried", "log, in the folder of the sweep")
    head = f"<tr>{''.join(f'<th>{text}</th>' for text in heads)}</tr>"
    parts = [f'<div class="scroll"><table>{head}{rows}</table></div>'] if holes else []
    if any(cell.state == "stale" for cell in holes):
        parts.append(
            "<p>Stale cells were computed by code that has since changed its numbers; they are in no mean.</p>"
        )
    if results.orphans:
        names = "".join(f"<li><code>{escape(name)}</code></li>" for name in results.orphans)
        parts.append(f"<h3>Orphaned</h3><p>On disk but not in the plan; left alone, in no table:</p><ul>{names}</ul>")
    return section("Holes and leftovers", "\n".join(parts)) if parts else ""


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times" if count else ""


def _reproduce(content: Content) -> str:
    results, beside = content.results, content.beside
    report = [*REPORT, _folder(results), *(["--beside", _folder(beside.other)] if beside else [])]
    return section(
        "How to reproduce",
        f"<p>The same command again runs only the cells that are missing, and the second writes this page:</p>\n"
        f"<pre>{escape(command(results))}\n{escape(shlex.join(report))}</pre>\n"
        '<p>The values of every cell: <a href="cells.csv">cells.csv</a>. All that a clock measured stands apart: '
        '<a href="timings.md">timings.md</a>.</p>',
    )


def command(results: Results) -> str:
    """The command line of the sweep, as it was given."""
    return shlex.join(["python", "-m", "capsexp", *results.sweep.overrides, "-m"])


def _folder(results: Results) -> str:
    """The sweep's folder, seen from where the command was given."""
    given = [word.partition("=")[2] for word in results.sweep.overrides if word.startswith("paths.output=")]
    return f"{given[-1] if given else 'multirun'}/{results.sweep.name}"


def _environment(results: Results) -> str:
    """Each fact of the machines with the values it took; a clock, if one slipped in, stays out."""
    bodies = [(cell.result or {}).get("environment") or {} for cell in results.cells if cell.done]
    keys = sorted({key for body in bodies for key in body if not key.endswith("_s")})
    found = {key: warnings.described(warnings.seen(results, key)) for key in keys}
    rows = "".join(f"<tr><td>{escape(key)}</td><td>{escape(text)}</td></tr>" for key, text in found.items())
    return section("Environment", f'<table class="facts">{rows}</table>') if rows else ""
