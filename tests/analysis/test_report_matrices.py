"""Matrices: order, halves and colours of what is drawn, and where the classes stand along the axes."""

import array_fakes
import numpy as np
import pytest

from capsexp.analysis.arrays import ArrayError
from capsexp.analysis.figures import class_ticks
from capsexp.analysis.figures.matrix import arrange, draw_matrix, scale
from capsexp.analysis.figures.style import Caption

CAPTION = Caption("name", "Title")
LABELS = np.array([2, 0, 1, 0, 2])
VALUES = np.add.outer(np.arange(5.0), 10 * np.arange(5.0))


def test_images_stay_in_order_unless_sorted():
    shown = arrange(VALUES, LABELS)
    np.testing.assert_array_equal(shown.values, VALUES)
    assert (list(shown.classes), shown.runs) == ([2, 0, 1, 0, 2], False)


def test_sorting_moves_rows_and_columns_and_keeps_the_order_within_a_class():
    shown = arrange(VALUES, LABELS, sort=True)
    order = [1, 3, 2, 0, 4]
    for row, old_row in enumerate(order):
        for column, old_column in enumerate(order):
            assert shown.values[row, column] == VALUES[old_row, old_column]
    assert (list(shown.classes), shown.runs) == ([0, 0, 1, 2, 2], True)


def test_a_triangle_is_the_lower_half_of_what_was_sorted():
    symmetric = VALUES + VALUES.T
    whole = arrange(symmetric, LABELS, sort=True).values
    shown = arrange(symmetric, LABELS, sort=True, triangle=True)
    for row in range(5):
        for column in range(5):
            value = shown.values[row, column]
            assert np.isnan(value) if column > row else value == whole[row, column]
    assert not shown.missing.any()
    assert shown.mirrored
    assert not arrange(VALUES, triangle=True).mirrored


def test_holes_are_values_that_should_be_there():
    values = VALUES.copy()
    values[3, 1] = values[1, 3] = np.inf
    assert np.argwhere(arrange(values, triangle=True).missing).tolist() == [[3, 1]]
    assert np.argwhere(arrange(values).missing).tolist() == [[1, 3], [3, 1]]
    upper = np.where(np.triu(np.ones((3, 3)), 1) > 0, 1.0, np.nan)
    with pytest.raises(ArrayError, match="no finite value"):
        arrange(upper, triangle=True)


@pytest.mark.parametrize(
    ("values", "limits", "norm", "colours", "ends"),
    [
        ([0.1, 0.9], None, (0.1, 0.9), "viridis", (0.1, 0.9)),
        ([-0.2, 0.9], None, (-0.9, 0.9), "RdBu_r", (-0.2, 0.9)),
        ([0.1, 0.9], (-1.0, 1.0), (-1.0, 1.0), "RdBu_r", (-1.0, 1.0)),
        ([-0.9, -0.1], None, (-0.9, -0.1), "viridis", (-0.9, -0.1)),
        ([0.0, 0.0], None, (-0.5, 0.5), "RdBu_r", (-0.5, 0.5)),
        ([2.0, np.nan], None, (1.9, 2.1), "viridis", (1.9, 2.1)),
    ],
)
def test_colours(values, limits, norm, colours, ends):
    found, name, shown = scale(np.array([values]), limits)
    np.testing.assert_allclose((found.vmin, found.vmax), norm)
    assert name == colours
    np.testing.assert_allclose(shown, ends)


def test_the_note_says_what_a_reader_cannot_see():
    symmetric = VALUES + VALUES.T
    assert draw_matrix(VALUES, CAPTION).note == ""
    assert draw_matrix(symmetric, CAPTION, triangle=True).note == "The upper half is the same, mirrored."
    assert draw_matrix(VALUES, CAPTION, triangle=True).note == "The upper half differs and is left out."
    assert draw_matrix(VALUES, CAPTION, limits=(0, 40)).note == "Values below 0 or above 40 have the colour of that."
    assert draw_matrix(np.array([[np.nan, 1.0]]), CAPTION).note == "Hatched: no finite value."
    assert draw_matrix(np.array([[np.nan] + [1.0] * 50]), CAPTION).note == "Grey: no finite value."


def test_drawing_changes_no_array():
    found = array_fakes.arrays(components=1)
    before = {name: values.copy() for name, values in found.items()}
    labels = found["correlation/images/labels"]
    draw_matrix(found["correlation/images"], CAPTION, labels=labels, sort=True, triangle=True)
    assert all(np.array_equal(found[name], before[name]) for name in found)


# -- the classes along the axes ---------------------------------------------------------------------------------------


def test_runs_of_one_class():
    assert class_ticks.blocks([0, 0, 1, 2, 2, 0]) == [(0, 0, 2), (1, 2, 3), (2, 3, 5), (0, 5, 6)]
    assert class_ticks.blocks([]) == []


def test_texts_that_would_touch_go_to_the_next_line():
    assert class_ticks.lines([0, 1, 2, 3, 10], 2) == [0, 1, 0, 1, 0]
    assert class_ticks.lines([0, 0.5, 1, 1.5], 1.5) == [0, 1, 2, 0]
    assert class_ticks.lines([0, 5], 2) == [0, 0]


@pytest.mark.parametrize("across", [True, False])
@pytest.mark.parametrize("classes", [10, 46])
@pytest.mark.parametrize("runs", [True, False])
def test_marks_name_every_image_or_run_and_keep_apart(classes, across, runs):
    labels = array_fakes.arrays(classes, components=1)["correlation/images/labels"]
    labels = sorted(labels.tolist()) if runs else labels.tolist()
    found = class_ticks.marks(labels, 6.8, runs=runs, across=across)
    assert [text for text, _, _ in found.texts] == [str(c) for c in (sorted(set(labels)) if runs else labels)]
    letters = max(len(text) for text, _, _ in found.texts)
    least = (0.62 * letters if across else 1.0) * found.size / 72
    for line in {line for _, _, line in found.texts}:
        places = [place for _, place, each in found.texts if each == line]
        assert min(np.diff(places), default=9) * 6.8 / 100 > least
    assert found.inches < 0.6
