"""The page in the browser: contents, learning curves, a row for every cell; in Chromium where there is one."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import Normalize
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
    assert [few.count(f'<path class="cell colour{place}"') for place in range(3)] == [2 * 4, 2 * 4, 0]
    key = '<p class="small keys">c2: <span class="colour0">2</span> <span class="colour1">3</span>'
    assert key in few
    many = with_curves(tmp_path / "many", {"seed": list(range(41))})
    assert many.count('<path class="cell"') == 0
    assert (many.count('<path class="band"'), many.count('<path class="median"')) == (4 * 2, 4)
    assert "small keys" not in many
    line = re.search(r'<path class="cell colour0" d="([^"]+)"><title>', few)
    assert line is not None
    assert all(46 <= float(x) <= 312 and 8 <= float(y) <= 156 for x, y in re.findall(r"([\d.]+) ([\d.]+)", line[1]))


def test_of_many_cells_each_value_of_an_axis_with_few_has_a_median(tmp_path: Path) -> None:
    page = with_curves(tmp_path, {"model.c2": list(range(7)), "routing": ["a", "b"], "seed": [0, 1, 2]})
    assert re.findall(r'<span class="colour(\d)">(.*?)</span>', page) == [("0", "a"), ("1", "b")]
    medians = re.findall(r'<path class="median colour(\d)" d="[^"]+"><title>(.*?)</title>', page)
    assert medians == [("0", "median, routing = a"), ("1", "median, routing = b")] * 4


def test_without_curves_there_is_no_such_section(tmp_path: Path) -> None:
    page = (report(finished(tmp_path, GRID)) / "index.html").read_text()
    assert 'id="curves"' not in page


MAP = {"model.c2": [2, 3], "model.c3": [4, 5], "seed": [0, 1]}
HEATMAP = {"kind": "heatmap", "name": "map", "x": "model.c2", "y": "model.c3", "metric": "test/acc"}


@pytest.mark.parametrize("kind", ["heatmap", "surface"])
@pytest.mark.parametrize("upright", [[4, 5], ["fast", "slow"]])
def test_a_field_of_a_map_leads_to_the_cells_of_its_point(tmp_path: Path, kind: str, upright: list[Any]) -> None:
    """Its rectangle has the colour of its value."""
    axes = {**MAP, "model.c3": upright}
    cells = sweep(tmp_path, axes, {**BLOCK, "figures": [{**HEATMAP, "kind": kind}]})
    for cell in cells[:-2]:
        finish(tmp_path, cell, accuracy(cell))
    page, image = (report(tmp_path) / name for name in ("index.html", "map.png"))
    box = "left:(.*?)%;top:(.*?)%;width:(.*?)%;height:(.*?)%"
    found = re.findall(f'<a href="#cells" data-cells="(.*?)" title="(.*?)" style="{box}">', page.read_text())
    assert [cells for cells, *_ in found] == ["0 1", "2 3", "4 5", "6 7"]
    pixels = matplotlib.image.imread(image)[..., :3]
    values = [(accuracy(one) + accuracy(other)) / 2 for one, other in zip(cells[:-2:2], cells[1:-2:2], strict=True)]
    norm = Normalize(min(values), max(values))
    for value, (_, text, *shares) in zip(values, found, strict=False):
        left, top, width, height = (float(share) / 100 for share in shares)
        corner = pixels[int((top + 0.1 * height) * len(pixels)), int((left + 0.1 * width) * len(pixels[0]))]
        assert np.allclose(corner, colormaps["viridis"](norm(value))[:3], atol=0.02), text
        assert f"{value:.4f} (n = 2)" in text
    assert found[-1][1].endswith("missing")


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
document.querySelector('.picture a[data-cells="6 7"]').click();
said.chosen = rows().filter((row) => row.classList.contains("chosen")).map((row) => row.dataset.cell);
said.led = [names().length, document.activeElement.dataset.cell, document.activeElement.getAttribute("aria-expanded")];
const field_of_map = document.querySelector('.picture a[data-cells="6 7"]');
const opened = () => [
  document.querySelectorAll("#cells tr.detail").length,
  document.querySelectorAll('#cells tr[aria-expanded="true"]').length,
];
said.opened = [opened()];
document.querySelectorAll("#cells th button")[head].click();
said.opened.push(opened());
field_of_map.click();
said.opened.push(opened());
field.value = "c2-03";
field.dispatchEvent(new Event("input"));
said.opened.push(opened());
field_of_map.click();
said.opened.push(opened());
const image = document.querySelector(".picture > img");
image.click();
said.zoomed = document.getElementById("zoom").open;
document.title = JSON.stringify(said);
</script>
</body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium in this machine")
@pytest.mark.parametrize("width", [1400, 500])
def test_in_a_browser_it_sorts_filters_opens_and_fits(tmp_path: Path, width: int) -> None:
    for cell in sweep(tmp_path, MAP, {**BLOCK, "figures": [HEATMAP]}):
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
    assert said["before"] == [str(place) for place in range(8)]
    assert said["up"] == sorted(said["up"])
    assert said["down"] == said["up"][::-1]
    assert said["open"] == 4
    assert said["facts"]
    assert said["filtered"] == 4
    assert sorted(said["chosen"]) == ["6", "7"]
    assert said["led"] == [8, "6", "true"], "the rows are all there again, and the first of the point is open"
    assert said["opened"] == [[1, 1], [0, 0], [1, 1], [0, 0], [1, 1]], "sorting and filtering close what a click opens"
    assert said["wide"] <= 0, "nothing is wider than the window"
    assert said["zoomed"]
