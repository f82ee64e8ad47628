import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from claims_fakes import NAMED, cells, changed, paper_of, remade, write

from capsexp.analysis.claims import paper
from capsexp.claims import main

ROOT = Path(__file__).parents[3]
FILES = sorted((ROOT / "conf" / "claims").glob("*.yaml"))
GRID = {"model__c2": [2, 3, 4], "model__c3": [2, 3, 4]}
ROWS = cells(GRID, test__acc=lambda c2, c3: 0.9 + c2 / 100, params_paper=lambda c2, c3: c2 * c3)
DHCD = changed(ROWS[:4], data="dhcd")


@pytest.fixture
def folder(in_tmp):
    write(in_tmp / "digits", ROWS)
    write(in_tmp / "kept" / "dhcd", [*DHCD, *changed(ROWS[4:], state="failed", data="", select_on="")])
    return in_tmp


def page(folder, *words):
    assert main(["wang", *words, "--out", str(folder / "kept" / "wang.md")]) == 0
    return (folder / "kept" / "wang.md").read_text()


def section(text, statement):
    """The part of a page below a claim's heading."""
    return text.split(f". {statement}\n", 1)[1].split("\n## ")[0]


def test_a_page(folder, capsys):
    text = page(folder, "cnn_trained=digits,kept/dhcd")
    summary, path = capsys.readouterr().out.splitlines()
    assert path == str(folder / "kept" / "wang.md")
    assert re.fullmatch(r"dhcd: \d+ hold, \d+ do not hold, \d+ undecided; digits: .*", summary)
    assert "| claim | paper | dhcd (the paper's data) | digits (other data) |" in text
    best = section(text, "The best CNN of the grid reaches an accuracy of .94")
    assert "- **dhcd (the paper's data): undecided**" in best
    assert "cells are lacking, and more of them could turn it" in best
    assert "cells: 4 of `cnn_trained`; there are 4 cells (9 planned, 225 in the paper) in [dhcd](dhcd)" in best
    assert "still learning" not in best
    assert "- **digits (other data): undecided**" in best
    assert "in `digits`" in best
    assert "| undecided: 0.9300, gap -0.0100 (partial) |" in text
    lacking = section(text, "The shared-weight autoencoder is about as accurate as the normal one")
    commands = [f"python -m capsexp +experiment={name} -m data=dhcd" for name in ("shared_ae_prune", "ae_prune")]
    assert all(f"more cells: `{command}`, then `python -m capsexp.report" in lacking for command in commands)


def test_the_same_tables_give_the_same_page_and_its_command_is_whole(folder, monkeypatch):
    text = page(folder, "cnn_trained=digits,kept/dhcd")
    assert page(folder, "cnn_trained=digits,kept/dhcd") == text
    assert remade(folder / "kept" / "wang.md", folder, monkeypatch) == text
    write(folder / "digits", changed(ROWS, test__acc="0.1"))
    assert remade(folder / "kept" / "wang.md", folder, monkeypatch) != text


def test_without_words_the_sweeps_below_multirun_are_read(in_tmp, capsys):
    assert main(["wang"]) == 0
    assert capsys.readouterr().out.endswith("undecided\nmultirun/wang.md\n")
    text = Path("multirun/wang.md").read_text()
    assert "dhcd (the paper's data): 0 hold, 0 do not hold, 36 undecided." in text
    write(Path("multirun/cnn_prune/report"), DHCD)
    assert main(["wang"]) == 0
    assert "[cnn_prune/report](cnn_prune/report)" in Path("multirun/wang.md").read_text()
    assert main(["wang", "cnn=multirun/cnn_prune"]) == 0
    assert "[cnn_prune/report](cnn_prune/report)" in Path("multirun/wang.md").read_text()


def test_trainings_that_were_cut_short_are_told_and_later_folders_take_the_place_of_earlier_ones(folder):
    short = [row | {"training.epochs": 12, "training.peak_epoch": 12} for row in ROWS]
    write(folder / "short", short)
    write(folder / "long", [row | {"training.peak_epoch": 10} for row in changed(short[:6], kind="x")])
    best = "The best CNN of the grid reaches an accuracy of .94"
    alone, both = (section(page(folder, f"cnn_trained={words}"), best) for words in ("short", "short,long"))
    assert "- 9 of 9 cells of `cnn_trained` were still learning when they ended" in alone
    assert "- 3 of 9 cells of `cnn_trained` were still learning when they ended" in both
    assert "folders" not in alone
    assert "`long`; of 6 places in several folders the last one's cell counts\n" in both


def test_networks_that_were_still_learning_refute_nothing_on_the_page(folder):
    axes = {"model__c2": [7], "model__c3": [6]}
    cut, ended = ({"training.epochs": 93, "training.peak_epoch": peak} for peak in (93, 83))
    write(folder / "small", [row | cut for row in cells(axes, test__acc=0.5)])
    write(folder / "one", [row | ended for row in cells({}, test__acc=0.95)])
    text = page(folder, "cnn_trained=small", "baseline=one")
    near = section(text, "The CNN with c2 = 7 and c3 = 6 is nearly as accurate as the baseline")
    assert "- **digits (other data): undecided**" in near
    assert "- not refuted, since 1 of 1 cell of `cnn_trained` was still learning when it ended" in near
    assert "- 0 of 1 cell of `baseline` was still learning when it ended" in near


def test_one_cell_and_walks_without_a_seed(folder):
    axes = {"recipe__mode": ["remove", "merge", "reinit"], "pruning": ["cosine", "magnitude", "random"]}
    write(folder / "walks", cells({**axes, "recipe__steps": [0, 50]}, walk__mean_acc=0.5))
    write(folder / "one", cells({}, test__acc=0.95, params_paper=47892))
    text = page(folder, "walk=walks", "baseline=one")
    assert "cells: 1 of `baseline`; there is 1 cell in `one`" in text
    guide = section(text, "Keeping the weights and fine-tuning a little beats initialising and training anew")
    assert "no interval from one seed, n = 1; greater in 0 of 1 pair: undecided" in guide


def test_models_chosen_on_the_test_set_stand_apart(folder):
    write(folder / "chosen", changed(ROWS, select_on="test"))
    text = page(folder, "cnn=digits,chosen")
    assert "digits, models chosen on test (other data) | digits (other data) |" in text
    assert "-m data=digits data.select_on=test`" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wong"], "the paper's name must be one of wang, got 'wong'"),
        (["wong.yaml"], "the paper's file must be there, got 'wong.yaml'"),
        (["wang", "cn=digits"], "source must be one of cnn, cnn_trained, baseline"),
        (["wang", "digits"], "digits must be SOURCE=FOLDER, got 'digits'"),
        (["wang", "cnn=digits", "cnn=digits"], "cnn must be given once"),
        (["wang", "cnn=nowhere"], "cnn: nowhere has no cells.csv; of a sweep, python -m capsexp.report writes it"),
        (["wang", "cnn=damaged"], "damaged/cells.csv has no column select_on"),
        (["wang", "cnn=twice"], "are two trainings of one place on digits"),
        (["wang", "cnn=digits,kept/../digits"], "cnn: kept/../digits/cells.csv was given twice; once is enough"),
        (
            ["wang", "baseline=digits", "walk=digits"],
            "walk: digits/cells.csv has no axis recipe.mode: it is no table of",
        ),
        (["wang", "capsnet=pairs"], "capsnet: pairs/cells.csv has no column distance/primary/min: it is no table of"),
    ],
)
def test_what_the_user_can_mend_is_one_line(folder, capsys, words, message):
    write(folder / "twice", [*ROWS, *changed(ROWS, kind="x")])
    write(folder / "pairs", cells({"seed": [0], "model__c2": [2], "model__c1": [3]}, reconstruction__loss=1))
    (folder / "damaged").mkdir()
    (folder / "damaged" / "cells.csv").write_text("cell,data,state\n")
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("capsexp.claims: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not Path("multirun/wang.md").exists()


def test_nothing_heavy_is_imported(folder):
    code = (
        "import sys; from capsexp.claims import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'pandas', 'pydantic', 'scipy', 'yaml'} & set(sys.modules); assert not heavy, heavy\n"
        "assert main(['wang', 'cnn=digits']) == 0\n"
        "banned = {'torch', 'lightning', 'hydra', 'omegaconf', 'matplotlib', 'pandas', 'scipy.stats'}\n"
        "assert not banned & set(sys.modules), banned & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)


# -- another paper's file ---------------------------------------------------------------------------------------------


def test_the_claims_of_another_paper_are_one_yaml_file(folder, capsys):
    best = {
        "kind": "gap",
        "a": {"source": "grid", "metric": "test/acc", "reduce": "max"},
        "b": 0.93,
        "relation": "near",
    }
    steep = {
        "kind": "flat",
        "source": "grid",
        "metric": "test/acc",
        "where": {"model.c2": {"min": 2}},
        "tolerance": 0.01,
    }
    keys = {
        "title": "Another paper",
        "paper_data": "digits",
        "columns": {"test/acc": {"label": "accuracy", "digits": 2}},
    }
    content = paper_of(best, "grid", **keys)
    content["claims"].append({**NAMED, **steep, "name": "steep", "statement": "The accuracy is flat"})
    Path("mine.yaml").write_text(yaml.safe_dump(content))
    assert main(["mine.yaml", "grid=digits"]) == 0
    assert capsys.readouterr().out == "digits: 1 hold, 1 do not hold, 0 undecided\nmultirun/mine.md\n"
    text = Path("multirun/mine.md").read_text()
    assert text.startswith("# Another paper\n")
    assert "python -m capsexp.claims mine.yaml grid=digits" in text
    assert "- **digits (the paper's data): does not hold**" in section(text, "The accuracy is flat")
    assert (
        "The best accuracy of `grid` less the lowest where model.c2 >= 2; it holds if that drop is at most 0.01" in text
    )
    Path("mine.yaml").write_text(yaml.safe_dump({**content, "claims": [{**NAMED, **best, "relation": "like"}]}))
    assert main(["mine.yaml", "grid=digits"]) == 2
    message = "mine.claims[0].relation must be one of near, above, below, at_least_near, at_most_near, got 'like'"
    assert capsys.readouterr().err == f"capsexp.claims: error: {message}\n"


def test_the_schema_for_editors(in_tmp, capsys):
    assert main(["--schema", "claims.json"]) == 0
    assert capsys.readouterr().out == "claims.json\n"
    schema = json.loads(Path("claims.json").read_text())
    assert schema["required"] == ["title", "source", "paper_data", "tolerance", "sources", "claims"]
    kinds = schema["properties"]["claims"]["items"]["discriminator"]["mapping"]
    assert list(kinds) == ["flat", "gap", "paired", "rank", "robust_area", "trend"]
    forms = schema["$defs"]
    assert all(form["additionalProperties"] is False for form in forms.values())
    assert "default" not in forms["Flat"]["properties"]["tolerance"]
    assert forms["Paired"]["properties"]["a"]["anyOf"][0] == {"type": "string"}
    condition = forms["Flat"]["properties"]["where"]["additionalProperties"]["anyOf"]
    assert {"$ref": "#/$defs/Bounds"} in condition


def test_files_of_claims_fit_the_schema_and_wrong_ones_do_not(in_tmp):
    assert main(["--schema", "claims.json"]) == 0
    schema = json.loads(Path("claims.json").read_text())
    for path in FILES:
        jsonschema.validate(yaml.safe_load(path.read_text()), schema)
    gap = {"kind": "gap", "a": {"source": "cnn", "metric": "acc"}, "b": 1, "relation": "near"}
    jsonschema.validate(paper_of(gap, "cnn"), schema)
    jsonschema.validate(paper_of({**gap, "b": gap["a"]}, "cnn"), schema)
    for wrong in (
        *({"kind": "vote"}, {**gap, "b": "1"}, {**gap, "relation": "like"}, {**gap, "tolerance": -1}, {**gap, "x": 1}),
        *({**gap, "a": {"source": "cnn"}}, {**gap, "a": {**gap["a"], "where": {"c": {"least": 1}}}}),
        {**gap, "name": "../n"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(paper_of(wrong, "cnn"), schema)


def test_null_in_a_file_of_claims_is_a_key_that_is_left_out(folder, capsys):
    best = {"kind": "gap", "a": {"source": "grid", "metric": "test/acc", "reduce": "max"}, "b": 0.93}
    whole = paper_of({**best, "relation": "near", "tolerance": None, "relative": None}, "grid", columns=None)
    whole["sources"]["grid"] = {**whole["sources"]["grid"], "cells": None, "axes": None}
    Path("mine.yaml").write_text(yaml.safe_dump(whole))
    found = paper.load("mine.yaml")
    assert (found.claims[0].tolerance, found.columns, found.sources["grid"].axes) == (0.02, {}, [])
    Path("mine.yaml").write_text(yaml.safe_dump(paper_of({**best, "relation": None}, "grid")))
    assert main(["mine.yaml", "grid=digits"]) == 2
    assert capsys.readouterr().err == "capsexp.claims: error: mine.claims[0].relation must be given, got None\n"


def test_without_a_name_there_is_nothing_to_judge(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith("error: the following arguments are required: NAME\n")


# -- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_of_claims_is_whole(path):
    found = paper.load(path.stem)
    assert path.read_text().startswith("# ")
    used = {source for claim in found.claims for source in claim.sources}
    assert used == set(found.sources)
    assert all("{data}" in source.command for source in found.sources.values())
    rules = [claim.describe(found.labels) for claim in found.claims]
    assert all(rule[0].isupper() or rule[0] == "(" for rule in rules)


def test_where_everything_is_as_the_paper_says_every_claim_of_it_holds(in_tmp):
    """So every column, axis and value that the claims name is one that the experiments have."""
    tables = papers_world()
    words = [f"{name}={write(in_tmp / name, changed(rows, data='dhcd'))}" for name, rows in tables.items()]
    assert main(["wang", *words]) == 0
    text = Path("multirun/wang.md").read_text()
    factor = section(text, "The capsule network has about 14 times the baseline's weights")
    assert "- **dhcd (the paper's data): does not hold**\n" in factor  # by the paper's own numbers
    assert "B: 14 times the number of weights of `baseline`: 670,488" in factor
    text = text.replace(factor, "")
    assert re.findall(r"^- \*\*dhcd \(the paper's data\): (?!holds)(.*)\*\*", text, re.MULTILINE) == []
    claims = yaml.safe_load((ROOT / "conf" / "claims" / "wang.yaml").read_text())["claims"]
    assert f"dhcd (the paper's data): {len(claims) - 1} hold, 1 do not hold, 0 undecided." in text
    assert "(partial)" not in text


def papers_world():
    """Tables in which the numbers are as the paper describes them, and its networks' sizes by its own formulas."""
    cnn = cells(
        {"model__c2": range(2, 17), "model__c3": range(2, 17)},
        test__acc=lambda c2, c3: 0.945 - (32 - c2 - c3) / 2000 - 0.1 * (c2 < 7 or c3 < 6),
        distance__conv1__min=lambda c2, c3: -(7 * c2 + 5 * c3) % 11,
        distance__conv2__min=lambda c2, c3: -c2 - (-(7 * c2 + 5 * c3) % 11),
        distance__conv3__min=lambda c2, c3: -2 * c3 + 0.6 * c2 * ((c3 >= 12) - (c3 <= 6)),
        params_paper=lambda c2, c3: 49 * 6 + 25 * 6 * c2 + 9 * c2 * c3 + 9 * c3 * 46,
    )
    normal, shared = (
        cells(
            {"model__c1": range(2, 17), "model__c2": range(2, 17)},
            test__acc=lambda c1, c2, gain=gain: 0.72 - (16 - c1) / 500 - (16 - c2) / 1000 + gain,
            distance__conv3__min=lambda c1, c2, gain=gain: c1 + c2 / 2 + gain,
            params_paper=lambda c1, c2, times=times: times * (9 * c1 + 9 * c1 * c2 + 54 * c2),
        )
        for gain, times in ((0, 2), (0.001, 1))
    )
    capsnet = cells(
        {"model__c1": range(32, 257, 32), "model__c2": range(32, 257, 32)},
        test__acc=lambda c1, c2: 0.992 - (512 - c1 - c2) / 1000,
        distance__conv1__min=lambda c1, c2: -c1 - c2,
        distance__primary__min=lambda c1, c2: -c1 - c2,
        params_paper=lambda c1, c2: 81 * c1 + 81 * c2 + 46 * 16 * 8 * 36 * c2 // 8,
    )
    modes = {"remove": 0.5, "merge": 0.6, "reinit": 0.55}
    gain = {"cosine": 0.1, "magnitude": 0.05, "random": 0}
    walk = cells(
        {"recipe__mode": modes, "pruning": gain, "recipe__steps": [0, 50], "seed": range(5)},
        walk__mean_acc=lambda mode, pruning, steps, seed: modes[mode] + gain[pruning] + steps / 500 + seed / 100,
    )
    baseline = cells({}, test__acc=0.95, params_paper=47892)
    normal, shared = ([row | {"reconstruction/loss": 0.04} for row in rows] for rows in (normal, shared))
    autoencoders = {"autoencoder": normal, "shared": shared}
    return dict(cnn=cnn, cnn_trained=cnn, baseline=baseline, **autoencoders, capsnet=capsnet, walk=walk)


def test_the_kept_page_is_what_the_kept_tables_give(monkeypatch):
    page = ROOT / "docs" / "results" / "wang.md"
    assert remade(page, ROOT, monkeypatch) == page.read_text(encoding="utf-8")
