import pytest
from claims_fakes import cells, changed, protocol, protocols, write

from capsexp.analysis.claims import evidence
from capsexp.analysis.claims.evidence import LackingError, TableError, gather, mean_of
from capsexp.analysis.conditions import Condition

GRID = {"model__c2": [2, 3], "model__c3": [2, 3]}


def read(folder):
    return evidence.read(folder / evidence.NAME)


def test_a_report_writes_what_is_read(tmp_path):
    rows = cells({"model__c2": [2, 10], "pruning": ["cosine"], "ratio": [0.125]}, test__acc=0.5)
    found = read(write(tmp_path, changed(rows, state="done")))
    assert found.axes == ("model.c2", "pruning", "ratio")
    assert found.metrics == ("test/acc",)
    assert [cell.name for cell in found.cells] == [row["cell"] for row in rows]
    assert [list(cell.axes.values()) for cell in found.cells] == [[2, "cosine", 0.125], [10, "cosine", 0.125]]
    assert [cell.value("test/acc") for cell in found.cells] == [0.5, 0.5]


def test_the_words_of_values():
    texts = ["2", "0.5", "true", "null", "cosine", "[1, 2]", "1e400", "NaN"]
    assert [evidence.value_of(text) for text in texts] == [2, 0.5, True, None, "cosine", "[1, 2]", "1e400", "NaN"]


def test_an_axis_called_data(tmp_path):
    rows = cells({"data": ["digits"]}, test__acc=0.5)
    rows = [
        {"cell": r["cell"], "data": "mnist10k", "data.name": "mnist", **{k: r[k] for k in list(r)[2:]}} for r in rows
    ]
    found = read(write(tmp_path, rows))
    assert found.axes == ("data",)
    assert [cell.protocol for cell in found.cells] == [protocol("mnist")]


def test_older_tables_have_fewer_facts(tmp_path):
    rows = [{k: v for k, v in row.items() if k not in ("kind", "retried")} for row in cells(GRID, test__acc=0.5)]
    assert read(write(tmp_path, rows)).metrics == ("test/acc",)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "has no column cell"),
        ("cell,data,state\n", "has no column select_on"),
        ("data,cell,select_on,state\n", "must begin with the column cell"),
        ("cell,data,select_on,state,a,a\n", "every column once"),
        ("cell,data,select_on,state,a\nx,digits,val,done\n", "line 2: 4 fields under 5 heads"),
        ("cell,data,select_on,state,a\nx,digits,val,done,much\n", "line 2: a must be a number, got 'much'"),
        ("cell,data,select_on,state,a\nx,,val,done,1\n", "without its data set"),
        ('cell,data,select_on,state,a\nx,digits,val,done,"1\n', "is no CSV"),
    ],
)
def test_a_damaged_table(tmp_path, text, why):
    (tmp_path / evidence.NAME).write_text(text)
    with pytest.raises(TableError, match=why):
        read(tmp_path)


def test_no_text_at_all(tmp_path):
    (tmp_path / evidence.NAME).write_bytes(b"cell,\xff\n")
    with pytest.raises(TableError, match="is no CSV"):
        read(tmp_path)


def test_holes_are_planned_and_give_no_number(tmp_path):
    rows = cells(GRID, test__acc=lambda c2, c3: c2 + c3 / 10)
    holes = changed(rows[2:], state="failed", data="", select_on="", test__acc="")
    part = protocols(tmp_path, cnn=[*rows[:2], *holes])[protocol("digits")].part("cnn")
    assert (part.planned, len(part.cells)) == (4, 2)
    assert part.values == {"model.c2": (2, 3), "model.c3": (2, 3)}
    assert [mean_of(point.cells, "test/acc") for point in part.sample({}, "test/acc").points] == [2.2, 2.3]


def test_a_stale_cell_counts_as_a_hole_even_with_numbers(tmp_path):
    rows = cells(GRID, test__acc=0.5)
    found = protocols(tmp_path, cnn=[*rows[:3], *changed(rows[3:], state="stale")])
    assert len(found[protocol("digits")].part("cnn").cells) == 3


def test_data_sets_and_choices_of_models_are_never_mixed(tmp_path):
    rows = cells(GRID, test__acc=0.5)
    mixed = [*rows, *changed(rows, data="dhcd"), *changed(rows, select_on="test")]
    found = protocols(tmp_path, cnn=mixed, other=rows)
    assert list(found) == [protocol("dhcd"), protocol("digits", "test"), protocol("digits")]
    assert [len(each.part("cnn").cells) for each in found.values()] == [4, 4, 4]
    assert [each.part("cnn").planned for each in found.values()] == [4, 4, 4]
    assert [each.papers for each in found.values()] == [True, False, False]
    with pytest.raises(LackingError, match="no finished cell of other"):
        found[protocol("dhcd")].part("other")


def test_the_papers_data_are_there_even_without_a_cell(tmp_path):
    found = protocols(tmp_path, cnn=cells(GRID, test__acc=0.5))
    assert list(found) == [protocol("dhcd"), protocol("digits")]
    assert found[protocol("dhcd")].papers
    assert found[protocol("dhcd")].parts == {}


def test_seeds_are_averaged(tmp_path):
    rows = cells({"model__c2": [3, 2], "seed": [0, 1]}, test__acc=lambda c2, seed: c2 / 10 + seed / 5)
    part = protocols(tmp_path, cnn=rows)[protocol("digits")].part("cnn")
    assert part.axes == ("model.c2",)
    points = part.sample({}, "test/acc").points
    assert [(point.axes, len(point.cells)) for point in points] == [({"model.c2": 2}, 2), ({"model.c2": 3}, 2)]
    assert [mean_of(point.cells, "test/acc") for point in points] == pytest.approx([0.3, 0.4])
    (single,) = part.sample({"seed": Condition((1,)), "model.c2": Condition((3,))}, "test/acc").points
    assert mean_of(single.cells, "test/acc") == 0.5


def test_a_mean_is_exact(tmp_path):
    rows = cells({"seed": [0, 1, 2]}, loss=lambda seed: [1e16, 1.0, -1e16][seed], acc=0.1)
    (point,) = protocols(tmp_path, cnn=rows)[protocol("digits")].part("cnn").sample({}, "loss").points
    assert mean_of(point.cells, "loss") == 1 / 3
    assert mean_of(point.cells, "acc") == 0.1


def test_what_a_sample_lacks(tmp_path):
    rows = cells(GRID, test__acc=lambda c2, c3: "nan" if c3 == 3 else "" if c2 == 3 else 0.5)
    part = protocols(tmp_path, cnn=rows)[protocol("digits")].part("cnn")
    sample = part.sample({}, "test/acc")
    assert (len(sample.cells), sample.lost) == (1, 3)
    assert part.sample({"model.c2": Condition((2,))}, "test/acc").lost == 1
    for where, metric in [({}, "test/loss"), ({"model.c9": Condition((2,))}, "test/acc")]:
        with pytest.raises(LackingError, match=r"the cells of cnn have no (test/loss|model\.c9)"):
            part.sample(where, metric)
    with pytest.raises(LackingError, match="no finished cell of cnn there"):
        part.sample({"model.c3": Condition((3,))}, "test/acc")


def test_words_and_truth_values_of_an_axis_are_no_numbers(tmp_path):
    rows = cells({"merge": [True, False, 1, "x"], "seed": [0]}, test__acc=0.5)
    part = protocols(tmp_path, cnn=rows)[protocol("digits")].part("cnn")
    assert [point.axes["merge"] for point in part.sample({}, "test/acc").points] == [1, False, True, "x"]
    sample = part.sample({}, "test/acc", "merge")
    assert ([cell.axes["merge"] for cell in sample.cells], sample.lost) == ([1], 3)


def test_the_same_cell_in_two_folders_counts_once(tmp_path):
    rows = cells(GRID, test__acc=0.5)
    first, second = (read(write(tmp_path / name, part)) for name, part in (("a", rows[:3]), ("b", rows[1:])))
    part = gather({"cnn": [first, second]}, {}, "dhcd")[protocol("digits")].part("cnn")
    assert (len(part.cells), part.planned, part.folders) == (4, 4, (tmp_path / "a", tmp_path / "b"))
    assert (part.replaced, part.complete) == (0, True)


def test_of_two_folders_the_later_ones_training_of_a_place_counts(tmp_path):
    rows = cells({**GRID, "seed": [0, 1]}, test__acc=0.5)
    first = read(write(tmp_path / "a", [*rows[:3], *changed(rows[3:4], state="failed")]))
    again = read(write(tmp_path / "b", changed([rows[0], rows[3]], kind="x", test__acc="0.9")))
    holes = read(write(tmp_path / "c", [*changed(rows[:1], state="failed"), *changed(rows[4:5], kind="y")]))
    for tables, accuracies, replaced, planned in [
        ([first, again], [0.9, 0.5, 0.5, 0.9], 1, 4),
        ([again, first], [0.5, 0.9, 0.5, 0.5], 1, 4),
        ([first, holes], [0.5, 0.5, 0.5, 0.5], 0, 5),
    ]:
        part = gather({"cnn": tables}, {}, "dhcd")[protocol("digits")].part("cnn")
        assert [cell.value("test/acc") for cell in part.cells] == accuracies
        assert (part.replaced, part.planned) == (replaced, planned)
    apart = gather({"cnn": [first], "other": [again]}, {}, "dhcd")[protocol("digits")]
    assert [apart.part(name).replaced for name in ("cnn", "other")] == [0, 0]


def test_two_trainings_of_one_place_in_one_table_are_a_contradiction(tmp_path):
    rows = cells(GRID, test__acc=0.5)
    twice = read(write(tmp_path / "a", [*rows, *changed(rows[:1], kind="x")]))
    with pytest.raises(TableError, match="are two trainings of one place on digits"):
        gather({"cnn": [twice]}, {}, "dhcd")


def test_a_source_is_complete_where_no_cell_is_lacking(tmp_path):
    rows = cells({**GRID, "seed": [0, 1]}, test__acc=0.5)
    table_of = read(write(tmp_path / "a", rows))
    parts = [gather({"cnn": [table_of]}, {"cnn": size}, "dhcd")[protocol("digits")].part("cnn") for size in (0, 4, 5)]
    assert [(part.complete, part.beyond) for part in parts] == [(True, 0), (True, 0), (False, 5)]  # seeds are no places
    failed = protocols(tmp_path, cnn=[*rows[:7], *changed(rows[7:], state="failed")])[protocol("digits")].part("cnn")
    assert not failed.complete
    lost = protocols(tmp_path, cnn=[*rows[:7], *changed(rows[7:], test__acc="nan")])[protocol("digits")].part("cnn")
    assert lost.complete
    assert not lost.sample({}, "test/acc").complete


def test_folders_with_other_axes_are_refused(tmp_path):
    first = read(write(tmp_path / "a", cells({"model__c2": [2]}, test__acc=0.5)))
    second = read(write(tmp_path / "b", cells(GRID, test__acc=0.5)))
    seeds = read(write(tmp_path / "c", cells({"model__c2": [3], "seed": [0]}, test__acc=0.5)))
    for other in (second, seeds):
        with pytest.raises(TableError, match="swept different axes"):
            gather({"cnn": [first, other]}, {}, "dhcd")
