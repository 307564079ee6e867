"""Testpoints of hw/rtl/requantize.py.

- corners: extreme accumulators and multipliers at every shift 0..47
- ties: products exactly half-way between two results, both signs
- saturation: results one inside, at and one beyond the range
- random: all widths of accumulator and multiplier; one result per cycle at the stated latency
"""

import numpy as np
import pytest
from rtl_streams import run_pipeline

from hw.rtl.requantize import Requantize
from quant.fixed import SHIFT_MAX, requantize


def cases(bits):
    """Tuples (acc, mult, shift)."""
    yield from (
        (acc, mult, shift)
        for acc in (-(1 << 31), -(1 << 16) - 1, -1, 0, 1, (1 << 17) - 1, (1 << 31) - 1)
        for mult in (0, 1, 1 << 15, (1 << 16) - 1)
        for shift in range(SHIFT_MAX + 1)
    )
    for shift in (1, 2, 3, 8, 15):
        half = 1 << (shift - 1)
        yield from ((sign * odd * half, 1, shift) for odd in (1, 3, 5) for sign in (-1, 1))
        edge, near = 1 << (bits - 1), (-half - 1, -half, 1 - half, 0, half - 1, half, half + 1)
        yield from ((sign * edge * (1 << shift) + d, 1, shift) for sign in (-1, 1) for d in near)
    random = np.random.default_rng(bits)
    for width in range(2, 33):
        acc = random.integers(-(1 << (width - 1)), 1 << (width - 1), 20)
        mult = random.integers(0, 1 << 16, 20)
        shift = random.integers(0, SHIFT_MAX + 1, 20)
        yield from zip(acc.tolist(), mult.tolist(), shift.tolist(), strict=True)


@pytest.mark.parametrize("bits", [8, 16])
def test_requantize(bits):
    table = np.array([case for case in cases(bits) if -(1 << 31) <= case[0] < 1 << 31], dtype=np.int64)
    acc, mult, shift = table.T
    expected = requantize(acc, mult, shift, bits)
    inputs = [dict(zip(("acc", "mult", "shift"), row, strict=True)) for row in table.tolist()]
    results = run_pipeline(Requantize(bits), inputs, Requantize.LATENCY, ("o",))
    assert [result for (result,) in results] == expected.tolist()
