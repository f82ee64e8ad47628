"""User errors: one line with the key, the rule, and the value received."""

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsexp.errors import ConfigError, Diverged, require, require_choice, require_int, require_number


def test_the_line_names_key_rule_and_value() -> None:
    error = ConfigError("c2", "be a whole number >= 1", "x")
    assert str(error) == "c2 must be a whole number >= 1, got 'x'"
    assert (error.key, error.rule, error.value) == ("c2", "be a whole number >= 1", "x")
    assert isinstance(error, ValueError)


def test_within_puts_the_group_before_the_key() -> None:
    error = ConfigError("c2", "be odd", 4).within("model")
    assert str(error) == "model.c2 must be odd, got 4"
    assert str(error.within("stage")) == "stage.model.c2 must be odd, got 4"


def test_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(ConfigError("c2", "be odd", [4])))
    assert str(error) == "c2 must be odd, got [4]"


def test_a_divergence_is_one_line_also_between_processes() -> None:
    error = pickle.loads(pickle.dumps(Diverged(12)))
    assert (str(error), error.step) == ("diverged at step 12", 12)


def test_require() -> None:
    require(True, "a", "be", 1)
    with pytest.raises(ConfigError, match=r"^a must be b, got 1$"):
        require(False, "a", "be b", 1)


@given(st.integers(), st.integers(), st.integers())
def test_require_int_is_the_interval(value: int, minimum: int, maximum: int) -> None:
    if minimum <= value <= maximum:
        assert require_int("k", value, minimum, maximum) == value
    else:
        with pytest.raises(ConfigError, match=f"^k must be a whole number from {minimum} to {maximum}, got {value}$"):
            require_int("k", value, minimum, maximum)


@pytest.mark.parametrize("value", [True, False, 1.0, "1", None, [1], math.nan])
def test_require_int_refuses_all_else(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^k must be a whole number >= 0, got"):
        require_int("k", value, 0)


BOUNDS = {"": "[0, 1]", "<": "(0, 1]", ">": "[0, 1)", "<>": "(0, 1)"}


@pytest.mark.parametrize("open_ends", BOUNDS)
@pytest.mark.parametrize("value", [-0.5, -1e-300, 0, 0.0, 1e-300, 0.5, 1 - 1e-16, 1, 1.5])
def test_require_number_keeps_its_bounds(value: float, open_ends: str) -> None:
    above = value > 0 or (value == 0 and "<" not in open_ends)
    below = value < 1 or (value == 1 and ">" not in open_ends)
    if above and below:
        assert require_number("k", value, 0, 1, open_ends=open_ends) == value
        return
    with pytest.raises(ConfigError) as caught:
        require_number("k", value, 0, 1, open_ends=open_ends)
    assert str(caught.value) == f"k must be a number in {BOUNDS[open_ends]}, got {value!r}"


@pytest.mark.parametrize("value", [True, "1", None, [1.0], 1j, math.nan, math.inf, -math.inf])
def test_require_number_refuses_all_that_is_no_finite_number(value: object) -> None:
    with pytest.raises(ConfigError, match=r"^k must be a number in \[-inf, inf\], got"):
        require_number("k", value)


@pytest.mark.parametrize("value", [2, 2.0, Fraction(2), np.float32(2)])
def test_require_number_gives_a_float(value: float) -> None:
    assert type(require_number("k", value)) is float
    assert require_number("k", value) == 2.0


def test_require_choice() -> None:
    assert require_choice("k", "a", ("a", "b")) == "a"
    with pytest.raises(ConfigError, match=r"^k must be one of a, b, got 'c'$"):
        require_choice("k", "c", ("a", "b"))
