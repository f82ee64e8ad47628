"""Kinds of figures in modules of one's own: imported for a command of one's own, and for a folder that is trusted."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest

from capsexp import dashboard, plan, records
from capsexp.report import main
from capsexp.sweep.closing import print_closing
from tests.analysis.own_figure import dots

sys.path.append(str(Path(__file__).parent))

from report_fakes import finished

KIND = "figures_of_mine.dots"
FIGURE = {"kind": KIND, "name": "own", "metric": "test/acc"}


@pytest.fixture
def own(in_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package of one's own in the folder of the command."""
    folder = in_tmp / "figures_of_mine"
    folder.mkdir()
    (folder / "dots.py").write_text(dots(KIND))
    (folder / "empty.py").write_text("")
    monkeypatch.syspath_prepend("")
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "figures_of_mine"]:
        del sys.modules[name]


def error(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err.count("\n")) == (2, "", 1), captured
    return captured.err


def test_a_folder_imports_nothing_unless_it_is_trusted(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = str(finished(Path("multirun/fake"), {"a": [1, 2]}, {"figures": [FIGURE]}))
    for command in (main, dashboard.main):
        line = error(command([sweep]), capsys)
        assert "report.figures[0].kind must be one of activity, bars, " in line
        assert line.endswith(f"only for folders whose author you trust, got '{KIND}'\n")
    assert not any(name.startswith("figures_of_mine") for name in sys.modules)
    assert main([sweep, "--trust"]) == 0
    assert (Path(sweep) / "report" / "own.png").stat().st_size > 1000
    page = (Path(sweep) / "report" / "index.html").read_text(encoding="utf-8")
    assert "python -m capsexp.report multirun/fake --trust" in page


def test_several_folders_are_trusted_alike(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweeps = [str(finished(Path("multirun") / name, {"a": [1, 2]}, {"figures": [FIGURE]})) for name in ("one", "two")]
    assert "--trust" in error(main(sweeps), capsys)
    assert main([*sweeps, "--trust"]) == 0
    assert list(Path("multirun/one/comparison").glob("own*.png"))


@pytest.mark.parametrize(
    ("figure", "line"),
    [
        ("{kind:.dots,name:f}", "kind must name a module by its dotted name, got '.dots'"),
        ("{kind:figures_of_mine.none,name:f}", "kind must name a module that can be imported (No module named"),
        (
            "{kind:figures_of_mine.empty,name:f}",
            "kind must name a module with a function draw and a subclass of Figure",
        ),
        ("{kind:figures_of_mine.dots,name:f}", "metric must be given"),
    ],
)
def test_a_command_of_ones_own_imports_it_and_says_what_is_wrong(
    own: Path, figure: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sweep.name=mine", "seed=0,1", "threads=1", "logger.wandb.mode=disabled", "-m"]
    assert f"report.figures[0].{line}" in error(plan.main([*words, f"+report.figures=[{figure}]"]), capsys)
    good = "{kind:figures_of_mine.dots,name:f,metric:test/acc}"
    assert plan.main([*words, f"+report.figures=[{good}]"]) == 0


def test_the_line_at_the_end_of_a_sweep_is_the_command_that_makes_them(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for figures, trust in ([FIGURE], ["--trust"]), ([{"kind": "bars", "name": "b"}], []), (None, []):
        sweep = finished(Path("multirun/fake"), {"a": [1, 2]}, {"figures": figures})
        planned = records.read_sweep(sweep)
        assert planned is not None
        print_closing(sweep, planned)
        command = capsys.readouterr().out.strip().partition("; report: python -m capsexp.report ")[2].split()
        assert command == ["multirun/fake", *trust]
    sweep = finished(Path("multirun/fake"), {"a": [1, 2]}, {"figures": [FIGURE]})
    assert main([str(sweep), "--trust"]) == 0


def test_the_schema_for_editors_learns_them(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A class of the name of one of capsexp's too, and a module that is named twice."""
    (own / "line.py").write_text(dots("figures_of_mine.line").replace("Dots", "Line"))
    given = [word for name in ("dots", "line", "dots") for word in ("--kind", f"figures_of_mine.{name}")]
    assert main(["--schema", "schemas", *given]) == 0
    check = jsonschema.Draft202012Validator(json.loads(Path("schemas/report.schema.json").read_text())).is_valid
    line = {"kind": "line", "x": "a", "metric": "m"}
    for figure in FIGURE, FIGURE | {"kind": "figures_of_mine.line"}, line:
        assert check({"report": {"figures": [figure]}})
        assert not check({"report": {"figures": [figure | {"metrik": "m"}]}})
    assert not check({"report": {"figures": [{"kind": KIND, "name": "own"}]}}), "its metric is missing"
    capsys.readouterr()
    assert "kind must name a module of one's own" in error(main(["--schema", "s", "--kind", "bars"]), capsys)
    assert "kind must name a module that can be" in error(main(["--schema", "s", "--kind", "no.such"]), capsys)
    with pytest.raises(SystemExit):
        main(["multirun/fake", "--kind", KIND])
