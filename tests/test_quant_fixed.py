"""Rounding, saturation, requantization and multipliers.

Testpoints: widths of the contract; halves round up, both signs; shift 0 and 47; array shifts equal int shifts;
saturation at both ends; requantize against unbounded integers at corners and at random; quantize_multiplier error,
carry and refusals; numpy and torch give the same.
"""

from __future__ import annotations

from fractions import Fraction
from math import floor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant.fixed import (
    ACC_BITS,
    FEATURE_FRACTION_BITS,
    MULT_BITS,
    SHIFT_MAX,
    WEIGHT_MAX,
    quantize_multiplier,
    requantize,
    round_half_up,
    saturate,
)

EXACT = settings(derandomize=True, deadline=None, max_examples=300)
acc_i32 = st.integers(-(1 << 31), (1 << 31) - 1) | st.sampled_from([-(1 << 31), -1, 0, 1, (1 << 31) - 1])
mult_u16 = st.integers(0, 65535) | st.sampled_from([0, 1, 1 << 15, 65535])
shift_u6 = st.integers(0, SHIFT_MAX)


def test_widths_are_those_of_the_contract() -> None:
    assert (WEIGHT_MAX, ACC_BITS, MULT_BITS, SHIFT_MAX, FEATURE_FRACTION_BITS) == (127, 32, 16, 47, 10)


@pytest.mark.parametrize(
    ("value", "shift", "expected"),
    [(1, 1, 1), (-1, 1, 0), (3, 1, 2), (-3, 1, -1), (2, 2, 1), (-2, 2, 0), (-3, 2, -1), (7, 0, 7), (-7, 0, -7)],
)
def test_halves_round_towards_plus_infinity(value: int, shift: int, expected: int) -> None:
    assert round_half_up(np.array([value]), shift)[0] == expected
    assert round_half_up(np.array([value]), np.array([shift]))[0] == expected


@EXACT
@given(st.integers(-(1 << 47), 1 << 47), shift_u6)
def test_rounding_is_floor_of_x_plus_half(value: int, shift: int) -> None:
    expected = floor(Fraction(value, 1 << shift) + Fraction(1, 2)) if shift else value
    assert round_half_up(np.array([value]), shift)[0] == expected


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_saturation_keeps_the_range_and_clamps_the_rest(bits: int) -> None:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    values = np.array([low - 1, low, -1, 0, high, high + 1, -(1 << 62), 1 << 62])
    assert saturate(values, bits).tolist() == [low, low, -1, 0, high, high, low, high]


@EXACT
@given(acc_i32, mult_u16, shift_u6, st.sampled_from([8, 16]))
def test_requantize_is_exact(acc: int, mult: int, shift: int, bits: int) -> None:
    rounded = (acc * mult + ((1 << shift) >> 1)) >> shift
    expected = max(-(1 << (bits - 1)), min((1 << (bits - 1)) - 1, rounded))
    assert requantize(np.array([acc]), mult, shift, bits)[0] == expected
    assert int(requantize(torch.tensor([acc]), torch.tensor([mult]), torch.tensor([shift]), bits)[0]) == expected


def test_requantize_broadcasts_over_channels() -> None:
    acc = np.array([[100, 100, 100], [-100, -100, -100]])
    mult, shift = np.array([1, 3, 65535]), np.array([0, 2, 16])
    assert requantize(acc, mult, shift, 8).tolist() == [[100, 75, 100], [-100, -75, -100]]


@EXACT
@given(st.floats(2.0**-32, 2.0**14.9))
def test_multiplier_is_within_half_a_unit(real: float) -> None:
    mult, shift = quantize_multiplier(real)
    assert 1 << 15 <= mult < 1 << 16
    assert 0 <= shift <= SHIFT_MAX
    assert abs(mult * 2.0**-shift - real) <= real * 2.0**-16


def test_multiplier_that_rounds_up_to_the_next_power_of_two() -> None:
    assert quantize_multiplier(1 - 2.0**-30) == (1 << 15, 15)


def test_multiplier_range_ends() -> None:
    assert quantize_multiplier(2.0**-32) == (1 << 15, SHIFT_MAX)
    assert quantize_multiplier(2.0**15) == (1 << 15, 0)


@pytest.mark.parametrize("real", [0.0, -1.0, float("nan"), float("inf")])
def test_multiplier_must_be_positive_and_finite(real: float) -> None:
    with pytest.raises(ValueError, match=r"^multiplier must be positive and finite, not "):
        quantize_multiplier(real)


@pytest.mark.parametrize("real", [2.0**-33, 2.0**16])
def test_multiplier_must_fit_the_shift(real: float) -> None:
    with pytest.raises(ValueError, match=r"^multiplier must be in 2\*\*-32\.\.2\*\*15, not "):
        quantize_multiplier(real)
