from types import SimpleNamespace
from typing import Any

import pytest
import torch

from capsexp.callbacks.lr_decay import LearningRateDecay
from capsexp.errors import ConfigError


def rates(callback: LearningRateDecay, steps: list[int], lr: float = 1e-3, now: float | None = None) -> list[float]:
    """The rate used for each of these steps; ``now`` is what a checkpoint has left in the optimizer."""
    optimizer = torch.optim.Adam([torch.zeros(1, requires_grad=True)], lr=lr)
    if now is not None:
        optimizer.param_groups[0]["lr"] = now
    trainer: Any = SimpleNamespace(optimizers=[optimizer], global_step=0)
    callback.on_train_start(trainer, None)  # type: ignore[arg-type]
    found = []
    for trainer.global_step in steps:
        callback.on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_falls_every_so_many_steps() -> None:
    found = rates(LearningRateDecay(0.96, 2000), [0, 1999, 2000, 3999, 4000, 20_000])
    assert found == pytest.approx([1e-3, 1e-3, 0.96e-3, 0.96e-3, 0.9216e-3, 1e-3 * 0.96**10], rel=1e-12)


def test_stops_at_the_floor() -> None:
    assert rates(LearningRateDecay(0.1, 1, floor=1e-6), [2, 3, 4, 50]) == pytest.approx([1e-5, 1e-6, 1e-6, 1e-6])


def test_a_floor_above_the_first_rate_does_not_raise_it() -> None:
    assert rates(LearningRateDecay(0.5, 1, floor=1e-2), [0, 5]) == [1e-3, 1e-3]


def test_continuous_is_the_schedule_of_the_code_that_zhao_adapted() -> None:
    """tf.train.exponential_decay without staircase, held above 1e-6: lr * .96 ** (step / 2000)."""
    steps = [0, 1, 1000, 2000, 21_000, 300_000, 400_000]
    found = rates(LearningRateDecay(0.96, 2000, 1e-6, staircase=False), steps)
    assert found == pytest.approx([max(1e-3 * 0.96 ** (step / 2000), 1e-6) for step in steps], rel=1e-12)
    assert found[2] == pytest.approx(1e-3 * 0.96**0.5)
    assert found[-1] == 1e-6


def test_rises_at_first() -> None:
    found = rates(LearningRateDecay(0.5, 3, floor=1e-4, warmup=4), [0, 1, 2, 3, 4, 6, 99])
    assert found == pytest.approx([1e-3 / 4, 1e-3 / 2, 3e-3 / 4, 0.5e-3, 0.5e-3, 0.25e-3, 1e-4])


def test_depends_on_the_step_alone() -> None:
    """So it goes on the same behind a checkpoint, whose optimizer holds a rate that has fallen."""
    whole = rates(LearningRateDecay(0.9, 3), list(range(12)))
    assert rates(LearningRateDecay(0.9, 3), list(range(7, 12)), now=whole[6]) == whole[7:]


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"rate": 0}, "rate"),
        ({"rate": 1.1}, "rate"),
        ({"steps": 0}, "steps"),
        ({"floor": -1}, "floor"),
        ({"warmup": -1}, "warmup"),
        ({"staircase": 0}, "staircase"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LearningRateDecay(**options)
    assert caught.value.key == key
