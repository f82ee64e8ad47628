"""Learning curves: means and bands against plain numpy, panels, and trainings of different length."""

import array_fakes
import numpy as np
import pytest
from report_fakes import BLOCK, accuracy, finish, sweep

from capsexp import records
from capsexp.analysis import drawing, history, panels, results
from capsexp.analysis.arrays import ArrayError
from capsexp.analysis.figures import epochs
from capsexp.analysis.figures.style import Caption
from capsexp.analysis.measures import usual
from capsexp.analysis.spec import Spec, parse

EPOCHS = {"kind": "epochs", "name": "epo", "metrics": ["train/acc", "val/acc"], "by": "routing"}
LENGTHS = (6, 9, 7, 8, 9, 5)


def written(root, axes, figure=EPOCHS):
    """Cells with learning curves of different lengths; also those curves, cell by cell."""
    kept = []
    for seed, cell in enumerate(sweep(root, axes, {**BLOCK, "figures": [figure]})):
        kept.append(array_fakes.learning(seed, LENGTHS[seed % 6]))
        array_fakes.history(finish(root, cell, accuracy(cell)), kept[-1])
    return kept


def drawn(root):
    read = results.read(root)
    return drawing.draw_all(parse(read.sweep.report), read)


def test_means_and_bands_against_numpy():
    lines = [np.array([0.1, 0.5, 0.7]), np.array([0.3, 0.6]), np.array([0.2, np.nan, 0.9, 1.0])]
    mean, spread = epochs.mean_and_spread(lines)
    at = [[0.1, 0.3, 0.2], [0.5, 0.6], [0.7, 0.9], [1.0]]
    np.testing.assert_allclose(mean, [np.mean(values) for values in at])
    np.testing.assert_allclose(spread[:3], [np.std(values, ddof=1) for values in at[:3]])
    assert np.isnan(spread[3])
    mean, spread = epochs.mean_and_spread([np.array([np.nan, 2.0])])
    np.testing.assert_array_equal(mean, [np.nan, 2.0])
    assert np.isnan(spread).all()


def test_the_drawn_lines_are_those_means(tmp_path, monkeypatch):
    kept = written(tmp_path, {"routing": ["dynamic", "max_min"], "seed": [0, 1, 2]})
    seen = {}
    monkeypatch.setattr(epochs, "draw_curves", lambda groups, words, **texts: seen.update(groups, words=words, **texts))
    drawn(tmp_path)
    assert list(seen) == ["routing = dynamic", "routing = max_min", "words", "x_label", "y_label", "measures"]
    for head, own in (("routing = dynamic", kept[:3]), ("routing = max_min", kept[3:])):
        for name, metric in (("training accuracy", "train/acc"), ("validation accuracy", "val/acc")):
            assert [line.tolist() for line in seen[head][name]] == [curve[metric] for curve in own]
    assert seen["y_label"] == "accuracy (share)"
    assert seen["words"].parts[-2:] == ("here: data digits, model chosen on val", "n = 3")


def test_different_lengths_are_said(tmp_path):
    written(tmp_path, {"routing": ["dynamic", "max_min"], "seed": [0, 1, 2]})
    (picture,), problems = drawn(tmp_path)
    assert picture.note == "The trainings ended after 5 to 9 epochs; each mean is of those that still ran."
    assert problems == []
    assert epochs.lengths_note([np.ones(4), np.ones(4)]) == ""


def test_other_axes_give_pictures_of_their_own(tmp_path):
    axes = {"data": ["digits", "mnist"], "routing": ["dynamic", "max_min"], "seed": [0, 1]}
    written(tmp_path, axes)
    assert [picture.name for picture in drawn(tmp_path)[0]] == ["epo_digits", "epo_mnist"]
    written(tmp_path / "no", axes, {key: value for key, value in EPOCHS.items() if key != "by"})
    pictures, _ = drawn(tmp_path / "no")
    assert [picture.name[4:] for picture in pictures] == [
        "digits_dynamic",
        "digits_max-min",
        "mnist_dynamic",
        "mnist_max-min",
    ]


def test_cells_without_curves_are_said_and_the_others_drawn(tmp_path):
    written(tmp_path, {"routing": ["dynamic", "max_min"], "seed": [0, 1, 2]})
    first, second, *others = sorted(tmp_path.glob(f"*/{records.METRICS}"))
    first.unlink()
    second.write_text("epoch,val/loss\n1,0.5\n")
    (picture,), (problem,) = drawn(tmp_path)
    assert picture.name == "epo"
    assert problem == f"epo: {first.parent.name}: no readable metrics.csv (and 1 more)"
    for file in others:
        file.write_text("epoch,train/acc,val/acc\n1,,\n")
    pictures, (problem,) = drawn(tmp_path)
    assert pictures == []
    assert "\n" not in problem


def test_a_metric_that_a_training_did_not_record_is_a_hole(tmp_path, monkeypatch):
    """A network without intermediate layers has no share of dead capsules."""
    figure = {"kind": "epochs", "name": "epo", "metrics": ["val/acc", "capsules/dead_share"], "by": "depth"}
    for cell in sweep(tmp_path, {"depth": [0, 1], "seed": [0, 1]}, {**BLOCK, "figures": [figure]}):
        dead = {"capsules/dead_share": [0.1, 0.2]} if cell.axes["depth"] and cell.axes["seed"] else {}
        array_fakes.history(finish(tmp_path, cell, 0.5), {"val/acc": [0.5, 0.6], **dead})
    seen = []
    monkeypatch.setattr(epochs, "draw_curves", lambda *given, **texts: seen.append((*given, texts)))
    assert drawn(tmp_path)[1] == []
    ((groups, words, texts),) = seen
    found = {head: {name: len(each) for name, each in group.items()} for head, group in groups.items()}
    assert found == {
        "depth = 0": {"validation accuracy": 2, "dead capsules": 0},
        "depth = 1": {"validation accuracy": 2, "dead capsules": 1},
    }
    assert groups["depth = 1"]["dead capsules"][0].tolist() == [0.1, 0.2]
    assert words.note == "Not recorded in 3 of 4 trainings: dead capsules."
    assert texts["y_label"] == "share"


@pytest.mark.parametrize("content", [b"", b"epoch\n", b"\xff\xfe\x00", b"epoch,val/acc\n1,\n", b'"epoch\n\x00'])
def test_damaged_histories(tmp_path, content):
    (tmp_path / records.METRICS).write_bytes(content)
    with pytest.raises(ArrayError):
        history.read_history(tmp_path, ["val/acc"])


def test_numbers_that_are_not_finite_become_gaps(tmp_path):
    (tmp_path / records.METRICS).write_text("epoch,val/acc\n1,0.5\n2,nan\n3,inf\n4,word\n5\n6,0.7\n")
    found = history.read_history(tmp_path, ["val/acc"])["val/acc"]
    np.testing.assert_array_equal(found, [0.5, np.nan, np.nan, np.nan, np.nan, 0.7])


@pytest.mark.parametrize(
    ("metrics", "label"),
    [
        (["train/acc", "val/acc"], "accuracy (share)"),
        (["val/acc"], "validation accuracy (share)"),
        (["train/loss", "val/loss"], "loss"),
        (["val/acc", "capsules/layer3/dead_share"], "share"),
        (["train/loss", "val/acc"], ""),
        (["a/b", "c/d"], ""),
    ],
)
def test_the_label_is_what_metrics_share(metrics, label):
    assert epochs.shared_label([usual(metric) for metric in metrics]) == label


@pytest.mark.parametrize(("groups", "columns"), [(1, 1), (4, 4), (5, 3), (6, 3), (7, 4), (12, 4)])
def test_panels_wrap_and_do_not_overlap(groups, columns):
    layout = epochs.Layout(groups, 0.36, 1.0)
    assert layout.columns == columns
    corners = [layout.corner(place) for place in range(groups)]
    wide, tall = layout.size
    for left, down in corners:
        assert down <= layout.height
        assert left + wide <= layout.right + 1e-9
        others = [corner for corner in corners if corner != (left, down)]
        assert all(abs(left - x) >= wide or abs(down - y) >= tall for x, y in others)


def test_one_epoch_and_one_training_are_drawn():
    groups = {"": {"training loss": [np.array([0.5])], "validation loss": []}}
    picture = epochs.draw_curves(groups, Caption("name", "Title"))
    assert (picture.png[:4], picture.note) == (b"\x89PNG", "")


def test_panels_of_epochs_need_no_metric(tmp_path):
    written(tmp_path, {"routing": ["dynamic"], "seed": [0]})
    read = results.read(tmp_path)
    spec = Spec(figures=parse({"figures": [EPOCHS]}).figures)
    (panel,), problem = panels.panels(spec.figures[0], spec, read)
    assert (panels.shape(panel), problem) == ("epochs", "")
