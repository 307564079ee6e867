"""Rounding, saturation and requantization: the numeric contract everything else imports.

Every function takes and returns integer arrays of any array-API library (numpy, torch), so the golden model,
the instruction-set machine and quantization-aware training run the same lines. Intermediate values are int64.

Imports: numpy and the standard library only, plus array-api-compat to find the caller's array library.
"""

from __future__ import annotations

import math
from typing import Any

from array_api_compat import array_namespace

Array = Any
"""An integer array of any array-API library, or a Python int where a function says so."""

WEIGHT_MAX = 127
"""Weights are symmetric in [-127, 127]: -128 would overflow the packed two-MAC DSP chain (docs/architecture.md)."""

ACC_BITS = 32
MULT_BITS = 16
SHIFT_MAX = 47
FEATURE_FRACTION_BITS = 10
"""Fraction bits of the Q5.10 int16 format that feeds GELU, sigmoid and the LayerNorm affine step."""


def saturate(x: Array, bits: int) -> Array:
    """Clamp to the signed range of `bits` bits: [-2**(bits-1), 2**(bits-1) - 1]."""
    xp = array_namespace(x)
    return xp.clip(x, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def round_half_up(x: Array, shift: Array) -> Array:
    """Divide by 2**shift, rounding halves towards plus infinity: (x + half) >> shift.

    x int64; shift 0..47, an int or an array that broadcasts with x; half is 2**(shift-1), or 0 if shift is 0.
    This is the only rounding rule of the project.
    """
    return (x + ((1 << shift) >> 1 if isinstance(shift, int) else (_ones_like(shift) << shift) >> 1)) >> shift


def _ones_like(x: Array) -> Array:
    return array_namespace(x).ones_like(x)


def requantize(acc_i32: Array, mult_u16: Array, shift: Array, bits: int) -> Array:
    """Scale an accumulator to a narrower integer: round half up, then saturate.

    acc_i32 (..., D) int64 holding values of 32 bits; mult_u16 in 0..65535 and shift in 0..47 are ints or int64
    arrays that broadcast with it. out = saturate((acc * mult + half) >> shift, bits), int64.
    RTL twin: hw/rtl/requantize.py.
    """
    return saturate(round_half_up(acc_i32 * mult_u16, shift), bits)


def quantize_multiplier(real: float) -> tuple[int, int]:
    """Return (mult, shift) with mult in [2**15, 2**16) and real ~= mult * 2**-shift, relative error <= 2**-16.

    Raises ValueError if real is not positive and finite, or if the shift would leave 0..47.
    """
    if not (math.isfinite(real) and real > 0):
        raise ValueError(f"multiplier must be positive and finite, not {real!r}")
    mantissa, exponent = math.frexp(real)
    mult, shift = round(mantissa * (1 << MULT_BITS)), MULT_BITS - exponent
    if mult == 1 << MULT_BITS:
        mult, shift = mult >> 1, shift - 1
    if not 0 <= shift <= SHIFT_MAX:
        raise ValueError(f"multiplier must be in 2**-32..2**15, not {real!r}")
    return mult, shift
