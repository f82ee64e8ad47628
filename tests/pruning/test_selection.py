"""How many channels go, and which, against the rule in whole numbers."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor

from capsexp.errors import ConfigError
from capsexp.nn.channels import ChannelLayer
from capsexp.pruning.selection import Selection

CONVOLUTION = ChannelLayer("conv", "relu", ())


def capsules(dim: int) -> ChannelLayer:
    """A layer of primary capsules."""
    return ChannelLayer("primary.conv", "primary.conv", (), step=dim, dim=dim)


def draw(channels: int, seed: int = 0) -> Tensor:
    return torch.rand(channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- how many ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "channels", "step", "up", "down"),
    [
        (0.25, 12, 4, 4, 0),  # the paper's example
        (0.1, 30, 1, 3, 3),  # as floats .1 * 30 is 3.0000000000000004
        (0.6, 80, 8, 48, 48),
        (0.7, 10, 1, 7, 7),  # .7 * 10 is 7.000000000000001 one way, 6.999999999999999 another
        (0.29, 100, 1, 29, 29),  # .29 * 100 is 28.999999999999996
        (0.375, 160, 8, 64, 56),
        (0.375, 80, 8, 32, 24),
        (0.125, 160, 8, 24, 16),
        (0.125, 64, 8, 8, 8),
        (0.75, 96, 12, 72, 72),
        (0.5, 20, 8, 8, 8),  # 20 channels are two steps and a half; one step goes
        (0.9, 20, 8, 8, 8),  # one step stays, and what is no whole step stays with it
        (0.99, 16, 8, 8, 8),
        (0.99, 15, 8, 0, 0),
        (0.01, 8, 8, 0, 0),  # at least one step stays
        (0.5, 3, 4, 0, 0),  # narrower than a step
        (0.999, 1, 1, 0, 0),
        (1e-5, 100, 1, 1, 0),
        (0, 100, 4, 0, 0),
        (0.0, 7, 1, 0, 0),
    ],
)
def test_counts(ratio: float, channels: int, step: int, up: int, down: int) -> None:
    assert Selection(ratio).count(channels, step) == up
    assert Selection(ratio, rounding="down").count(channels, step) == down


def test_the_rule_for_any_ratio_and_width() -> None:
    """Ratios in thousandths, so that the rule can be said in whole numbers."""
    draws = random.Random(0)
    for _ in range(2000):
        thousandths, channels, step = draws.randrange(1000), draws.randrange(1, 300), draws.choice([1, 2, 4, 6, 8, 12])
        most = max(0, channels // step - 1)
        up, down = (Selection(thousandths / 1000, rounding=way).count(channels, step) for way in ("up", "down"))
        case = (thousandths, channels, step)
        assert up == min(-(-thousandths * channels // (1000 * step)), most) * step, case
        assert down == min(thousandths * channels // (1000 * step), most) * step, case


TABLE_1 = {
    (C, D): (0.125, 0.25, 0.375, 0.5, starred, 0.75)
    for C, D, starred in ((10, 8, 0.6), (20, 8, 0.6), (32, 8, 0.6), (16, 6, 0.625), (16, 12, 0.625), (8, 12, 0.625))
}
"""The networks and ratios of table 1 of Sahu and Altahhan (2024); theirs is .625 where a star stands."""


def released(ratio: float, channels: int, dim: int) -> int:
    """The rule of the authors' code in its own steps, written down separately from ours."""
    threshold = int(channels * ratio)
    if threshold > dim:
        while threshold % dim:
            threshold -= 1
        return threshold
    return dim


def test_the_rule_of_the_released_code_over_table_1() -> None:
    """It differs from rounding down alone in nine of the 36 pairs of network and ratio, from the text in seventeen."""
    differs = {"down": 0, "up": 0}
    for (capsule_types, dim), ratios in TABLE_1.items():
        width = capsule_types * dim
        layers = (width // 4, width // 2, width, width)
        for ratio in ratios:
            counts = [Selection(ratio, rounding="released").count(channels, dim) for channels in layers]
            assert counts == [released(ratio, channels, dim) for channels in layers], (capsule_types, dim, ratio)
            for way in differs:
                differs[way] += counts != [Selection(ratio, rounding=way).count(channels, dim) for channels in layers]
    assert differs == {"down": 9, "up": 17}


def test_the_released_rule_elsewhere() -> None:
    """At least a channel stays, where their code would leave none or stop, and a ratio of 0 is the base network."""
    draws = random.Random(2)
    for _ in range(2000):
        ratio, channels, step = draws.randrange(1, 1000) / 1000, draws.randrange(1, 300), draws.choice([1, 4, 6, 8, 12])
        count = Selection(ratio, rounding="released").count(channels, step)
        assert count == (released(ratio, channels, step) if channels > step else 0)
        assert 0 <= count < channels
    assert Selection(0, rounding="released").count(80, 8) == 0
    assert Selection(0.29, rounding="released").count(100, 1) == 28, "a product of floats, as theirs"
    assert Selection(0.9, rounding="released").count(20, 8) == 16, "four stay, less than a step"


def test_a_larger_ratio_never_cuts_less() -> None:
    for channels, step in ((160, 8), (30, 1), (45, 4)):
        counts = [Selection(hundredths / 100).count(channels, step) for hundredths in range(100)]
        assert counts == sorted(counts)
        assert counts[-1] == (channels // step - 1) * step


def test_the_widths_of_a_model() -> None:
    layers = {"conv1": ChannelLayer("c", "r", (), step=4), "conv2": CONVOLUTION, "primary": capsules(8)}
    widths = {"conv1": 12, "conv2": 10, "primary": 80}
    assert Selection(0.25).widths(layers, widths) == {"conv1": 8, "conv2": 7, "primary": 56}
    assert Selection(0).widths(layers, widths) == widths


# -- which ones --------------------------------------------------------------------------------------------------------


def test_the_lowest_scores_go_and_the_others_keep_their_order() -> None:
    scores = torch.tensor([3.0, -1.0, 2.0, 7.0, 0.0, 5.0])
    assert Selection(0.5).keep(CONVOLUTION, scores).tolist() == [0, 3, 5]
    assert Selection(0).keep(CONVOLUTION, scores).tolist() == list(range(6))


def test_of_equal_scores_the_later_goes_first() -> None:
    assert Selection(0.5).keep(CONVOLUTION, torch.zeros(1000)).tolist() == list(range(500))
    assert Selection(0.25).keep(CONVOLUTION, torch.tensor([1.0, 0.0, 0.0, 0.0])).tolist() == [0, 1, 2]
    assert Selection(0.5, "capsule").keep(capsules(2), torch.ones(8)).tolist() == [0, 1, 2, 3]


def test_small_differences_count() -> None:
    """Scores of 32 bits would be equal, and the later one would go."""
    assert Selection(0.5).keep(CONVOLUTION, torch.tensor([1.0, 1.0 + 1e-12], dtype=torch.float64)).tolist() == [1]


@pytest.mark.parametrize("granularity", ["channel", "capsule"])
def test_laws_of_what_stays(granularity: str) -> None:
    draws = random.Random(1)
    for case in range(200):
        dim = draws.choice([1, 2, 4, 8])
        layer, scores = capsules(dim), draw(dim * draws.randrange(1, 30), case)
        chosen = Selection(draws.randrange(100) / 100, granularity)
        kept = chosen.keep(layer, scores)
        assert kept.dtype == torch.int64
        assert torch.equal(kept, kept.unique()), "in order, each once"
        assert len(scores) - len(kept) == chosen.count(len(scores), dim)
        grouped = granularity == "capsule"
        units = scores.view(-1, dim).sum(1) if grouped else scores
        stay = torch.zeros(len(scores), dtype=torch.bool)
        stay[kept] = True
        if grouped:
            assert (stay.view(-1, dim).all(1) == stay.view(-1, dim).any(1)).all(), "capsules stay whole"
            stay = stay.view(-1, dim).any(1)
        if not stay.all():
            assert units[~stay].max() < units[stay].min()


def test_a_capsule_counts_by_its_sum() -> None:
    scores = torch.tensor([9.0, -9.0, 1.0, 1.0, 0.0, 1.0])
    assert Selection(0.3, "capsule").keep(capsules(2), scores).tolist() == [2, 3, 4, 5]
    assert Selection(0.3, "channel").keep(capsules(2), scores).tolist() == [0, 2, 3, 5]


def test_layers_without_capsules_are_cut_by_channel_anyway() -> None:
    layer = ChannelLayer("conv", "relu", (), step=4)
    scores = draw(12)
    assert torch.equal(Selection(0.25, "capsule").keep(layer, scores), Selection(0.25).keep(layer, scores))


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = torch.tensor([1.0, bad, 2.0])
    with pytest.raises(ConfigError, match=r"^.*scores must be finite, got 'NaN or infinity'$"):
        Selection(0.5).keep(CONVOLUTION, scores)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"ratio": 1}, "ratio must be a number in [0, 1), got 1"),
        ({"ratio": -0.1}, "ratio must be a number in [0, 1), got -0.1"),
        ({"ratio": "half"}, "ratio must be a number in [0, 1), got 'half'"),
        ({"ratio": float("nan")}, "ratio must be a number in [0, 1), got nan"),
        ({"ratio": True}, "ratio must be a number in [0, 1), got True"),
        ({"ratio": 0.5, "granularity": "x"}, "granularity must be one of channel, capsule, got 'x'"),
        ({"ratio": 0.5, "rounding": "x"}, "rounding must be one of up, down, released, got 'x'"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Selection(**options)
    assert str(caught.value) == line
