import pytest
from claims_fakes import cells, changed, judge
from hypothesis import given
from hypothesis import strategies as st

from capsexp.analysis.claims.evidence import LackingError
from capsexp.analysis.claims.rules import gap

GRID = {"a": list(range(1, 6)), "b": list(range(1, 6))}


def one(tmp_path, claim, rows, **more):
    return judge(tmp_path, claim, cnn=rows, **more)


def answer(tmp_path, claim, rows, **more):
    return one(tmp_path, claim, rows, **more).answer


BEST = {"source": "cnn", "metric": "acc", "reduce": "max"}


@pytest.mark.parametrize(
    ("relation", "expected"),
    [  # gaps of -.03, -.02, 0, .02, .03 with a tolerance of .02
        ("near", [False, True, True, True, False]),
        ("above", [False, False, False, False, True]),
        ("below", [True, False, False, False, False]),
        ("at_least_near", [False, True, True, True, True]),
        ("at_most_near", [True, True, True, True, False]),
    ],
)
def test_relations(relation, expected):
    assert [gap.holds(relation, value, 0.02) for value in (-0.03, 0.93 - 0.95, 0, 0.95 - 0.93, 0.03)] == expected


def test_gap_to_another_source(tmp_path):
    rows = cells(GRID, acc=lambda a, b: (a + b) / 100, size=lambda a, b: 100 * a - b)
    other = cells({}, acc=0.2, size=1000)
    claim = {"kind": "gap", "a": BEST, "b": {"source": "base", "metric": "acc"}, "relation": "below", "tolerance": 0.05}
    found = one(tmp_path, claim, rows, base=other)
    assert (found.answer, found.number) == ("holds", "0.1000, gap -0.1000")
    assert "0.1000 at a = 5, b = 5 (`a-5_b-5-" in found.lines[0]
    sizes = {"source": "cnn", "metric": "size", "best": "acc"}, {"source": "base", "metric": "size", "factor": 0.5}
    claim = {"kind": "gap", "a": sizes[0], "b": sizes[1], "relation": "near", "relative": True}
    found = one(tmp_path, claim, rows, base=other)  # 495 against half of 1000
    assert (found.answer, found.number) == ("holds", "495.0000, gap -1.0 %")
    assert answer(tmp_path, {**claim, "tolerance": 0.009}, rows, base=other) == "does not hold"
    with pytest.raises(LackingError, match="B is 0"):
        one(tmp_path, claim, rows, base=cells({}, size=0))


def test_the_papers_number_is_checked_on_the_papers_data_alone(tmp_path):
    rows = cells(GRID, acc=lambda a, b: (a + b) / 100)
    claim = {"kind": "gap", "a": BEST, "b": 0.11, "relation": "near"}
    found = judge(tmp_path, claim, "dhcd", cnn=changed(rows, data="dhcd"))
    assert (found.answer, found.number) == ("holds", "0.1000, gap -0.0100")
    found = judge(tmp_path, claim, cnn=rows)
    assert (found.answer, found.number) == ("undecided", "0.1000, gap -0.0100")
    assert "of its own data" in found.lines[-1]


@pytest.mark.parametrize(
    ("how", "number"), [({"reduce": "min"}, 2.0), ({"reduce": "mean"}, 6.0), ({"reduce": "max"}, 10.0)]
)
def test_what_a_number_can_be(tmp_path, how, number):
    rows = cells(GRID, acc=lambda a, b: a + b)
    claim = {"kind": "gap", "a": {"source": "cnn", "metric": "acc", **how}, "b": BEST, "relation": "below"}
    assert one(tmp_path, claim, rows).number.startswith(f"{number:.4f}, gap {number - 10:+.4f}"[:12])


def test_one_place_or_a_rule_that_chooses(tmp_path):
    rows = cells(GRID, acc=lambda a, b: a + b)
    claim = {"kind": "gap", "a": {"source": "cnn", "metric": "acc", "where": {"a": 2}}, "b": BEST, "relation": "near"}
    with pytest.raises(LackingError, match="5 places of cnn match: the claim needs reduce or where"):
        one(tmp_path, claim, rows)
    claim["a"]["where"]["b"] = 3
    assert one(tmp_path, claim, rows).number == "5.0000, gap -5.0000"


# -- where cells are lacking ------------------------------------------------------------------------------------------

FOUR = cells({"a": [1, 2], "b": [1, 2]}, acc=lambda a, b: a + b / 10, size=lambda a, b: a - b / 10)
DHCD = changed(FOUR, data="dhcd")
HOLE = {"state": "failed", "data": "", "select_on": ""}
RELATIONS = list(gap.RELATIONS)


def partial(rows):
    """The same with the last cell lacking."""
    return [*rows[:-1], *changed(rows[-1:], **HOLE)]


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(("reduce", "known"), [("max", 2.1), ("min", 1.1), ("mean", 1.5)])
def test_a_verdict_stands_where_no_value_of_the_cell_that_lacks_turns_it(tmp_path, reduce, known, relation):
    """Each of many values is put in its place, and the claim judged again."""
    quantity = {"source": "cnn", "metric": "acc", "reduce": reduce}
    for b in (known - 0.5, known, known + 0.5):
        claim = {"kind": "gap", "a": quantity, "b": b, "relation": relation, "tolerance": 0.2}
        found = judge(tmp_path, claim, "dhcd", cnn=partial(DHCD))
        filled = [[*DHCD[:-1], *changed(DHCD[-1:], acc=str(known + d))] for d in (-99, -2, -0.5, 0.5, 2, 99)]
        possible = {judge(tmp_path, claim, "dhcd", cnn=rows).answer for rows in filled}
        assert {found.answer} == (possible if len(possible) == 1 else {"undecided"})
        assert found.lacking == (("cnn",) if len(possible) > 1 else ())
        assert (gap.TURNED in found.lines) == (len(possible) > 1)


def test_a_negative_factor_turns_the_bound_round(tmp_path):
    claim = {"kind": "gap", "a": {**BEST, "factor": -1}, "relation": "at_most_near"}
    assert judge(tmp_path, {**claim, "b": -2.1}, "dhcd", cnn=partial(DHCD)).answer == "holds"
    assert judge(tmp_path, {**claim, "b": -2.9}, "dhcd", cnn=partial(DHCD)).answer == "undecided"


def test_the_other_number_moves_the_gap_the_other_way(tmp_path):
    claim = {"kind": "gap", "a": {"source": "base", "metric": "acc"}, "b": {**BEST}, "relation": "below"}
    rows = partial(FOUR)
    low, high = cells({}, acc=1.0), cells({}, acc=3.0)
    assert answer(tmp_path, claim, rows, base=low) == "holds"  # B can only rise
    assert answer(tmp_path, claim, rows, base=high) == "undecided"
    share = {**claim, "relative": True}  # a share of B, and B is not known
    assert answer(tmp_path, share, rows, base=low) == "undecided"
    assert answer(tmp_path, share, FOUR, base=low) == "holds"
    both = {**claim, "a": {"source": "other", "metric": "acc", "reduce": "max"}}
    assert answer(tmp_path, both, rows, other=partial(cells({"a": [1, 2]}, acc=1.0))) == "undecided"
    assert one(tmp_path, both, rows, other=partial(cells({"a": [1, 2]}, acc=1.0))).lacking == ("other", "cnn")


def test_the_best_place_may_be_one_that_lacks_and_a_place_that_is_named_is_not(tmp_path):
    best = {"kind": "gap", "a": {"source": "cnn", "metric": "size", "best": "acc"}, "relation": "at_most_near"}
    best |= {"b": {"source": "base", "metric": "size"}}
    base = cells({}, size=9)
    assert answer(tmp_path, best, FOUR, base=base) == "holds"
    assert answer(tmp_path, best, partial(FOUR), base=base) == "undecided"
    named = {**best, "a": {"source": "cnn", "metric": "size", "where": {"a": 1, "b": 2}}}
    assert answer(tmp_path, named, partial(FOUR), base=base) == "holds"


def test_a_number_that_lacks_is_a_cell_that_lacks(tmp_path):
    claim = {"kind": "gap", "a": BEST, "b": {"source": "base", "metric": "acc"}, "relation": "near"}
    rows = [*FOUR[:-1], *changed(FOUR[-1:], acc="nan")]
    assert answer(tmp_path, claim, rows, base=cells({}, acc=2.1)) == "undecided"
    assert answer(tmp_path, claim, rows, base=cells({}, acc=1.0)) == "does not hold"


def test_a_mean_over_fewer_seeds_is_no_bound(tmp_path):
    claim = {"kind": "gap", "a": BEST, "b": {"source": "base", "metric": "acc"}, "relation": "above"}
    rows = cells({"a": [1, 2], "seed": [0, 1]}, acc=lambda a, seed: a)
    base = cells({}, acc=1.5)
    assert answer(tmp_path, claim, rows, base=base) == "holds"
    assert answer(tmp_path, claim, partial(rows), base=base) == "undecided"
    assert answer(tmp_path, claim, [*rows, *changed(cells({"a": [3], "seed": [0]}, acc=1), **HOLE)], base=base) == (
        "holds"
    )


@given(st.sampled_from(RELATIONS), st.integers(-9, 9), st.integers(0, 5), st.booleans(), st.booleans())
def test_what_is_settled_has_one_answer_wherever_the_gap_moves(relation, start, tolerance, up, down):
    reach = [start, *(range(start, 30) if up else ()), *(range(-30, start) if down else ())]
    answers = {gap.holds(relation, each, tolerance) for each in reach}
    assert gap.settled(relation, start, tolerance, up, down) == (len(answers) == 1)
