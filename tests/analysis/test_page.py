"""The page in the browser: contents, learning curves, a row for every cell; in Chromium where there is one."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from report_fakes import BLOCK, accuracy, finish, finished, report, sweep

from capsexp import records

GRID = {"model.c2": [2, 3], "seed": [0, 1]}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

HISTORY = "epoch,train/acc,val/acc,train/loss,val/loss\n1,0.2,0.3,1.5,1.25\n2,0.4,nan,1.0,0.75\n3,0.6,0.5,0.5,0.25\n"


def with_curves(root: Path, axes: dict[str, list[Any]] | None = None) -> str:
    for cell in sweep(root, axes or GRID, BLOCK):
        (finish(root, cell, accuracy(cell)) / records.METRICS).write_text(HISTORY)
    return (report(root) / "index.html").read_text()


def details(page: str) -> list[dict[str, Any]]:
    found = re.search(r'<script type="application/json" id="cell-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return list(json.loads(found[1]))


def test_the_contents_lead_to_every_section(tmp_path: Path) -> None:
    page = with_curves(tmp_path)
    links = re.findall(r'<li><a href="#(\w+)">', page)
    assert links == re.findall(r'<section id="(\w+)">', page)
    assert {"data", "comparison", "curves", "results", "cells", "reproduce", "environment"} <= set(links)


def test_every_cell_has_a_row_that_opens_its_own_curves_facts_and_files(tmp_path: Path) -> None:
    cells = sweep(tmp_path, GRID, BLOCK)
    for cell in cells[1:]:
        (finish(tmp_path, cell, accuracy(cell)) / records.METRICS).write_text(HISTORY)
    page = (report(tmp_path) / "index.html").read_text()
    found = details(page)
    rows = re.findall(r'<tr(?: class="missing")? data-cell="(\d+)"><td>([^<]*)</td>', page)
    assert [(int(place), name) for place, name in rows] == list(enumerate(cell.name for cell in cells))
    assert found[0]["curves"] == {}
    assert dict(found[0]["facts"]) == {"cell": cells[0].name, "state": "missing"}
    assert found[1]["curves"]["val/acc"] == [0.3, None, 0.5]
    assert dict(found[1]["facts"])["training.epochs"] == "20"
    assert not any("clocks" in key or "environment" in key for key, _ in found[1]["facts"]), "the same bytes every time"
    assert found[1]["linked"]
    assert (tmp_path / "report" / found[1]["files"][1]).is_file()


def test_few_cells_have_lines_and_many_have_bands(tmp_path: Path) -> None:
    few = with_curves(tmp_path / "few")
    assert few.count('<path class="cell"') == 4 * 4
    many = with_curves(tmp_path / "many", {"seed": list(range(41))})
    assert many.count('<path class="cell"') == 0
    assert (many.count('<path class="band"'), many.count('<path class="median"')) == (4 * 2, 4)
    line = re.search(r'<path class="cell" d="([^"]+)"><title>', few)
    assert line is not None
    assert all(46 <= float(x) <= 312 and 8 <= float(y) <= 156 for x, y in re.findall(r"([\d.]+) ([\d.]+)", line[1]))


def test_without_curves_there_is_no_such_section(tmp_path: Path) -> None:
    page = (report(finished(tmp_path, GRID)) / "index.html").read_text()
    assert 'id="curves"' not in page


SCRIPT = """
<script>
const rows = () => [...document.querySelectorAll("#cells tbody tr[data-cell]")];
const names = () => rows().filter((row) => !row.hidden).map((row) => row.dataset.cell);
const said = { before: names() };
const head = [...document.querySelectorAll("#cells th")].findIndex((each) => each.textContent.includes("accuracy"));
document.querySelectorAll("#cells th button")[head].click();
said.up = rows().map((row) => parseFloat(row.cells[head].textContent));
document.querySelectorAll("#cells th button")[head].click();
said.down = rows().map((row) => parseFloat(row.cells[head].textContent));
rows()[0].click();
said.open = document.querySelectorAll("#cells tr.detail svg").length;
said.facts = document.querySelector("#cells tr.detail .facts").textContent.includes("training.epochs");
const field = document.querySelector("#cells input");
field.value = "c2-03";
field.dispatchEvent(new Event("input"));
said.filtered = names().length;
said.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const image = document.querySelector("figure > img");
image.click();
said.zoomed = document.getElementById("zoom").open;
document.title = JSON.stringify(said);
</script>
</body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium in this machine")
@pytest.mark.parametrize("width", [1400, 500])
def test_in_a_browser_it_sorts_filters_opens_and_fits(tmp_path: Path, width: int) -> None:
    block = {**BLOCK, "figures": [{"kind": "line", "name": "fig", "x": "model.c2", "metric": "test/acc"}]}
    for cell in sweep(tmp_path, GRID, block):
        directory = finish(tmp_path, cell, accuracy(cell))
        (directory / records.METRICS).write_text(HISTORY)
    page = report(tmp_path) / "index.html"
    page.write_text(page.read_text().replace("</body>", SCRIPT))
    assert BROWSER is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--window-size={width},900"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    ended = subprocess.run(
        [BROWSER, *options, profile, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in ended.stderr, "an error or a warning in the console"
    title = re.search(r"<title>(.*?)</title>", ended.stdout)
    assert title is not None
    said = json.loads(html.unescape(title[1]))
    assert said["before"] == ["0", "1", "2", "3"]
    assert said["up"] == sorted(said["up"])
    assert said["down"] == said["up"][::-1]
    assert said["open"] == 4
    assert said["facts"]
    assert said["filtered"] == 2
    assert said["wide"] <= 0, "nothing is wider than the window"
    assert said["zoomed"]
