"""``python -m capsexp.status multirun``: a line for each sweep below a folder."""

import json
from pathlib import Path

from status_fakes import filled


def test_every_sweep_has_a_line_and_all_have_a_sum(tmp_path: Path, shown) -> None:
    filled(tmp_path / "one", ["done"] * 3)
    filled(tmp_path / "other", ["done", "failed", "missing", "missing"])
    filled(tmp_path / "new", ["missing"])
    (tmp_path / ".stages" / "base-0123456789").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    assert shown(tmp_path).splitlines() == [
        "sweep  done  cells  other states         time left",
        "new       0      1  1 pending            unknown",
        "one       3      3  -                    -",
        "other     1      4  1 failed, 2 pending  20 s",
        "all       4      8  3 pending, 1 failed  unknown",
    ]


def test_json_has_the_facts_of_each(tmp_path: Path, shown) -> None:
    filled(tmp_path / "one", ["done"])
    filled(tmp_path / "other", ["done", "missing"])
    found = json.loads(shown(tmp_path, "--json"))
    assert [(each["folder"], each["planned"], each["counts"]["done"]) for each in found] == [
        (str(tmp_path / "one"), 1, 1),
        (str(tmp_path / "other"), 2, 1),
    ]


def test_a_name_with_slashes_is_a_sweep_in_a_folder_of_folders(tmp_path: Path, shown) -> None:
    filled(tmp_path / "mine" / "first", ["done"])
    filled(tmp_path / "other", ["done"])
    (tmp_path / "round").symlink_to(tmp_path)
    (tmp_path / "linked").symlink_to(tmp_path / "other")
    names = [line.split()[0] for line in shown(tmp_path).splitlines()]
    assert names == ["sweep", "linked", "mine/first", "other", "all"]


def test_single_cells_are_a_sweep_without_a_plan(tmp_path: Path, shown) -> None:
    filled(tmp_path / "adhoc", ["done", "failed"])
    (tmp_path / "adhoc" / "sweep.json").unlink()
    assert "adhoc     1      2  1 failed" in shown(tmp_path)
    alone = shown(tmp_path / "adhoc").splitlines()
    assert alone[0] == f"adhoc  {tmp_path / 'adhoc'}"
    assert alone[1] == "", "no command launched them all"


def test_a_damaged_sweep_hides_no_other(tmp_path: Path, shown) -> None:
    for name in ("one", "other"):
        filled(tmp_path / name, ["done"])
    (tmp_path / "one" / "sweep.json").write_text("{}")
    lines = shown(tmp_path).splitlines()
    assert lines[1].startswith("other     1      1  -")
    assert lines[2].startswith("one       -      -  damaged: ")
    assert "sweep.json is not a whole plan" in lines[2]
    assert lines[3].startswith("all       1      1")
    whole, damaged = json.loads(shown(tmp_path, "--json"))
    assert (whole["sweep"], damaged["folder"]) == ("fake", str(tmp_path / "one"))


def test_watching_ends_when_all_is_settled(tmp_path: Path, shown) -> None:
    filled(tmp_path / "one", ["done"])
    filled(tmp_path / "other", ["failed"])
    assert shown(tmp_path, "--watch", "0.01").count("all ") == 1
