"""The documentation site: its links, its generated pages, and what mkdocs says of it."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from capsexp import commands
from capsexp.analysis.page import SECTIONS
from capsexp.analysis.spec import Spec

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COMMANDS = ("plan", "status", "report", "analyse", "export", "claims", "archive", "clean", "sync", "dashboard")


def hook(name: str) -> ModuleType:
    """A module of ``docs/hooks``, which are no package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", DOCS / "hooks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


HOOKS = ("links", "reference", "docstrings", "report_keys", "notebooks")
LINKS, REFERENCE, DOCSTRINGS, REPORT_KEYS, NOTEBOOKS = map(hook, HOOKS)
BOOKS = sorted(NOTEBOOKS.NOTEBOOKS.glob("*.ipynb"))


# -- links ------------------------------------------------------------------------------------------------------------


def place(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as the repository's host and the site make them."""
    heads = re.findall(r"^#+ (.*)$", LINKS.outside_fences(text, str), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def text_of(page: Path) -> str:
    """The text of a page, or that of a notebook around its code."""
    text = page.read_text(encoding="utf-8")
    if page.suffix != ".ipynb":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")), *BOOKS]


@pytest.mark.parametrize("page", PAGES, ids=place)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    generated = {REFERENCE.KEYS, *REFERENCE.api_pages(), *LINKS.TAKEN.values()}
    for target in LINK_TARGET.findall(LINKS.SPAN.sub("", text_of(page))):
        path, _, anchor = target.partition("#")
        goal = (page.parent / path).resolve() if path else page
        if re.match(r"[a-z]+:", target) or (goal.is_relative_to(DOCS) and str(goal.relative_to(DOCS)) in generated):
            continue
        assert goal.exists(), target
        if anchor:
            assert anchor in anchors(goal.read_text(encoding="utf-8")), target


LINK_TARGET = re.compile(r"\]\(([^)\s]+)\)")


@pytest.mark.parametrize(
    ("place", "link", "goal"),
    [
        ("guides/own-images.md", "../data.md#own", "../data.md#own"),
        ("guides/claims.md", "../../conf/claims/wang.yaml", "../source/conf/claims/wang.yaml.txt"),
        ("throughput.md", "../README.md#on-slurm", "index.md"),
        ("throughput.md", "../CONTRIBUTING.md#tests", "developers/contributing.md#tests"),
        ("results/wang.md", "dhcd/merge_walk", "dhcd/merge_walk/README.md"),
        ("guides/slurm.md", "https://hydra.cc", "https://hydra.cc"),
        ("guides/notebooks.md", "../../examples/notebooks/own_routing.ipynb", "../notebooks/own_routing.md"),
        ("guides/notebooks.md", "../../examples/notebooks/execute.py", "../source/examples/notebooks/execute.py.txt"),
    ],
)
def test_a_link_is_adapted_to_the_site(place: str, link: str, goal: str) -> None:
    fence = f"```text\n[a]({link})\n```"
    assert LINKS.rewritten(f"[a]({link})\n\n{fence}\n", place) == f"[a]({goal})\n\n{fence}\n"


def test_a_picture_is_a_link_to_itself() -> None:
    said = "![a b](x/y.png)\n\nText with ![c](z.png) inside.\n"
    assert LINKS.rewritten(said, "index.md") == said.replace("![a b](x/y.png)", "[![a b](x/y.png)](x/y.png)")


@pytest.mark.parametrize(
    ("link", "goal"),
    [
        ("../../docs/guides/sweeps.md#grids", "../guides/sweeps.md#grids"),
        ("own_routing.ipynb", "own_routing.md"),
        ("own_routing_1.png", "own_routing_1.png"),
    ],
)
def test_a_link_of_a_notebook_is_adapted_to_the_site(link: str, goal: str) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="notebooks/prune_network.md"))
    assert LINKS.on_page_markdown(f"[a]({link})\n", page) == f"[a]({goal})\n"


# -- generated pages --------------------------------------------------------------------------------------------------


def leaves(node: Any, name: str) -> list[str]:
    """The dotted names of a file's keys that have no keys below them, without those that Hydra reads itself."""
    if not isinstance(node, dict) or not node:
        return [name]
    return [leaf for key, value in node.items() for leaf in leaves(value, f"{name}.{key}") if not key.startswith("_")]


def test_every_key_has_its_row() -> None:
    text = REFERENCE.keys_page()
    rows = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))
    paths = [path for path in (ROOT / "conf").rglob("*.yaml") if path.parent.name not in REFERENCE.UNLISTED]
    assert len(paths) > 40
    for path in paths:
        body = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        body.pop("defaults", None)
        for key, value in body.items():
            for leaf in leaves(value, REFERENCE.prefix_of(path) + key) if not key.startswith("_") else ():
                assert any(leaf == row or leaf.startswith(f"{row}.") for row in rows), (path, leaf)


def test_every_key_has_its_meaning() -> None:
    """But those of a part of a model, which its class describes."""
    silent = re.findall(r"^\| `([^`]+)` \| [^|]* \|  \|$", REFERENCE.keys_page(), re.MULTILINE)
    assert not [key for key in silent if not re.match(r"model\.\w+\.", key)]


def test_a_name_in_a_table_breaks_after_dots_alone() -> None:
    row = "<tr>\n<td><code>model.c1.x</code></td>\n<td><code>a.b</code></td>\n</tr>"
    assert REFERENCE.broken_at_dots(row) == row.replace("model.c1.x", "model.<wbr>c1.<wbr>x")


def test_a_key_has_the_comment_beside_it_or_above_it() -> None:
    text = "# The head.\na: 1\nb:\n  # above\n  c: 'x # y'\n  d: [1]   # beside,\n           # and more\ne: 2\n"
    found = [(key.name, key.default, key.comment) for key in REFERENCE.keys(text, "g.")]
    assert found == [
        ("g.a", "1", ""),
        ("g.b.c", "'x # y'", "above"),
        ("g.b.d", "[1]", "beside, and more"),
        ("g.e", "2", ""),
    ]


def test_every_module_of_the_package_is_in_the_api() -> None:
    named = set(re.findall(r"^::: (capsexp[\w.]*)$", "\n".join(REFERENCE.api_pages().values()), re.MULTILINE))
    package = ROOT / "src" / "capsexp"
    files = [path.relative_to(package.parent) for path in package.rglob("*.py") if path.stem != "__main__"]
    assert {".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files} == named


def test_a_module_leaves_out_what_its_package_exports() -> None:
    page = REFERENCE.api_pages()["reference/api/losses.md"]
    first, *others = re.findall(r"^::: (.*)\n((?: .*\n)*)", page, re.MULTILINE)
    assert first == ("capsexp.losses", "")
    assert all("|margin_loss|" in options.replace("(", "|").replace(")", "|") for _, options in others)


def test_a_table_of_a_docstring_is_a_table() -> None:
    rule = "  ====== ======="
    text = f"A::\n\n{rule}\n  key    what\n{rule}\n  ``a``  one of\n         ``x|y``\n  J*E    two\n{rule}\n\nEnd."
    rows = ["  | key | what |", "  | --- | --- |", "  | ``a`` | one of ``x\\|y`` |", "  | J\\*E | two |"]
    assert DOCSTRINGS.as_markdown(text) == "A:\n\n" + "\n".join(rows) + "\n\nEnd."


def test_no_docstring_has_a_rule_left() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        assert not re.search(r"=====", DOCSTRINGS.as_markdown(path.read_text(encoding="utf-8"))), path


@pytest.mark.parametrize("book", BOOKS, ids=place)
def test_a_notebooks_page_has_its_text_its_code_and_its_outputs(book: Path) -> None:
    page, cells = NOTEBOOKS.page_of(book), json.loads(book.read_text(encoding="utf-8"))["cells"]
    title = "".join(cells[0]["source"]).partition("\n")[0]
    assert page.text.startswith(f'{title}\n\nThis page is a notebook: <a href="{book.name}" download>')
    for cell in cells[1:]:
        assert "".join(cell["source"]) in page.text
    shown = [output for cell in cells for output in cell.get("outputs", ())]
    for output in shown:
        if output["output_type"] == "stream":
            assert "".join(output["text"]).strip() in page.text
        elif "text/html" in output["data"]:
            numbers = "".join(output["data"]["text/plain"]).replace("NaN", "").split()
            assert set(re.findall(r"[\d.]+", " ".join(numbers))) <= set(re.findall(r"[\d.]+", page.text))
    figures = re.findall(r"^!\[([^\]]{40,})\]\(([\w.]+)\)$", page.text, re.MULTILINE)
    assert [name for _, name in figures] == list(page.pictures)
    assert len(figures) == sum("image/png" in output.get("data", {}) for output in shown) > 1
    assert all(content.startswith(b"\x89PNG") for content in page.pictures.values())
    assert "style" not in "".join(re.findall(r"<t\w+[^>]*>", page.text)), "tables look as all others do"


# -- pages that repeat what code says ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_on_its_page(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsers: list[ArgumentParser] = []
    monkeypatch.setattr(commands, "run", lambda parser, *_, **__: parsers.append(parser) or 0)
    module = importlib.import_module(
        f"capsexp.{command}.__main__" if command in ("status", "export") else f"capsexp.{command}"
    )
    module.main([])
    page = (DOCS / "reference/commands.md").read_text(encoding="utf-8")
    section = " ".join(page.partition(f"## capsexp.{command}\n")[2].partition("\n## ")[0].split())
    (parser,) = parsers
    for action in parser._actions:
        assert all(name in section for name in action.option_strings)
        said = (action.help or "").replace("%(default)g", f"{action.default}".removesuffix(".0"))
        assert " ".join(said.split()) in section


def test_the_gallery_has_every_key_of_every_kind() -> None:
    for kind, schema in REPORT_KEYS.kinds().items():
        rows = re.findall(r"^\| `(\w+)` \|", f"{REPORT_KEYS.table(kind)}\n{REPORT_KEYS.table('shared')}", re.MULTILINE)
        assert {"kind", *rows} >= set(schema["properties"])
    assert "| `metric` | text | must be given | the metric that is shown |" in REPORT_KEYS.table("line")
    assert "| `sigma` | number | `0.5` |" in REPORT_KEYS.table("surface")


def test_the_gallery_has_every_kind_as_an_experiment_asks_for_it() -> None:
    page = (DOCS / "guides/gallery.md").read_text(encoding="utf-8")
    blocks = [entry for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) for entry in yaml.safe_load(block)]
    experiments = re.findall(r"^[^\n]*From \[`(\w+)`\]", page, re.MULTILINE)
    kinds = Spec.model_json_schema()["properties"]["figures"]["anyOf"][0]["items"]["discriminator"]["mapping"]
    assert sorted(block["kind"] for block in blocks) == sorted(kinds)
    marks = REPORT_KEYS.MARK.findall(page)
    assert marks == [*(block["kind"] for block in blocks), "shared", *REPORT_KEYS.BLOCK]
    for block, experiment in zip(blocks, experiments, strict=True):
        path = ROOT / "conf" / "experiment" / f"{experiment}.yaml"
        assert block in yaml.safe_load(path.read_text(encoding="utf-8"))["report"]["figures"]


ROWS = ("What", "Formula", "Source", "Keys", "Needs", "Silent", "Code", "Used in", "Master", "Cost")
"""The rows of a method's card; four of them where there is something to say."""


@pytest.mark.parametrize(
    ("page", "group"),
    [("routings", "routing"), ("criteria", "pruning"), ("filters", "filter"), ("recipes", "recipe")],
)
def test_every_method_has_its_card(page: str, group: str) -> None:
    text = (DOCS / "methods" / f"{page}.md").read_text(encoding="utf-8")
    cards = dict(re.findall(rf"^## `{group}=(\w+)`\n\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(cards) == {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}
    experiments = {path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml")}
    for card in cards.values():
        rows = dict(re.findall(r"^\| (\w[\w ]*) \| (.+) \|$", card, re.MULTILINE))
        assert [row for row in ROWS if row in rows] == list(rows)
        assert {"What", "Source", "Keys", "Code", "Used in", "Cost"} <= set(rows)
        named = re.findall(r"`(\w+)`", rows["Used in"])
        assert set(named) <= experiments
        (module,) = re.findall(r"`(capsexp\.[\w.]+)`", rows["Code"])
        assert importlib.util.find_spec(module)


def test_the_sections_of_a_report_are_those_of_its_page() -> None:
    text = (DOCS / "start/report.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([^|]+) \|", text, re.MULTILINE)
    assert rows[:2] == ["section", "the head"]
    assert rows[2:] == list(SECTIONS.values())


# -- style ------------------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
STYLED = """<link rel="stylesheet" href="THEME"><link rel="stylesheet" href="SITE"><body class="md-typeset">
<div class="language-python highlight" style="width: 700px"><pre><code><span>LINE</span></code></pre></div>
<div style="width: 360px"><table><tr><td><code>inverted_attention</code></td><td>softmax of dot products</td>
<td><code>iterations</code>, <code>gradient</code></td></tr></table></div>
<script>
const code = document.querySelector("pre > code");
const names = [...document.querySelectorAll("td code")].map(name => name.getClientRects().length);
document.title = `hidden ${Math.max(0, code.scrollWidth - code.clientWidth)} lines ${names}`;
</script></body>"""
"""A block of code with a long line, and a table in little room.

The title says how much of the line is hidden, and on how many lines each name in the table stands.
"""


@pytest.mark.skipif(BROWSER is None, reason="there is no browser")
def test_code_is_read_whole_and_no_name_in_a_table_breaks(tmp_path: Path) -> None:
    theme = Path(importlib.util.find_spec("material").submodule_search_locations[0])  # type: ignore[union-attr,index]
    (main,) = theme.glob("templates/assets/stylesheets/main.*.min.css")
    page = STYLED.replace("THEME", main.as_uri()).replace("SITE", (DOCS / "stylesheets/site.css").as_uri())
    (tmp_path / "page.html").write_text(page.replace("LINE", "total = " + " + ".join(["a_value"] * 30)))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--window-size=1400,900"]
    command = [str(BROWSER), *options, "--dump-dom", (tmp_path / "page.html").as_uri()]
    ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "<title>hidden 0 lines 1,1,1</title>" in ended.stdout, re.findall("<title>.*", ended.stdout)


# -- mkdocs -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert (tmp_path / "site/search/search_index.js").exists()  # for pages that are opened from the disk
    for page in (tmp_path / "site").rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe|link rel="stylesheet")[^>]*(?:src|href)="https?:', text), page
        assert "=====" not in text, page  # a table of a docstring
        assert 'class="mermaid"' not in text, page  # the theme would fetch a library for it
        assert not re.findall(r":(?:class|func|meth|math):|<blockquote>\s*<blockquote>|<em>E, D</em>", text), (
            page
        )  # of docstrings
