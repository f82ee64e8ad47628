"""Pydantic's errors become the one-line errors of the package, with key, rule and value."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from capsexp.analysis.claims.validation import AtLeast0, Many, Number, Strict, validated
from capsexp.errors import ConfigError, require


class Circle(Strict):
    form: Literal["circle"]
    radius: AtLeast0


class Text(Strict):
    form: Literal["text"]
    text: str
    bold: bool = False
    at: Many[Number] = ()

    @field_validator("text")
    @classmethod
    def _allowed(cls, text: str) -> str:
        require(text != "no", "", "not be no", text)
        return text


class Page(Strict):
    shapes: Many[Annotated[Circle | Text, Field(discriminator="form")]]
    named: dict[str, Circle] = Field(default_factory=dict)
    size: int = 1


class Plain(BaseModel):
    model_config = ConfigDict(strict=True)
    a: int


CIRCLE = {"form": "circle", "radius": 1}


def test_a_right_value() -> None:
    found = validated(Page, "page", {"shapes": [CIRCLE, {"form": "text", "text": "x", "at": None}]})
    assert found.shapes == (Circle(form="circle", radius=1.0), Text(form="text", text="x"))
    assert found.shapes[1].at == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "page must be a mapping, got None"),
        ([], "page must be a mapping, got []"),
        ({"shape": []}, "page.shape must be one of named, shapes, size, got 'shape'"),
        ({}, "page.shapes must be given, got None"),
        ({"shapes": None}, "page.shapes must be given, got None"),
        ({"shapes": CIRCLE}, f"page.shapes must be a list, got {CIRCLE!r}"),
        ({"shapes": [3]}, "page.shapes[0] must be a mapping, got 3"),
        ({"shapes": [{}]}, "page.shapes[0].form must be given, got None"),
        ({"shapes": [{"form": None}]}, "page.shapes[0].form must be given, got None"),
        ({"shapes": [{"form": 5}]}, "page.shapes[0].form must be one of circle, text, got 5"),
        ({"shapes": [{"form": "square"}]}, "page.shapes[0].form must be one of circle, text, got 'square'"),
        ({"shapes": [{"form": "circle"}]}, "page.shapes[0].radius must be given, got None"),
        ({"shapes": [{**CIRCLE, "text": 1}]}, "page.shapes[0].text must be one of form, radius, got 'text'"),
        ({"shapes": [CIRCLE, {**CIRCLE, "radius": -1}]}, "page.shapes[1].radius must be a number in [0, inf], got -1"),
        ({"shapes": [{"form": "text", "text": 5}]}, "page.shapes[0].text must be a text, got 5"),
        ({"shapes": [{"form": "text", "text": "no"}]}, "page.shapes[0].text must not be no, got 'no'"),
        ({"shapes": [{"form": "text", "text": "x", "bold": 1}]}, "page.shapes[0].bold must be true or false, got 1"),
        (
            {"shapes": [{"form": "text", "text": "x", "at": [1, True]}]},
            "page.shapes[0].at[1] must be a number in [-inf, inf], got True",
        ),
        ({"shapes": [], "named": {"a": {**CIRCLE, "form": "c"}}}, "page.named.a.form must be one of circle, got 'c'"),
        ({"shapes": [], "size": "5"}, "page.size must be a valid integer, got '5'"),
        ({"shapes": [{}], "size": "5"}, "page.shapes[0].form must be given, got None"),
    ],
)
def test_the_first_broken_rule_is_one_line(value: object, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        validated(Page, "page", value)
    assert str(error.value) == message


def test_a_model_of_another_base_says_what_is_missing_too() -> None:
    with pytest.raises(ConfigError, match=r"x\.a must be given, got None"):
        validated(Plain, "x", {})
