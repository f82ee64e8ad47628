import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from capsexp.callbacks.collapse import CollapseGuard
from capsexp.callbacks.peak import Peak
from capsexp.errors import ConfigError


def trainer(**changes: Any) -> Any:
    state = {
        "callbacks": [],
        "sanity_checking": False,
        "state": SimpleNamespace(fn="fit"),
        "should_stop": False,
        "interrupted": False,
    }
    return SimpleNamespace(**state | {"callback_metrics": {}, "current_epoch": 0} | changes)


def fit(peak: Peak, epochs: list[tuple[float, float]], first: int = 0) -> tuple[Any, nn.Linear]:
    """Runs epochs of (accuracy, loss); the weight of an epoch is its number."""
    module, fake = nn.Linear(1, 1, bias=False), trainer()
    for number, (accuracy, loss) in enumerate(epochs, first):
        nn.init.constant_(module.weight, number + 1)
        metrics = {"val/acc": accuracy, "val/loss": loss, "train/loss": 7.0}
        fake.callback_metrics = {name: torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()}
        fake.current_epoch = number
        peak.on_validation_epoch_end(fake, module)
        peak.on_validation_end(fake, module)
        if fake.should_stop:
            break
    return fake, module


def test_the_highest_accuracy_wins_whatever_its_loss() -> None:
    peak = Peak()
    fit(peak, [(0.5, 1.0), (0.7, 9.0), (0.6, 0.1)])
    assert peak.epoch == 2
    assert peak.result_metrics(nn.Linear(1, 1)) == {"val/acc": 0.7, "val/loss": 9.0}


def test_of_equal_accuracies_the_lower_loss_wins_and_of_equal_losses_the_first() -> None:
    peak = Peak()
    fit(peak, [(0.5, 1.0), (0.5, 0.8), (0.5, 0.8), (0.5, 0.9)])
    assert peak.epoch == 2


def test_where_nothing_is_classified_the_lowest_loss_wins() -> None:
    peak = Peak(1)
    for epoch, loss in enumerate((0.9, 0.4, 0.5)):
        fake = trainer(current_epoch=epoch, callback_metrics={"val/loss": torch.tensor(loss, dtype=torch.float64)})
        peak.on_validation_end(fake, nn.Linear(1, 1))
    assert (peak.epoch, peak.metrics) == (2, {"val/loss": 0.4})
    assert fake.should_stop


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_stops_after_so_many_epochs_without_a_new_peak(patience: int) -> None:
    fake, _ = fit(Peak(patience), [(0.5, 1.0), (0.6, 1.0)] + [(0.6, 1.0)] * 9)
    assert fake.should_stop
    assert fake.current_epoch + 1 == 2 + patience


def test_a_new_peak_starts_the_patience_again() -> None:
    fake, _ = fit(Peak(2), [(0.1, 1.0), (0.0, 1.0), (0.2, 1.0), (0.0, 1.0), (0.3, 1.0), (0.0, 1.0)])
    assert not fake.should_stop


def test_the_weights_of_the_peak_come_back() -> None:
    peak = Peak()
    fake, module = fit(peak, [(0.5, 1.0), (0.7, 1.0), (0.6, 1.0)])
    assert module.weight.item() == 3
    peak.on_fit_end(fake, module)
    assert module.weight.item() == 2


def test_an_interrupted_fit_keeps_its_weights() -> None:
    peak = Peak()
    fake, module = fit(peak, [(0.7, 1.0), (0.6, 1.0)])
    fake.interrupted = True
    peak.on_fit_end(fake, module)
    assert module.weight.item() == 2


@pytest.mark.parametrize("changes", [{"sanity_checking": True}, {"state": SimpleNamespace(fn="validate")}])
def test_only_epochs_of_a_fit_count(changes: dict[str, Any]) -> None:
    peak = Peak()
    peak.on_validation_end(trainer(callback_metrics={"val/acc": 1.0, "val/loss": 0.0}, **changes), nn.Linear(1, 1))
    assert (peak.best, peak.weights) == (None, {})


def test_goes_on_from_its_state_through_a_file(tmp_path: Path) -> None:
    epochs = [(0.5, 1.0), (0.7, 1.0), (0.6, 1.0), (0.7, 1.0), (0.6, 1.0), (0.1, 1.0)]
    whole, before, after = Peak(3), Peak(3), Peak(3)
    stopped, _ = fit(whole, epochs)
    fit(before, epochs[:3])
    torch.save(before.state_dict(), tmp_path / "peak.pt")
    after.load_state_dict(torch.load(tmp_path / "peak.pt", weights_only=True))
    resumed, module = fit(after, epochs[3:], first=3)
    assert (resumed.should_stop, resumed.current_epoch) == (stopped.should_stop, stopped.current_epoch) == (True, 4)
    assert (after.epoch, after.best, after.metrics) == (whole.epoch, whole.best, whole.metrics)
    after.on_fit_end(resumed, module)
    assert module.weight.item() == 2


def test_a_state_from_before_the_first_epoch() -> None:
    peak = Peak()
    peak.load_state_dict(Peak().state_dict())
    fit(peak, [(0.5, 1.0)])
    assert peak.epoch == 1


def test_a_loss_that_is_no_number_never_beats_one() -> None:
    peak = Peak()
    fit(peak, [(0.1, 2.0), (0.1, math.nan)])
    assert peak.epoch == 1
    peak = Peak()
    fit(peak, [(0.1, math.nan), (0.1, 2.0)])
    assert peak.epoch == 2


def test_an_epoch_whose_loss_is_no_number_is_no_peak() -> None:
    peak = Peak(3)
    fake, module = fit(peak, [(0.9, math.nan)] * 5)
    assert (peak.best, peak.weights, fake.current_epoch) == (None, {}, 2)
    peak.on_fit_end(fake, module)
    assert module.weight.item() == 3
    fit(peak, [(0.5, 1.0), (0.9, math.nan), (0.6, math.inf)])
    assert peak.epoch == 3


@pytest.mark.parametrize("patience", [0, -1, 1.5, True])
def test_patience_is_checked(patience: Any) -> None:
    with pytest.raises(ConfigError, match=r"^patience must be a whole number >= 1, got"):
        Peak(patience)


@pytest.mark.parametrize("collapsed", [False, True])
def test_a_collapsed_network_is_kept_as_it_ended(collapsed: bool) -> None:
    peak, guard = Peak(), CollapseGuard()
    fake, module = fit(peak, [(0.12, 1.0), (0.1, 2.0), (0.11, 3.0)])
    guard.collapsed, fake.callbacks = collapsed, [guard]
    peak.on_fit_end(fake, module)
    assert module.weight.item() == (3 if collapsed else 1)
    assert peak.metrics == ({"val/acc": 0.11, "val/loss": 3.0} if collapsed else {"val/acc": 0.12, "val/loss": 1.0})
    assert peak.epoch == 1
