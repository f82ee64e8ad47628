import pytest
from claims_fakes import cells, judge, protocol, protocols

from capsexp.analysis.claims.rules.base import ALONE, Learning, learning

GRID = {"a": [1, 2, 3], "b": [1, 2, 3]}
FLAT = {"kind": "flat", "source": "cnn", "metric": "test/acc", "where": {"a": {"min": 2}}}


def trained(rows, still, last=30):
    """The rows with epochs: the first ``still`` of them have their best epoch last."""
    return [row | {"training.epochs": last, "training.peak_epoch": last - (n >= still)} for n, row in enumerate(rows)]


def cells_of(tmp_path, rows):
    return protocols(tmp_path, cnn=rows)[protocol("digits")].part("cnn").cells


def test_who_was_still_learning(tmp_path):
    rows = cells(GRID, test__acc=0.5)
    assert learning(cells_of(tmp_path, trained(rows, 4))) == Learning(4, 9)
    assert learning(cells_of(tmp_path, rows)) == Learning(0, 0)
    some = [*trained(rows, 4)[:6], *({**row, "training.peak_epoch": ""} for row in trained(rows, 9)[6:])]
    assert learning(cells_of(tmp_path, some)) == Learning(4, 6)
    one_column = [{**row, "training.epochs": 30} for row in rows]
    assert learning(cells_of(tmp_path, one_column)) == Learning(0, 0)


def test_more_than_half_is_most():
    assert [Learning(still, 4).most for still in range(5)] == [False, False, False, True, True]
    assert not Learning(0, 0).most
    assert Learning(1, 1).most


@pytest.mark.parametrize(
    ("still", "known", "words"),
    [
        (0, 1, "0 of 1 cell was still learning when it ended"),
        (1, 4, "1 of 4 cells was still learning when it ended"),
        (0, 4, "0 of 4 cells were still learning when they ended"),
        (3, 4, "3 of 4 cells were still learning when they ended"),
    ],
)
def test_the_sentence(still, known, words):
    assert Learning(still, known).words() == words
    assert Learning(still, known).words("cnn") == words.replace(" was", " of `cnn` was").replace(
        " were", " of `cnn` were"
    )


def test_networks_cut_off_while_learning_refute_nothing(tmp_path):
    rows = cells(GRID, test__acc=lambda a, b: a / 10)
    assert judge(tmp_path, FLAT, cnn=trained(rows, 4)).answer == "does not hold"
    found = judge(tmp_path, FLAT, cnn=trained(rows, 6))  # those of a = 3 had ended
    assert (found.answer, found.number, found.lacking) == ("undecided", "drop 0.1000", ())
    assert found.lines[-1] == "not refuted, since 6 of 9 cells of `cnn` were still learning when they ended"
    alone = judge(tmp_path, FLAT, cnn=trained(rows, 5))  # and one of a = 2
    assert (alone.answer, alone.lines[-1]) == ("does not hold", ALONE)
    flat = cells(GRID, test__acc=0.5)
    assert judge(tmp_path, FLAT, cnn=trained(flat, 9)).answer == "holds"


def test_only_claims_about_accuracies_are_in_doubt(tmp_path):
    rows = trained(cells(GRID, val__acc=lambda a, b: a, distance=lambda a, b: a, size=lambda a, b: a), 9)
    verdicts = {metric: judge(tmp_path, {**FLAT, "metric": metric}, cnn=rows).answer for metric in ("distance", "size")}
    assert verdicts == {"distance": "does not hold", "size": "does not hold"}
    assert judge(tmp_path, {**FLAT, "metric": "val/acc"}, cnn=rows).answer == "undecided"
    pairs = [{"x": "distance", "y": "val/acc", "sign": "fall"}]
    assert judge(tmp_path, {"kind": "trend", "source": "cnn", "pairs": pairs}, cnn=rows).answer == "does not hold"


def test_each_side_is_looked_at_alone(tmp_path):
    ended, learns = trained(cells(GRID, test__acc=0.9), 0), trained(cells({}, test__acc=0.5, size=5), 1)
    claim = {"kind": "gap", "relation": "near", "b": {"source": "base", "metric": "test/acc"}}
    claim["a"] = {"source": "cnn", "metric": "test/acc", "reduce": "max"}
    found = judge(tmp_path, claim, cnn=ended, base=learns)  # 1 of 10 together
    assert found.answer == "undecided"
    assert found.lines[-1] == "not refuted, since 1 of 1 cell of `base` was still learning when it ended"
    assert judge(tmp_path, claim, cnn=ended, base=trained(learns, 0)).answer == "does not hold"


def test_every_rule_that_compares_accuracies_is_in_doubt(tmp_path):
    low, high = (trained(cells(GRID, test__acc=value), 9) for value in (0.5, 0.9))
    paired = {"kind": "paired", "a": "low", "b": "high", "metric": "test/acc"}
    for claimed in ("near", "every"):
        assert judge(tmp_path, {**paired, "claimed": claimed}, low=low, high=high).answer == "undecided"
    area = {"kind": "robust_area", "source": "low", "metric": "test/acc", "axes": ["a", "b"], "claimed": "none"}
    assert judge(tmp_path, area, low=low).answer == "undecided"
    walk = cells({"p": ["x", "y"], "seed": range(3)}, test__acc=lambda p, seed: (p == "y") + seed / 9)
    rank = {"kind": "rank", "source": "walk", "metric": "test/acc", "axis": "p", "best": "x", "against": ["y"]}
    assert judge(tmp_path, rank, walk=walk).answer == "does not hold"
    assert judge(tmp_path, rank, walk=trained(walk, 6)).answer == "undecided"
    best = {"kind": "gap", "relation": "below", "a": {"source": "cnn", "metric": "size", "best": "test/acc"}}
    best |= {"b": {"source": "cnn", "metric": "size", "reduce": "min"}}
    sizes = cells(GRID, test__acc=lambda a, b: a + b, size=lambda a, b: a * b)
    assert judge(tmp_path, best, cnn=trained(sizes, 9)).answer == "undecided"
    assert judge(tmp_path, best, cnn=trained(sizes, 4)).answer == "does not hold"


def test_a_largest_value_of_the_cells_that_ended_refutes_only_what_more_could_not_turn(tmp_path):
    rows = trained(cells(GRID, test__acc=lambda a, b: a / 10), 6)
    claim = {"kind": "gap", "relation": "near", "a": {"source": "cnn", "metric": "test/acc", "reduce": "max"}}
    claim["b"] = {"source": "base", "metric": "test/acc"}
    low, high = (trained(cells({}, test__acc=value), 0) for value in (0.1, 0.9))
    assert judge(tmp_path, claim, cnn=rows, base=low).answer == "does not hold"
    assert judge(tmp_path, claim, cnn=rows, base=high).answer == "undecided"
