"""When a network counts as broken, and the end of its fit."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from capsexp.callbacks.collapse import CollapseGuard, has_collapsed
from capsexp.callbacks.peak import Peak
from capsexp.errors import ConfigError


def broken(*accuracies: float, chance: float = 0.1, last: int = 3, **options: float) -> bool:
    return has_collapsed(accuracies, chance, last=last, **options)


# -- the rule ---------------------------------------------------------------------------------------------------------


def test_near_chance_and_flat() -> None:
    assert broken(0.1, 0.1, 0.1)
    assert broken(0.101, 0.098, 0.104)


def test_too_few_epochs_say_nothing() -> None:
    assert not broken()
    assert not broken(0.1, 0.1)
    assert broken(0.1, last=1)


def test_only_the_last_epochs_count() -> None:
    assert broken(0.76, 0.75, 0.1, 0.1, 0.1)  # it had learnt, and collapsed
    assert not broken(0.1, 0.1, 0.1, 0.1, 0.3)
    assert not broken(0.1, 0.1, 0.3, 0.1, 0.1)
    assert not broken(0.1, 0.3, 0.1, 0.1, last=4)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("far", [0.0799, 0.1201])
def test_each_epoch_is_near_chance(place: int, far: float) -> None:
    accuracies = [far + (0.001 if far < 0.1 else -0.001)] * 3
    assert broken(*accuracies)
    accuracies[place] = far
    assert not broken(*accuracies)


def test_near_but_not_flat() -> None:
    assert not broken(0.092, 0.097, 0.1025)  # slowly rising
    assert not broken(0.109, 0.1, 0.0985)
    assert broken(0.092, 0.097, 0.1025, flat=0.02)
    assert not broken(0.1, 0.1, 0.101, flat=0)


def test_flat_but_not_near() -> None:
    assert not broken(0.13, 0.13, 0.13)
    assert broken(0.13, 0.13, 0.13, margin=0.03)
    assert broken(0.13, 0.13, 0.13, chance=0.125)
    assert not broken(0.5, 0.5, 0.5)


@pytest.mark.parametrize("single", [False, True], ids=["float64", "float32"])
@pytest.mark.parametrize(("chance", "near"), [(0.1, 0.12), (0.1, 0.08), (0.25, 0.27), (1 / 3, 1 / 3 - 0.02)])
def test_bounds_count_as_inside(chance: float, near: float, single: bool) -> None:
    """Also where 0.12 - 0.1 is more than 0.02 in binary, and where Lightning has made float32 of it."""
    accuracy = torch.tensor(near).item() if single else near
    assert broken(accuracy, accuracy, accuracy, chance=chance)
    low, high = (torch.tensor(value).item() if single else value for value in (0.09, 0.1))
    assert broken(low, high, low)
    assert broken(*[value + chance - 0.1 for value in (high, low, high)], chance=chance)


def test_one_image_beyond_a_bound_counts() -> None:
    image = 1 / 50_000
    assert not broken(0.12 + image, 0.12, 0.12)
    assert not broken(0.09 - image, 0.1, 0.1)


def test_an_accuracy_that_is_no_number_is_not_chance() -> None:
    assert not broken(0.1, math.nan, 0.1)


@pytest.mark.parametrize("last", [0, -1, 2.0, True])
def test_the_rule_looks_at_some_epochs(last: Any) -> None:
    with pytest.raises(ConfigError, match=r"^last must be a whole number >= 1, got"):
        has_collapsed([0.1], 0.1, last=last)


# -- the callback -----------------------------------------------------------------------------------------------------


def trainer(**changes: Any) -> Any:
    state = {"sanity_checking": False, "state": SimpleNamespace(fn="fit"), "should_stop": False}
    return SimpleNamespace(**state | {"callback_metrics": {}, "datamodule": SimpleNamespace(classes=10)} | changes)


def fit(guard: CollapseGuard, accuracies: list[float], first: int = 0, **changes: Any) -> Any:
    """Runs epochs of these accuracies until the fit is stopped."""
    fake = trainer(**changes)
    for number, accuracy in enumerate(accuracies, first):
        fake.callback_metrics = {"val/acc": torch.tensor(accuracy), "val/loss": torch.tensor(1.0)}
        fake.current_epoch = number
        guard.on_validation_end(fake, nn.Linear(1, 1))  # type: ignore[arg-type]
        if fake.should_stop:
            break
    return fake


def test_a_broken_network_stops_and_says_why() -> None:
    guard = CollapseGuard()
    fake = fit(guard, [0.1] * 9)
    assert (fake.should_stop, fake.current_epoch, guard.collapsed) == (True, 4, True)
    assert guard.accuracies == pytest.approx([0.1] * 5)


def test_a_network_that_collapses_stops() -> None:
    guard = CollapseGuard(last=3)
    fake = fit(guard, [0.3, 0.5, 0.6, 0.1, 0.1, 0.1, 0.1])
    assert (fake.current_epoch, guard.collapsed) == (5, True)


def test_a_network_that_learns_goes_on() -> None:
    guard = CollapseGuard(last=2)
    fake = fit(guard, [0.1, 0.15, 0.1, 0.2, 0.1, 0.3])
    assert (fake.should_stop, fake.current_epoch, guard.collapsed) == (False, 5, False)


def test_the_bounds_are_the_guards() -> None:
    accuracies = [0.14, 0.11, 0.14]
    assert not fit(CollapseGuard(3), accuracies).should_stop
    assert not fit(CollapseGuard(3, margin=0.05), accuracies).should_stop
    assert not fit(CollapseGuard(3, flat=0.05), accuracies).should_stop
    assert fit(CollapseGuard(3, margin=0.05, flat=0.05), accuracies).should_stop


@pytest.mark.parametrize(("classes", "stops"), [(10, False), (4, True), (5, False)])
def test_chance_is_that_of_the_data(classes: int, stops: bool) -> None:
    fake = fit(CollapseGuard(2), [0.25, 0.25], datamodule=SimpleNamespace(classes=classes))
    assert fake.should_stop is stops


@pytest.mark.parametrize("changes", [{"sanity_checking": True}, {"state": SimpleNamespace(fn="validate")}])
def test_only_epochs_of_a_fit_count(changes: dict[str, Any]) -> None:
    guard = CollapseGuard(last=1)
    fake = fit(guard, [0.1, 0.1], **changes)
    assert (fake.should_stop, guard.accuracies, guard.collapsed) == (False, [], False)


def test_where_nothing_is_classified_nothing_is_judged() -> None:
    guard, fake = CollapseGuard(last=1), trainer(callback_metrics={"val/loss": torch.tensor(1.0)})
    guard.on_validation_end(fake, nn.Linear(1, 1))
    assert (guard.accuracies, guard.collapsed) == ([], False)


def test_it_lets_others_stop_the_fit() -> None:
    guard = CollapseGuard(last=2)
    fake = fit(guard, [0.9], should_stop=True)
    assert (fake.should_stop, guard.collapsed) == (True, False)


@pytest.mark.parametrize("guard_first", [True, False])
def test_peak_and_guard_in_any_order(guard_first: bool) -> None:
    guard, peak, module = CollapseGuard(last=2), Peak(patience=9), nn.Linear(1, 1)
    fake = trainer(current_epoch=0)
    for number, accuracy in enumerate((0.5, 0.1, 0.1)):
        fake.current_epoch = number
        fake.callback_metrics = {"val/acc": torch.tensor(accuracy), "val/loss": torch.tensor(1.0)}
        for callback in (guard, peak) if guard_first else (peak, guard):
            callback.on_validation_end(fake, module)  # type: ignore[arg-type]
    assert (fake.should_stop, guard.collapsed, peak.epoch) == (True, True, 1)


@pytest.mark.parametrize("cut", [0, 1, 3, 4])
def test_goes_on_from_its_state_through_a_file(tmp_path: Path, cut: int) -> None:
    accuracies = [0.4, 0.1, 0.1, 0.1, 0.1, 0.1]
    whole, before, after = CollapseGuard(4), CollapseGuard(4), CollapseGuard(4)
    stopped = fit(whole, accuracies)
    fit(before, accuracies[:cut])
    torch.save(before.state_dict(), tmp_path / "guard.pt")
    after.load_state_dict(torch.load(tmp_path / "guard.pt", weights_only=True))
    resumed = fit(after, accuracies[cut:], first=cut)
    assert (resumed.should_stop, resumed.current_epoch) == (stopped.should_stop, stopped.current_epoch) == (True, 4)
    assert (after.accuracies, after.collapsed) == (whole.accuracies, whole.collapsed)
    assert whole.collapsed


def test_a_state_that_was_broken_stays_broken_and_is_a_copy() -> None:
    guard, other = CollapseGuard(2), CollapseGuard(2)
    fit(guard, [0.1, 0.1])
    other.load_state_dict(guard.state_dict())
    assert other.collapsed
    fit(other, [0.5])
    assert (len(guard.accuracies), guard.collapsed, other.collapsed) == (2, True, False)
    assert guard.state_key == "BrokenGuard"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"last": 0}, "last must be a whole number >= 1"),
        ({"margin": -0.1}, r"margin must be a number in \[0, 1\]"),
        ({"flat": 2}, r"flat must be a number in \[0, 1\]"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}, got"):
        CollapseGuard(**options)
