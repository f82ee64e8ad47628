import pytest
from claims_fakes import cells, changed, judge
from hypothesis import given
from hypothesis import strategies as st

from capsexp.analysis.claims.evidence import LackingError
from capsexp.analysis.claims.rules import paired

GRID = {"a": list(range(1, 6)), "b": list(range(1, 6))}
PAIRED = {"kind": "paired", "a": "shared", "b": "normal", "metric": "acc"}
EVERY, NEAR = {**PAIRED, "claimed": "every"}, {**PAIRED, "claimed": "near"}


def test_every(tmp_path):
    normal = cells(GRID, acc=lambda a, b: a / 10)
    found = judge(tmp_path, EVERY, shared=cells(GRID, acc=lambda a, b: a / 10 + b / 100), normal=normal)
    assert (found.answer, found.number) == ("holds", "25 of 25")
    assert found.lines[0] == "mean difference +0.0300, standard deviation 0.0144, 25 pairs"
    equal = judge(tmp_path, EVERY, shared=cells(GRID, acc=lambda a, b: a / 10 + (b > 1)), normal=normal)
    assert (equal.answer, equal.number) == ("does not hold", "20 of 25")
    assert "the pair most against it: 0.0000 at a = 1, b = 1 (`a-1_b-1-" in equal.lines[2]


def test_every_is_refuted_by_one_pair_and_not_proved_by_few(tmp_path):
    few = {"a": [1, 2], "b": [1, 2]}
    normal = cells(few, acc=0.5)
    assert judge(tmp_path, EVERY, shared=cells(few, acc=0.6), normal=normal).answer == "undecided"
    worse = cells(few, acc=lambda a, b: 0.4 if a == b == 2 else 0.6)
    assert judge(tmp_path, EVERY, shared=worse, normal=normal).answer == "does not hold"


def test_near(tmp_path):
    shared = cells(GRID, acc=lambda a, b: 0.5 + (0.14 if (a, b) == (3, 3) else 0))
    found = judge(tmp_path, NEAR, shared=shared, normal=cells(GRID, acc=0.485))
    assert (found.answer, found.number) == ("does not hold", "mean +0.0206")
    assert "+0.1550 at a = 3, b = 3" in found.lines[2]
    assert judge(tmp_path, NEAR, shared=shared, normal=cells(GRID, acc=0.486)).answer == "holds"
    assert judge(tmp_path, NEAR, shared=shared, normal=cells(GRID, acc=0.53)).answer == "does not hold"
    few = {"a": [1], "b": [1, 2]}
    found = judge(tmp_path, NEAR, shared=cells(few, acc=0.5), normal=cells(few, acc=0.5))
    assert (found.answer, found.lacking) == ("undecided", ("shared", "normal"))


def test_cells_without_a_partner_are_left_out_and_seeds_are_averaged(tmp_path):
    shared = cells({**GRID, "seed": [0, 1]}, acc=lambda a, b, seed: a + b + seed)
    normal = cells({"b": [1, 2, 3, 4, 9], "a": [2, 3, 4, 5, 6], "seed": [0]}, acc=lambda b, a, seed: a + b)
    found = judge(tmp_path, EVERY, shared=shared, normal=normal)
    assert found.number == "16 of 16"
    assert "mean difference +0.5000, standard deviation 0.0000" in found.lines[0]
    assert "27 cells without a partner left out" in found.lines
    with pytest.raises(LackingError, match="no cell in common"):
        judge(tmp_path, EVERY, shared=shared, normal=cells({"a": [7], "b": [1]}, acc=0.5))


# -- over seeds -------------------------------------------------------------------------------------------------------

WALK = {"mode": ["remove", "merge"], "pruning": ["cosine", "magnitude", "random"], "steps": [0, 50], "seed": range(4)}
RANK = {
    "kind": "rank", "source": "walk", "metric": "acc", "axis": "pruning", "best": "cosine",
    "against": ["magnitude", "random"], "where": {"mode": "remove", "steps": 0},
}  # fmt: skip
LEVEL = {"cosine": 0.6, "magnitude": 0.5, "random": 0.3}


def rank(tmp_path, value, data="digits", axes=WALK, **keys):
    return judge(tmp_path, {**RANK, **keys}, data, walk=cells(axes, acc=value))


def test_rank(tmp_path):
    found = rank(
        tmp_path, lambda mode, pruning, steps, seed: LEVEL[pruning] + seed * (0.01 if pruning == "cosine" else 0)
    )
    assert found.answer == "holds"
    assert found.number == "against magnitude +0.1150, against random +0.3150"
    # differences .10, .11, .12, .13: deviation .01291, t(3) = 3.1824
    assert "mean difference +0.1150, [+0.0945, +0.1355], n = 4; greater in 4 of 4 pairs: holds" in found.lines[0]
    turned = rank(tmp_path, lambda mode, pruning, steps, seed: -LEVEL[pruning])
    assert turned.answer == "does not hold"
    assert turned.lines[0].endswith("greater in 0 of 4 pairs: does not hold")


def test_rank_fails_where_one_other_value_is_as_good(tmp_path):
    level = {**LEVEL, "magnitude": 0.6}
    found = rank(tmp_path, lambda mode, pruning, steps, seed: level[pruning] + (seed % 2) / 100 * (pruning == "random"))
    assert found.answer == "does not hold"
    noise = rank(tmp_path, lambda m, pruning, s, seed: level[pruning] + ((-1) ** seed) / 10 * (pruning == "magnitude"))
    assert (noise.answer, noise.lacking) == ("undecided", ("walk",))


def test_one_seed_decides_nothing(tmp_path):
    found = rank(tmp_path, lambda mode, pruning, steps, seed: LEVEL[pruning], axes={**WALK, "seed": [0]})
    assert found.answer == "undecided"
    assert "no interval from one seed, n = 1" in found.lines[0]
    axes = {key: values for key, values in WALK.items() if key != "seed"}
    assert rank(tmp_path, lambda mode, pruning, steps: LEVEL[pruning], axes=axes).answer == "undecided"
    with pytest.raises(LackingError, match="no finished cell of walk there"):
        rank(tmp_path, lambda *_: 0.5, axes={**WALK, "pruning": ["cosine", "magnitude"]})


def test_all_other_axes_are_equal_in_a_pair_and_the_seed_is_the_unit(tmp_path):
    gain = {("cosine", 0): 0.1, ("magnitude", 0): 0.2, ("random", 0): 0.3}
    keys = {"axis": "mode", "best": "merge", "against": ["remove"], "where": {"steps": 0}}
    found = rank(
        tmp_path, lambda mode, pruning, steps, seed: seed + (mode == "merge") * gain.get((pruning, steps), 9), **keys
    )
    assert found.number == "against remove +0.2000"
    assert "[+0.2000, +0.2000], n = 4; greater in 12 of 12 pairs: holds" in found.lines[0]


def test_above(tmp_path):
    level = {"remove": 0.5, "merge": 0.7, "reinit": 0.55}
    claim = {
        "kind": "paired", "metric": "acc", "claimed": "above", "by": ["seed"],
        "a": {"source": "walk", "where": {"mode": ["remove", "merge"], "steps": 50}},
        "b": {"source": "walk", "where": {"mode": "reinit"}},
    }  # fmt: skip
    axes = {**WALK, "mode": list(level)}
    value = lambda mode, pruning, steps, seed: level[mode] + seed / 10 + steps / 1000 * (mode != "reinit")  # noqa: E731
    rows = cells(axes, acc=value)
    found = judge(tmp_path, claim, walk=rows)
    assert (found.answer, found.number) == ("holds", "+0.1000")
    # one cell of seed 3 has failed: the means of that seed would be over other cells, so it is out
    failed = [
        changed([row], state="failed")[0]
        if row["cell"].startswith("mode-merge_pruning-random_steps-50_seed-3")
        else row
        for row in rows
    ]
    found = judge(tmp_path, claim, walk=failed)
    assert found.answer == "holds"
    assert "n = 3" in found.lines[0]
    assert "11 cells without a partner left out" in found.lines[0]
    shared, normal = (cells({"a": [1, 2], "seed": range(3)}, acc=lambda a, s, up=up: a + s * up) for up in (0.2, 0.1))
    assert judge(tmp_path, {**PAIRED, "claimed": "above"}, shared=shared, normal=normal).number == "+0.1000"


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (None, "undecided"),
        ((0.001, 0.5), "holds"),
        ((-0.5, -0.001), "does not hold"),
        ((-0.5, 0.0), "undecided"),
        ((-0.02, 0.02), "does not hold"),
        ((-0.01, 0.03), "undecided"),
        ((-0.03, 0.01), "undecided"),
    ],
)
def test_a_lead(interval, expected):
    assert paired.lead(interval, 0.02) == expected


@given(st.floats(-1, 1), st.floats(0, 1), st.floats(0, 0.5))
def test_nobody_leads_in_both_directions(middle, half, tolerance):
    ours, theirs = (paired.lead((sign * middle - half, sign * middle + half), tolerance) for sign in (1, -1))
    assert (ours, theirs) != ("holds", "holds")
    assert (ours == "holds") <= (theirs == "does not hold")
    assert (ours == "undecided") == (theirs == "undecided")
