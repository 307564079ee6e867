"""Serial reciprocal square root, bit for bit against quant.approx.reciprocal_sqrt.

Testpoints: both factors with the smallest and the largest D and extreme sums; variance 1 and 2**53 - 1; every power of
two and its neighbours (both parities of the shift, a root of 2**15 that saturates the quotient); seeded random of every
magnitude; source and sink pauses.
"""

import numpy as np
import pytest

from hw.rtl.reciprocal_sqrt import VARIANCE_BITS, ReciprocalSqrt
from quant.approx import reciprocal_sqrt
from tests.rtl_streams import run, sink, source

LANES = 8


def variances():
    rng = np.random.default_rng(7)
    powers = [1 << bit for bit in range(VARIANCE_BITS)]
    edges = [value + step for value in powers for step in (-1, 0, 1) if value + step > 0]
    random = [int(rng.integers(1, 1 << bits)) for bits in range(1, VARIANCE_BITS + 1) for _ in range(2)]
    values = [*edges, *random, (1 << VARIANCE_BITS) - 1]
    return np.array(values + [1] * (-len(values) % LANES), dtype=np.int64)


@pytest.mark.parametrize(("pause", "dim"), [(0.0, 1024), (0.5, 1), (0.8, 192)])
def test_matches_golden(pause: float, dim: int) -> None:
    values = variances()
    totals = np.random.default_rng(9).integers(-(1 << 25), 1 << 25, values.size)
    totals[:2] = -(1 << 25), (1 << 25) - 1
    dut, received = ReciprocalSqrt(LANES), []
    pairs = [{"variance": v, "total": t} for v, t in zip(values.tolist(), totals.tolist(), strict=True)]
    jobs = [pairs[first : first + LANES] for first in range(0, len(pairs), LANES)]

    async def wait_for_all(ctx):
        ctx.set(dut.dim, dim)
        while len(received) < len(jobs):
            await ctx.tick()

    run(
        dut,
        source(dut.i, jobs, pause=pause, seed=1),
        wait_for_all,
        backgrounds=[sink(dut.o, received, pause=pause, seed=2)],
    )
    mult_u16, shift = reciprocal_sqrt(values)
    entries = [entry for job in received for entry in job]
    assert [entry.factor for entry in entries] == (dim * mult_u16).tolist()
    assert [entry.offset for entry in entries] == (totals * mult_u16).tolist()
    assert [entry.shift for entry in entries] == shift.tolist()
