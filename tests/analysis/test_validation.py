"""Pydantic's errors become the one-line errors of the package, with key, rule and value."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from capsexp.analysis.validation import AtLeast0, ByKind, Conditions, Model, Number, validated
from capsexp.errors import ConfigError, require


class Circle(Model):
    kind: Literal["circle"]
    radius: AtLeast0


class Text(Model):
    kind: Literal["text"]
    text: str
    bold: bool = False
    at: list[Number] = Field(default=[])
    colour: Literal["red", "blue"] = "red"

    @field_validator("text")
    @classmethod
    def _allowed(cls, text: str) -> str:
        require(text != "no", "", "not be no", text)
        return text


class Page(Model):
    shapes: list[Annotated[Model, ByKind(lambda: {"circle": Circle, "text": Text})]]
    named: dict[str, Circle] = Field(default_factory=dict)
    size: int = 1
    note: str | None = None
    where: Conditions = Field(default={})


class Plain(BaseModel):
    model_config = ConfigDict(strict=True)
    a: int


CIRCLE = {"kind": "circle", "radius": 1}


def test_a_right_value() -> None:
    found = validated(Page, "page", {"shapes": [CIRCLE, {"kind": "text", "text": "x", "at": [1]}]})
    assert found.shapes == [Circle(kind="circle", radius=1.0), Text(kind="text", text="x", at=[1.0])]
    assert validated(Page, "page", {"shapes": found.shapes}) == found


def test_null_is_a_key_that_is_left_out() -> None:
    nulls = dict.fromkeys(["bold", "at", "colour"])
    found = validated(Page, "page", {"shapes": [{"kind": "text", "text": "x", **nulls}], "named": None, "size": None})
    assert found == validated(Page, "page", {"shapes": [{"kind": "text", "text": "x"}]})
    assert (found.shapes, found.named, found.size) == ([Text(kind="text", text="x", colour="red")], {}, 1)
    assert found.shapes[0].model_fields_set == {"kind", "text"}


def test_null_is_a_value_where_it_is_the_keys_default() -> None:
    assert "note" in validated(Page, "page", {"shapes": [], "note": None}).model_fields_set


def test_a_null_end_is_no_bound() -> None:
    open_ended = validated(Page, "page", {"shapes": [], "where": {"a": {"min": 2, "max": None}, "b": None}}).where
    assert (open_ended["a"].minimum, open_ended["a"].maximum, open_ended["b"].values) == (2.0, None, (None,))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "page must be a mapping, got None"),
        ([], "page must be a mapping, got []"),
        ({"shape": []}, "page.shape must be one of named, note, shapes, size, where, got 'shape'"),
        ({}, "page.shapes must be given, got None"),
        ({"shapes": None}, "page.shapes must be given, got None"),
        ({"shapes": CIRCLE}, f"page.shapes must be a list, got {CIRCLE!r}"),
        ({"shapes": [3]}, "page.shapes[0] must be a mapping, got 3"),
        ({"shapes": [{}]}, "page.shapes[0].kind must be given, got None"),
        ({"shapes": [{"kind": None}]}, "page.shapes[0].kind must be given, got None"),
        ({"shapes": [{"kind": 5}]}, "page.shapes[0].kind must be one of circle, text, got 5"),
        ({"shapes": [{"kind": "square"}]}, "page.shapes[0].kind must be one of circle, text, got 'square'"),
        ({"shapes": [{"kind": "circle"}]}, "page.shapes[0].radius must be given, got None"),
        ({"shapes": [{**CIRCLE, "text": 1}]}, "page.shapes[0].text must be one of kind, radius, got 'text'"),
        ({"shapes": [CIRCLE, {**CIRCLE, "radius": -1}]}, "page.shapes[1].radius must be a number in [0, inf], got -1"),
        ({"shapes": [{"kind": "text", "text": 5}]}, "page.shapes[0].text must be a text, got 5"),
        ({"shapes": [{"kind": "text", "text": "no"}]}, "page.shapes[0].text must not be no, got 'no'"),
        ({"shapes": [{"kind": "text", "text": "x", "bold": 1}]}, "page.shapes[0].bold must be true or false, got 1"),
        (
            {"shapes": [{"kind": "text", "text": "x", "at": [1, True]}]},
            "page.shapes[0].at[1] must be a number in [-inf, inf], got True",
        ),
        ({"shapes": [], "named": {"a": {**CIRCLE, "kind": "c"}}}, "page.named.a.kind must be one of circle, got 'c'"),
        (
            {"shapes": [{"kind": "text", "text": "x", "colour": "green"}]},
            "page.shapes[0].colour must be one of red, blue, got 'green'",
        ),
        ({"shapes": [{"kind": None, "text": "x"}], "size": None}, "page.shapes[0].kind must be given, got None"),
        ({"shapes": [{**CIRCLE, "radius": None}]}, "page.shapes[0].radius must be given, got None"),
        ({"shapes": [], "named": []}, "page.named must be a mapping, got []"),
        ({"shapes": [], "where": 3}, "page.where must be a mapping, got 3"),
        ({"shapes": [], "where": {"a": {}}}, "page.where.a must name min, max or both, got {}"),
        ({"shapes": [], "where": {"a": {"min": None}}}, "page.where.a must name min, max or both, got {'min': None}"),
        ({"shapes": [], "where": {"a": {"low": 1}}}, "page.where.a.low must be one of max, min, got 'low'"),
        ({"shapes": [], "where": {"a": {"min": "1"}}}, "page.where.a.min must be a number in [-inf, inf], got '1'"),
        ({"shapes": [], "size": "5"}, "page.size must be a valid integer, got '5'"),
        ({"shapes": [{}], "sizes": 5}, "page.sizes must be one of named, note, shapes, size, where, got 'sizes'"),
        ({"shapes": [{}], "size": "5"}, "page.shapes[0].kind must be given, got None"),
    ],
)
def test_the_first_broken_rule_is_one_line(value: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        validated(Page, "page", value)
    assert str(error.value) == message


def test_a_model_of_another_base_says_what_is_missing_too() -> None:
    with pytest.raises(ConfigError, match=r"x\.a must be given, got None"):
        validated(Plain, "x", {})
