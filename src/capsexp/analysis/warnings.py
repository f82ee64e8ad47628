"""Warnings that a reader needs before any number of a report, one line each."""

from collections import Counter
from typing import Any

from capsexp import records
from capsexp.analysis.conditions import axis_text
from capsexp.analysis.results import Results
from capsexp.analysis.spec import Spec

SAME_DIGITS = {"torch": "versions of torch", "threads": "numbers of threads"}
"""Facts of a result's environment on which its last digits depend."""


def warnings(spec: Spec, results: Results) -> list[str]:
    """The lines at the top of the page."""
    return [
        *_settings(results),
        *_other_data(spec, results),
        *_protocol(spec, results),
        *_not_finite(results),
        *_environment(results),
    ]


def _settings(results: Results) -> list[str]:
    """The settings by which the command departs from its experiment, those that may change a number."""
    keys = {word: word.partition("=")[0].lstrip("+~") for word in results.sweep.overrides}
    if "experiment" not in keys.values():
        return []
    others = [word for word, key in keys.items() if key != "experiment" and not records.is_volatile(key)]
    return [f"Settings that differ from the experiment's: {', '.join(others)}."] if others else []


def _other_data(spec: Spec, results: Results) -> list[str]:
    paper = spec.paper_data
    others = sorted({each.data for each in results.protocols if paper and each.data.lower() != paper.lower()})
    return [
        f"Computed on the data set {name}, while the paper used {paper}: no reproduction of its numbers."
        for name in others
    ]


def _protocol(spec: Spec, results: Results) -> list[str]:
    texts = []
    chosen = {each.select_on for each in results.protocols}
    if "test" in chosen:
        some = "Models" if chosen == {"test"} else "Some models"
        protocol = " (the paper's own protocol)" if spec.source or spec.paper_data else ""
        texts.append(f"{some} were chosen on the test set{protocol}: their test numbers are too good.")
    names = dict.fromkeys(each.data for each in results.protocols if each.generated)
    texts += [f"Data set {name} is generated: its images were computed." for name in names]
    if results.mixed():
        texts.append(f"The cells differ in {', '.join(results.mixed())}: shown apart and never averaged together.")
    return texts


def _not_finite(results: Results) -> list[str]:
    lost = [cell.name for cell in results.cells if cell.done and _has_lost(cell.result or {})]
    named = ", ".join(lost[:5]) + (", ..." if len(lost) > 5 else "")
    return [f"Some values are not finite in {len(lost)} of {len(results.cells)} cells: {named}."] if lost else []


def _has_lost(body: dict[str, Any]) -> bool:
    return any(value is None for value in (body.get("metrics") or {}).values())


def _environment(results: Results) -> list[str]:
    """Cells of one sweep may have run on different machines; that is worth a word, not an error."""
    found = []
    for key, name in SAME_DIGITS.items():
        counts = seen(results, key)
        found += [f"{name} ({described(counts)})"] if len(counts) > 1 else []
    stacked = seen(results, "stack").total()
    if 0 < stacked < sum(cell.done for cell in results.cells):
        found += [f"ways of training (in stacks: {stacked} of them)"]
    if not found:
        return []
    return [f"Cells ran with different {' and '.join(found)}: their numbers may differ in the last digits."]


def seen(results: Results, key: str) -> Counter[str]:
    """The number of finished cells that recorded each value of a fact of their environment."""
    bodies = [(cell.result or {}).get("environment") or {} for cell in results.cells if cell.done]
    return Counter(_text(body[key]) for body in bodies if key in body)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {axis_text(each)}" for name, each in value.items())
    return axis_text(value)


def described(counts: Counter[str]) -> str:
    """The value, or each value with its number of cells; numbers stand in their order."""
    if len(counts) == 1:
        return next(iter(counts))
    ordered = sorted(counts.items(), key=lambda item: (len(item[0]), item[0]))
    return ", ".join(f"{value} in {count} cell{'s' if count > 1 else ''}" for value, count in ordered)
