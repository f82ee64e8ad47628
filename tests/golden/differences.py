"""What differs between two gatherings, and whether it is more than a wording or the last digits."""

import csv
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

WIDTH = 118

NUMBER = re.compile(r"-?(?:\d+(?:,\d{3})+|\d+)?\.?\d+(?:[eE][+-]?\d+)?")
NAME = re.compile(r"[\w/+-]+(?:\.[\w/+-]+)+(?:=\S+)?|[\w.+/-]+=\S+|\b[0-9a-f]{10}\b|[\w./-]*[_/][\w./-]*")
"""What looks like a key, a path, an override or an id, and not like a word of a sentence."""


@dataclass(frozen=True)
class Difference:
    """A place at which two gatherings differ."""

    where: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.where}\n    old: {short(self.old)}\n    new: {short(self.new)}"


def short(value: Any, most: int = 400) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= most else f"{text[:most]} ... ({len(text)} characters)"


def unlike(old: Any, new: Any, where: str = "") -> Iterator[Difference]:
    """Every difference, as deep down as it can be named."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from unlike(old.get(key, "(not there)"), new.get(key, "(not there)"), f"{where}/{key}")
        shared = [key for key in old if key in new]
        if shared != [key for key in new if key in old]:
            yield Difference(f"{where} (order)", list(old), list(new))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for place, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from unlike(one, other, f"{where}/{place}")
    elif isinstance(old, list) and isinstance(new, list):
        yield Difference(f"{where} ({len(old)} entries, now {len(new)})", only(old, new), only(new, old))
    elif type(old) is not type(new) or old != new:
        yield Difference(where, old, new)


def only(these: list[Any], others: list[Any]) -> list[Any]:
    known = [json.dumps(each) for each in others]
    return [each for each in these if json.dumps(each) not in known]


# -- elsewhere: other last digits are allowed --------------------------------------------------------------------------


def serious(difference: Difference) -> bool:
    """Whether a difference is more than other numbers, as another machine gives them."""
    if difference.where.endswith("/sha"):
        return False
    old, new = difference.old, difference.new
    if is_number(old) and is_number(new):
        return False
    if isinstance(old, str) and isinstance(new, str):
        return NUMBER.sub("0", old) != NUMBER.sub("0", new)
    return True


def lost_from_the_page(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The numbers of an old page that a new one lacks; takes both pages out of the reports, since words may change."""
    before, after = (Counter(each.pop("numbers")) for each in (old, new))
    for each in (old, new):
        each.pop("page")
    return sorted((before - after).elements())


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def first_losses(part: dict[str, Any]) -> dict[str, float]:
    """The training loss of the first epoch of every cell and stage of a sweep, by name."""
    found = {}
    for kind in ("cells", "stages"):
        for name, fit in part[kind].items():
            for file in (key for key in fit if key.endswith(".csv")):
                for row in list(csv.DictReader(fit[file]))[:1]:
                    if row.get("train/loss"):
                        found[f"{kind}/{name}/{file}"] = float(row["train/loss"])
    return found


def unlike_losses(old: dict[str, Any], new: dict[str, Any], within: float = 1e-6) -> list[str]:
    """First training losses that differ by more than a share of themselves."""
    before, after = (first_losses(without_stage_digests(each)) for each in (old, new))
    return [
        f"{name}: {before.get(name)} and {after.get(name)}"
        for name in sorted(before.keys() | after.keys())
        if not math.isclose(before.get(name, math.nan), after.get(name, math.nan), rel_tol=within)
    ]


STAGE = re.compile(r"^(stage \w+: (?:being computed in|taken from) \w+)-[0-9a-f]{10}", re.MULTILINE)
"""What a cell says of its stages."""


def without_stage_digests(value: Any) -> Any:
    """The same with stages named without their keys' digests, which may change; several of a name are numbered."""
    if isinstance(value, list):
        return [without_stage_digests(each) for each in value]
    if isinstance(value, str):
        return STAGE.sub(r"\1", value)
    if not isinstance(value, dict):
        return value
    return {
        key: _numbered(each) if key == "stages" and _are_stages(each) else without_stage_digests(each)
        for key, each in value.items()
    }


def _are_stages(value: Any) -> bool:
    return isinstance(value, dict) and all(re.fullmatch(r"\w+-[0-9a-f]{10}", name) for name in value)


def _numbered(stages: dict[str, Any]) -> dict[str, Any]:
    contents = sorted((name.rpartition("-")[0], json.dumps(each, sort_keys=True)) for name, each in stages.items())
    return {f"{name} {number}": json.loads(content) for number, (name, content) in enumerate(contents)}


# -- wording -----------------------------------------------------------------------------------------------------------


def facts_in(text: str) -> list[str]:
    """The numbers, ids and keys of a text, in order; a sentence's full stop is none of them."""
    return [word.group().rstrip(".,;:") for word in re.finditer(rf"{NAME.pattern}|{NUMBER.pattern}", text)]


def only_words(old: Any, new: Any) -> bool:
    """Whether every number, id and key of two texts, or of all texts within two values, is equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(only_words(old[key], new[key]) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        if all(isinstance(each, str) for each in [*old, *new]):
            return only_words("\n".join(old), "\n".join(new))
        return len(old) == len(new) and all(only_words(*pair) for pair in zip(old, new, strict=True))
    if isinstance(old, str) and isinstance(new, str):
        return facts_in(old) == facts_in(new)
    return type(old) is type(new) and bool(old == new)


# -- how it is written -------------------------------------------------------------------------------------------------


def dumps(value: Any, indent: int = 0) -> str:
    """JSON whose lines are filled, so that files stay short and a change stays one line."""
    line = json.dumps(value, ensure_ascii=False)
    deep = isinstance(value, list | dict) and any(isinstance(each, dict) and each for each in values_of(value))
    texts = isinstance(value, list) and len(value) > 1 and all(isinstance(each, str) for each in value)
    if not value or not isinstance(value, dict | list):
        return line
    if not deep and not (texts and len(line) > WIDTH - indent) and len(line) <= WIDTH - indent:
        return line
    space = " " * (indent + 1)
    if isinstance(value, dict):
        entries = [f"{json.dumps(key, ensure_ascii=False)}: {dumps(item, indent + 1)}" for key, item in value.items()]
        return "{\n" + ",\n".join(space + entry for entry in entries) + "\n" + " " * indent + "}"
    entries = [dumps(item, indent + 1) for item in value]
    return "[\n" + ",\n".join(space + entry for entry in entries) + "\n" + " " * indent + "]"


def values_of(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value
