import pytest

from capsexp.analysis.claims.evidence import TableError
from capsexp.analysis.claims.paper import Paper, load
from capsexp.analysis.validation import validated
from capsexp.errors import ConfigError

SMALL = {
    "title": "t", "source": "s", "paper_data": "dhcd", "tolerance": 0.02,
    "sources": {"cnn": {"folder": "cnn_prune", "command": "c {data}", "what": "w"}},
    "claims": [{"name": "n", "statement": "s", "paper": "p", "kind": "gap", "relation": "near", "b": 1,
                "a": {"source": "cnn", "metric": "acc", "reduce": "max"}}],
}  # fmt: skip
BASE = {"name": "n", "statement": "s", "paper": "p"}


def test_a_small_file_is_whole():
    (claim,) = validated(Paper, "x", SMALL).claims
    assert (claim.name, claim.note, claim.sources, claim.tolerance) == ("n", None, ("cnn",), 0.02)


def wrong_claim(**keys):
    return {"claims": [{**BASE, **keys}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"titel": "t"}, "x.titel must be one of claims, columns"),
        ({"tolerance": -1}, "x.tolerance must be a number in"),
        ({"title": None}, "x.title must be given"),
        ({"columns": {"acc": {"digit": 3}}}, "x.columns.acc.digit must be one of binary, digits, label, unit"),
        ({"sources": {"cnn": {"folder": "f", "command": "c"}}}, "x.sources.cnn.what must be given"),
        ({"sources": {"other": SMALL["sources"]["cnn"]}}, "x.claims[0]: source must be one of other, got 'cnn'"),
        ({"claims": SMALL["claims"] * 2}, "x.claims must have every name once"),
        (wrong_claim(kind="vote"), "x.claims[0].kind must be one of flat, trend, gap, paired, rank, robust_area"),
        (wrong_claim(kind="flat", source="cnn", metric="acc"), "x.claims[0].where must be given"),
        (wrong_claim(kind="flat", source="cnn", metric="acc", where={}), "x.claims[0].where must name a region"),
        (
            wrong_claim(kind="flat", source="cnn", metric="a", where={"c": 1}, sign="x"),
            "x.claims[0].sign must be one of",
        ),
        (wrong_claim(kind="trend", source="cnn", pairs=[]), "pairs must name at least one pair"),
        (
            wrong_claim(kind="trend", source="cnn", pairs=[{"x": "a", "y": "b", "sign": "up"}]),
            "pairs[0].sign must be one",
        ),
        (wrong_claim(kind="gap", a=1, b=1, relation="near"), "x.claims[0].a must name a source"),
        (wrong_claim(kind="gap", a={"source": "cnn", "metric": "a"}, b="1", relation="near"), "b must be a number"),
        (wrong_claim(kind="gap", a={"source": "cnn", "metric": "a"}, b=1, relation="like"), "relation must be one of"),
        (
            wrong_claim(kind="gap", a={"source": "cnn", "metric": "a", "reduce": "last"}, b=1, relation="near"),
            "a.reduce must",
        ),
        (
            wrong_claim(kind="paired", a="cnn", b="cnn", metric="a", claimed="most"),
            "claimed must be one of every, near",
        ),
        (
            wrong_claim(kind="rank", source="cnn", metric="a", axis="p", best="x", against=["x"]),
            "name the other values",
        ),
        (
            wrong_claim(kind="robust_area", source="cnn", metric="a", axes=["p"], claimed="none"),
            "axes must be two axes",
        ),
    ],
)
def test_a_wrong_file_is_one_line(changes, message):
    with pytest.raises(ConfigError) as error:
        validated(Paper, "x", {**SMALL, **changes})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_yaml(tmp_path):
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(TableError, match="is no YAML"):
        load(str(tmp_path / "x.yaml"))
