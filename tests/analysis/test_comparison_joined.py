"""Several sweeps as one: values of axes that a sweep fixed, names, the table for scripts, and the page in a browser."""

import html
import json
import math
import re
import shutil
import subprocess

import pytest
from comparison_fakes import BASE, config, plain, written

import capsexp
from capsexp import records
from capsexp.analysis.comparison.joined import UNKNOWN, read_joined
from capsexp.analysis.results import ReportError
from capsexp.report import main

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ROUTINGS = {name: {"_target_": f"routing.{name}", "iterations": 3} for name in ("dynamic", "max_min")}
"""Groups of the config by their names."""


def values(joined, name, axis):
    (member,) = [member for member in joined.members if member.name == name]
    return [cell.axes[axis] for cell in member.filled.cells]


def two(root, base, axes=None):
    """A sweep over a group and one that may have fixed it."""
    names = {"routing": list(ROUTINGS), **(axes or {})}
    one = written(root / "one", names, plain, base={"groups": ROUTINGS})
    return one, written(root / "two", {"model.c2": [2, 3]}, plain, base=base)


def test_a_group_that_one_sweep_fixed_is_known_by_its_content(tmp_path):
    joined = read_joined(two(tmp_path, {"routing": ROUTINGS["max_min"]}))
    assert values(joined, "two", "routing") == ["max_min", "max_min"]
    assert values(joined, "one", "model.c2") == [4, 4]
    assert joined.results.axes == {"sweep": ["one", "two"], "routing": ["dynamic", "max_min"], "model.c2": [2, 3, 4]}
    assert joined.results.points[0].axes == {"sweep": "one", "routing": "dynamic", "model.c2": 4}


@pytest.mark.parametrize("base", [{"routing": {"_target_": "routing.max_min", "iterations": 9}}, {"routing": {}}, {}])
def test_a_group_of_other_content_is_not_known_and_pairs_with_nothing(tmp_path, base):
    one, other = two(tmp_path, base)
    assert values(read_joined([one, other]), "two", "routing") == [UNKNOWN, UNKNOWN]
    cells = capsexp.load_joined(one, other)
    assert all(math.isnan(value) for value in cells["axes.routing"][2:])
    assert capsexp.paired_differences(cells, "test/acc", "one", "two") == []


def test_a_cell_that_has_not_started_has_the_config_that_the_launch_froze(tmp_path):
    one = written(tmp_path / "one", {"optimizer.lr": [0.1, 0.2]}, plain)
    other = written(tmp_path / "two", {"model.c2": [2, 3]}, plain, missing=lambda axes: axes["model.c2"] == 3)
    joined = read_joined([one, other])
    assert values(joined, "two", "optimizer.lr") == [0.1, UNKNOWN]
    planned = records.read_sweep(other)
    assert planned is not None
    frozen = {cell.id: records.FrozenCell(config(cell.axes, {**BASE, "seed": 5}), []) for cell in planned.cells}
    records.write_configs(other, frozen)
    joined = read_joined([one, other])
    assert values(joined, "two", "optimizer.lr") == [0.1, 0.1]
    assert values(joined, "two", "seed") == [0, 5]
    assert not any("paths" in each or "threads" in each for each in joined.members[1].configs.values())


def test_an_axis_that_a_config_ties_to_the_seed_makes_points_of_its_own(tmp_path):
    one = written(tmp_path / "one", {"data.split_seed": [0, 1]}, plain)
    other = written(tmp_path / "two", {"seed": [0, 1]}, plain)
    for folder in other.glob("seed-*"):
        text = (folder / records.CONFIG).read_text()
        seed = re.search(r"^seed: (\d)", text, re.MULTILINE)
        assert seed is not None
        (folder / records.CONFIG).write_text(f"{text}data: {{split_seed: {seed[1]}}}\n")
    points = [point for point in read_joined([one, other]).results.points if point.axes["sweep"] == "two"]
    assert [(point.axes["data.split_seed"], len(point.cells)) for point in points] == [(0, 1), (1, 1)]


def test_the_table_for_scripts_has_every_axis_and_keeps_null(tmp_path):
    one = written(tmp_path / "x" / "s", {"model.c2": [2, None], "seed": [0, 1]}, plain_or_zero)
    other = written(tmp_path / "y" / "s", {"optimizer.lr": [0.1]}, plain, base={"model": {"c2": None}, "seed": 1})
    cells = capsexp.load_joined(one, other)
    assert cells["sweep"].tolist() == ["s (1)"] * 4 + ["s (2)"]
    assert cells["axes.model.c2"].tolist() == [2, 2, None, None, None]
    assert cells["axes.seed"].tolist() == [0, 1, 0, 1, 1]
    assert cells["axes.optimizer.lr"].tolist() == [0.1] * 5
    (found,) = capsexp.paired_differences(cells, "test/acc", "s (1)", "s (2)")
    assert [(pair.axes, pair.seed) for pair in found.pairs] == [({"model.c2": None}, 1)]


def plain_or_zero(axes):
    return plain({key: value or 0 for key, value in axes.items()})


def test_what_cannot_be_joined(tmp_path):
    with pytest.raises(TypeError, match="at least one directory"):
        capsexp.load_joined()
    one = written(tmp_path / "one", {}, plain)
    (tmp_path / "link").symlink_to(one)
    with pytest.raises(ReportError, match=r"DIR must name each sweep once, got .*link"):
        capsexp.load_joined(one, tmp_path / "link")


SCRIPT = """
<script>
const table = document.querySelector("#leaderboard table");
const column = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
const said = { before: column() };
table.querySelector("th button").click();
table.querySelector("th button").click();
said.down = column();
said.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
document.title = JSON.stringify(said);
</script>
</body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium in this machine")
def test_in_a_browser_it_sorts_and_fits_a_narrow_window(tmp_path):
    long = "a_sweep_with_a_rather_long_name_data-digits_model.c2"
    roots = [written(tmp_path / name, {"model.c2": [2, 3]}, plain, block={"figures": []}) for name in (long, "b")]
    assert main([*map(str, roots)]) == 0
    page = roots[0] / "comparison" / "index.html"
    page.write_text(page.read_text().replace("</body>", SCRIPT))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=500,900"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    ended = subprocess.run(
        [BROWSER, *options, profile, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert "CONSOLE" not in ended.stderr, "an error or a warning in the console"
    title = re.search(r"<title>(.*?)</title>", ended.stdout)
    assert title is not None
    said = json.loads(html.unescape(title[1]))
    assert said == {"before": ["1", "1", "3", "3"], "down": ["3", "3", "1", "1"], "wide": 0}
