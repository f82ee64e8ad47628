"""Checked models of YAML: pydantic's models with the one-line errors of the rest of the package."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails

from capsexp.analysis.claims import checks
from capsexp.errors import ConfigError, require_number

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class Strict(BaseModel):
    """A mapping with known keys alone and values of the stated types; a required key must not be null.

    A validator of a subclass raises :class:`ConfigError` with a key relative to its own place: ``""`` or ``".name"``.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _keys(cls, value: object) -> object:
        fields = cls.model_fields.items()
        needed = [name for name, field in fields if field.is_required()]
        return checks.mapping("", value, cls.model_fields.keys(), needed)


def _tuple(value: object) -> tuple[object, ...]:
    return tuple(item for _, item in checks.items("", value))


Many = Annotated[tuple[T, ...], BeforeValidator(_tuple)]
"""A list of YAML; null is an empty one."""
Number = Annotated[float, BeforeValidator(partial(require_number, ""))]
"""A finite number."""
AtLeast0 = Annotated[float, BeforeValidator(partial(require_number, "", minimum=0))]
"""A finite number that is not negative."""

RULES = {
    "string_type": "be a text",
    "bool_type": "be true or false",
    "missing": "be given",
    "tuple_type": "be a list",
    "list_type": "be a list",
    "dict_type": "be a mapping",
    "model_type": "be a mapping",
    "model_attributes_type": "be a mapping",
}
"""The rule that each type of pydantic's errors says is broken."""


def validated(model: type[M], key: str, value: object) -> M:
    """The checked form of a value.

    Args:
        model: the form.
        key: name of the value, before those of its parts.
        value: mappings, lists and scalars, as YAML gives them.

    Raises:
        ConfigError: the first rule that the value breaks, with the key of the part that breaks it.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _translated(error.errors(include_url=False)[0], key, value) from None


def _translated(error: ErrorDetails, key: str, value: object) -> ConfigError:
    """One of pydantic's errors as an error of the package."""
    loc, kind, context = error["loc"], error["type"], error.get("ctx", {})
    missing = kind == "missing"
    key += _path(loc, value, missing) or _path(loc[:-1], value, missing) or ""
    if isinstance(own := context.get("error"), ConfigError):
        return ConfigError(key + own.key, own.rule, own.value)
    if kind.startswith("union_tag"):
        name = _words(context["discriminator"])
        given = error["input"].get(name)
        rule = "be given" if given is None else f"be one of {_words(context['expected_tags'])}"
        return ConfigError(f"{key}.{name}", rule, given)
    rule = RULES.get(kind, error["msg"].removeprefix("Input should "))
    if kind == "literal_error":
        rule = f"be one of {_words(context['expected'])}"
    return ConfigError(key, rule, None if missing else error["input"])


def _path(loc: Sequence[int | str], value: Any, missing: bool) -> str | None:
    """The dotted path of a location, without the names of a union's members; None if its last part is no key.

    Args:
        loc: pydantic's location, in which a member's name may be a key of the mapping as well.
        value: the value that it is in.
        missing: True if the last part is a key that is not given.
    """
    if not loc:
        return ""
    part, rest = loc[0], loc[1:]
    path = None
    if isinstance(value, list) and isinstance(part, int):
        path = (f"[{part}]", value[part])
    elif isinstance(value, Mapping) and (part in value or (missing and not rest)):
        path = (f".{part}", value.get(part))
    if path and (inner := _path(rest, path[1], missing)) is not None:
        return path[0] + inner
    return _path(rest, value, missing) if rest else None


def _words(quoted: str) -> str:
    """The words that pydantic lists in quotes, with commas between them."""
    return ", ".join(re.findall(r"'([^']*)'", quoted))
