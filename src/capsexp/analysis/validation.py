"""Models of what users write in YAML, and the one place where pydantic's errors become one line for the user.

``report:`` blocks and files of claims are made of the same models and types of fields.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import ModuleType
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from capsexp.analysis.conditions import Condition
from capsexp.analysis.measures import Measure, usual
from capsexp.errors import ConfigError, require, require_int, require_number

M = TypeVar("M", bound=BaseModel)
UNKNOWN = "unknown_key"
TRUST = "trust"
"""Key of the validation's context: whether the modules of dotted kinds are imported."""

RULES = {
    "missing": "be given",
    "string_type": "be a text",
    "bool_type": "be true or false",
    "list_type": "be a list",
    "dict_type": "be a mapping",
}
"""The rules that pydantic checks by itself, by the type of its error."""


class Model(BaseModel):
    """A mapping with fixed keys; null counts as a key that is left out, unless null is one of the key's values."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: object) -> object:
        raw, fields = named(value), cls.model_fields
        for name in raw:
            if name not in fields:
                rule = f"be one of {', '.join(sorted(fields))}"
                raise PydanticCustomError(UNKNOWN, "{rule}", {"rule": rule, "key": name})
        return {name: item for name, item in raw.items() if item is not None or fields[name].default is None}


def validated(model: type[M], key: str, value: object, *, trust: bool = False) -> M:
    """A value as a model.

    Args:
        model: the model.
        key: the value's key, as the user knows it.
        value: the content of a YAML file, in plain types.
        trust: True if a kind may be the dotted name of a module, which is imported (see :class:`ByKind`).

    Raises:
        ConfigError: the first violation: a key that is unknown, missing, of a wrong type, or breaks another rule.
    """
    try:
        return model.model_validate(value, context={TRUST: trust})
    except ValidationError as error:
        raise _first(error, key) from None


def _first(error: ValidationError, key: str) -> ConfigError:
    details = min(error.errors(include_url=False), key=_rank)
    for part in details["loc"]:
        key = joined(key, f"[{part}]" if isinstance(part, int) else part)
    kind, context = details["type"], details.get("ctx", {})
    match kind, context.get("error"):
        case _, ConfigError() as broken:
            return ConfigError(joined(key, broken.key), broken.rule, broken.value)
        case "unknown_key", _:
            return ConfigError(joined(key, context["key"]), context["rule"], context["key"])
        case "literal_error", _:
            choices = context["expected"].replace("'", "").replace(" or ", ", ")
            return ConfigError(key, f"be one of {choices}", details["input"])
    rule = RULES.get(kind, details["msg"].removeprefix("Input should "))
    return ConfigError(key, rule, None if kind == "missing" else details["input"])


def _rank(details: ErrorDetails) -> tuple[int, str]:
    """The order in which violations are reported; of several missing keys the first by its name."""
    kind, broken = details["type"], details.get("ctx", {}).get("error")
    if kind == "missing":
        return 1, str(details["loc"][-1])
    if isinstance(broken, ConfigError) and broken.rule == RULES["missing"]:
        return 1, broken.key
    return 0 if kind == UNKNOWN else 3 if kind == "value_error" else 2, ""


def joined(key: str, part: str) -> str:
    """A key and a part of it: ``a`` and ``b`` are ``a.b``, ``a`` and ``[0]`` are ``a[0]``."""
    return f"{key}.{part}" if key and part and not part.startswith("[") else key + part


# -- types of fields --------------------------------------------------------------------------------------------------


def named(value: object) -> dict[str, Any]:
    """A mapping with texts as keys.

    Raises:
        ConfigError: it is no mapping.
    """
    if not isinstance(value, Mapping):
        raise ConfigError("", "be a mapping", value)
    return {str(name): item for name, item in value.items()}


def file_name(value: object) -> object:
    """The stem of a file's name that every system allows."""
    if isinstance(value, str):
        plain = bool(value) and all(char.isascii() and (char.isalnum() or char in "_-") for char in value)
        require(plain, "", "be a file name of letters, digits, - and _", value)
    return value


def condition(value: object) -> Condition:
    """The condition on an axis' value: bounds, a list of values, or one value."""
    if isinstance(value, Condition):
        return value
    if isinstance(value, Mapping):
        bounds = Bounds.model_validate(value)
        require(bounds != Bounds(), "", "name min, max or both", value)
        return Condition(None, bounds.min, bounds.max)
    return Condition(tuple(value) if isinstance(value, list) else (value,))


def one_value(value: object) -> object:
    """A value that is neither a list nor a mapping."""
    require(not isinstance(value, Mapping | list), "", "be one value", value)
    return value


def span(value: object) -> tuple[float, float] | None:
    """Two ascending numbers."""
    if not isinstance(value, list):
        raise ConfigError("", "be a list", value)
    ends = [require_number(f"[{place}]", item) for place, item in enumerate(value)]
    if len(ends) != 2 or ends[0] >= ends[1]:
        raise ConfigError("", "be two numbers, the smaller one first", value)
    return ends[0], ends[1]


Scalar = str | float | bool | None
Number = Annotated[float, BeforeValidator(partial(require_number, ""))]
AtLeast0 = Annotated[float, Field(ge=0), BeforeValidator(partial(require_number, "", minimum=0))]
Count = Annotated[int, Field(ge=0), BeforeValidator(partial(require_int, "", minimum=0))]
Digits = Annotated[int, Field(ge=0, le=12), BeforeValidator(partial(require_int, "", minimum=0, maximum=12))]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$"), BeforeValidator(file_name)]
Extreme = Literal["max", "min"]
Named = BeforeValidator(named)
"""Makes the keys of a mapping texts: YAML reads some as numbers."""


class Bounds(Model):
    """The ends of a range, both included."""

    min: Number | None = None
    max: Number | None = None


Rule = Annotated[
    Condition, PlainValidator(condition, json_schema_input_type=Annotated[Bounds | list[Scalar] | Scalar, Field()])
]
Conditions = Annotated[dict[str, Rule], Named]
Values = Annotated[dict[str, Annotated[Any, PlainValidator(one_value, json_schema_input_type=Scalar)]], Named]


class Choice(Model):
    """Some points of a sweep.

    Attributes:
        where: conditions on axes, those of ``at`` included.
        at: the same as ``where`` with one value per axis.
    """

    where: Conditions = Field(default={}, description="conditions on axes: {min, max}, a list of values, or one value")
    at: Values = Field(default={}, description="one value per axis")

    @model_validator(mode="after")
    def _merge(self) -> "Choice":
        self.where.update({axis: Condition((value,)) for axis, value in self.at.items()})
        return self


class Label(Model):
    """The label of a metric or an axis; what it does not say is as usual."""

    label: str | None = Field(default=None, description="default: the usual one")
    unit: str | None = None
    digits: Digits | None = Field(default=None, description="decimals")
    binary: bool | None = Field(
        default=None, description="true: every cell has 0 or 1, and their share is shown with its 95 % interval"
    )

    def of(self, key: str) -> Measure:
        """The way to show a metric or an axis."""
        return replace(usual(key), **self.model_dump(exclude_none=True))


def own_module(kind: str) -> ModuleType:
    """The module that a kind of one's own names; it is imported.

    Raises:
        ConfigError: there is no such module.
    """
    require(all(part.isidentifier() for part in kind.split(".")), "kind", "name a module by its dotted name", kind)
    try:
        return importlib.import_module(kind)
    except ImportError as error:
        raise ConfigError("kind", f"name a module that can be imported ({error})", kind) from error


@dataclass(frozen=True)
class ByKind:
    """The annotation of a value whose ``kind`` names its model.

    Attributes:
        kinds: the models by their names; asked for when there is a value, since some kinds need heavy libraries.
        of_module: finds the model in a module by its dotted name; None if every kind is one of ``kinds``.
    """

    kinds: Callable[[], Mapping[str, type[Model]]]
    of_module: Callable[[str], type[Model]] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        """A validator that looks for the kind."""
        return core_schema.with_info_plain_validator_function(self._validated)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> Any:
        """The schema of any kind."""
        kinds: dict[Any, CoreSchema] = {name: model.__pydantic_core_schema__ for name, model in self.kinds().items()}
        return handler(core_schema.tagged_union_schema(kinds, discriminator="kind"))

    def _validated(self, value: object, info: ValidationInfo) -> Model:
        if isinstance(value, Model):
            return value
        raw = named(value)
        kind = raw.get("kind")
        require(kind is not None, "kind", RULES["missing"], None)
        return self._model(kind, bool((info.context or {}).get(TRUST))).model_validate(raw, context=info.context)

    def _model(self, kind: Any, trust: bool) -> type[Model]:
        kinds = self.kinds()
        if isinstance(kind, str) and kind in kinds:
            return kinds[kind]
        hint = ""
        if self.of_module is not None and isinstance(kind, str) and "." in kind:
            if trust:
                return self.of_module(kind)
            hint = "; trust (--trust) imports the module of any other: only for folders whose author you trust"
        raise ConfigError("kind", f"be one of {', '.join(kinds)}{hint}", kind)
