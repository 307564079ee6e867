"""Serial divider and row scale, bit for bit against integer division and quant.approx.row_scale.

Testpoints: quotient corners (0, 1, largest, saturated) and random; row sums 0, 1, every power of two and its
neighbours, the maximum; smallest and largest multiplier and shift; lanes in lock step; source and sink pauses; the
stated latency.
"""

import numpy as np
import pytest

from hw.rtl.divide import QUOTIENT_BITS, Divide
from hw.rtl.row_scale import RowScale
from quant.approx import row_scale
from tests.rtl_streams import run, sink, source

LANES = 4


def run_jobs(dut, jobs, pause=0.0):
    """Send the jobs, return one list of lanes per job."""
    received = []

    async def wait_for_all(ctx):
        while len(received) < len(jobs):
            await ctx.tick()

    run(
        dut,
        source(dut.i, jobs, pause=pause, seed=1),
        wait_for_all,
        backgrounds=[sink(dut.o, received, pause=pause, seed=2)],
    )
    return received


@pytest.mark.parametrize("bits_per_cycle", [1, 2])
def test_divide_is_floor_division(bits_per_cycle: int) -> None:
    rng = np.random.default_rng(3)
    cases = [(0, 0, 1), (0, 65535, 1), (0, 65535, 65535), (131070, 65535, 131071), (65535, 0, 65536), (1, 0, 2)]
    for divisor in rng.integers(1, 1 << 17, 58).tolist():
        cases.append((int(rng.integers(0, divisor)), int(rng.integers(0, 1 << 16)), divisor))
    jobs = [
        [{"high": high, "low": low, "divisor": divisor} for high, low, divisor in cases[i : i + LANES]]
        for i in range(0, len(cases), LANES)
    ]
    quotients = [lane for job in run_jobs(Divide(LANES, bits_per_cycle), jobs) for lane in job]
    assert quotients == [((high << 16) + low) // divisor for high, low, divisor in cases]


def test_divide_saturates_when_high_equals_divisor() -> None:
    jobs = [[{"high": divisor, "low": 0, "divisor": divisor}] for divisor in (1, 32768, 131071)]
    assert [list(job) for job in run_jobs(Divide(1), jobs)] == [[65535]] * 3


@pytest.mark.parametrize("pause", [0.0, 0.6])
@pytest.mark.parametrize(("mult", "shift"), [(1 << 15, 0), (65535, 31), (45678, 15)])
def test_row_scale_matches_golden(mult: int, shift: int, pause: float) -> None:
    rng = np.random.default_rng(5)
    edges = [value + step for value in 1 << np.arange(17) for step in (-1, 0, 1)]
    sums = np.array([*edges, 131071, *rng.integers(0, 1 << 17, 20)], dtype=np.int64)
    sums = sums[: len(sums) // LANES * LANES]
    jobs = [{"sums": row.tolist(), "mult": mult, "shift": shift} for row in sums.reshape(-1, LANES)]
    entries = [entry for job in run_jobs(RowScale(LANES), jobs, pause) for entry in job]
    mult_u16, shift_u8 = row_scale(sums, mult, shift)
    assert [entry.mult for entry in entries] == mult_u16.tolist()
    assert [entry.shift for entry in entries] == shift_u8.tolist()


def test_latency_is_as_stated() -> None:
    dut = RowScale(1)
    cycles = 0

    async def measure(ctx):
        nonlocal cycles
        ctx.set(dut.i.payload, {"sums": [77], "mult": 40000, "shift": 3})
        ctx.set(dut.i.valid, 1)
        await ctx.tick().until(dut.i.ready)
        ctx.set(dut.i.valid, 0)
        while not ctx.get(dut.o.valid):
            await ctx.tick()
            cycles += 1

    run(dut, measure)
    assert cycles == 5 + 1 + QUOTIENT_BITS // 2
