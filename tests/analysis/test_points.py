"""Points over seeds: one grouping and one statistic for reports, claims and the public table."""

from capsexp.analysis.cells import Cell, grouped, in_order, points_of


def cell(number: int, **axes: object) -> Cell:
    """A cell that is done."""
    return Cell(f"{number}", f"cell-{number}", axes, "done", None, None, {"metrics": {"acc": float(number)}})


def test_truth_values_numbers_texts_and_lists_are_different_values() -> None:
    values = [True, 1, 1.0, "true", "1", None, [1, 2], (1, 2), "[1, 2]", {"b": 1, "a": 2}, {"a": 2, "b": 1}, False, 0]
    groups = grouped([cell(place, a=value) for place, value in enumerate(values)], ["a"])
    # Equal numbers are one value, and so are lists and mappings of equal content.
    assert [[int(each.id) for each in group] for group in groups.values()] == [
        *([0], [1, 2], [3], [4], [5], [6, 7], [8], [9, 10], [11], [12])
    ]


def test_numbers_come_by_size_before_everything_else_by_its_text() -> None:
    values = ["b", 10, True, 2.5, "10", -1, None, [3]]
    found = [each.axes["a"] for each in in_order([cell(place, a=value) for place, value in enumerate(values)], ["a"])]
    assert found == [-1, 2.5, 10, "10", None, True, [3], "b"]
    assert found[5] is True


def test_a_swept_truth_value_is_not_averaged_with_the_number_one() -> None:
    cells = [cell(place, merge=merge, seed=seed) for place, (merge, seed) in enumerate([(True, 0), (1, 0), (True, 1)])]
    assert [(point.axes["merge"], point.stat("acc").mean) for point in points_of(cells, ["merge"])] == [
        (True, 1),
        (1, 1),
    ]
    assert [point.stat("acc").n for point in points_of(cells, ["merge"])] == [2, 1]
