"""Testpoints of hw/rtl/drain_element.py and hw/rtl/word_walk.py; test_rtl_gemm.py tests the whole drain.

- element: every mode at its stated latency, one result per cycle, on extreme and random accumulators, both saturations
- walk: addresses, words and rows of several shapes, strides 0 and larger than the row, with pauses; a second walk
"""

import numpy as np
import pytest
from rtl_streams import run

from hw.isa import Drain
from hw.rtl.drain_element import DrainElement
from hw.rtl.word_walk import WordWalk
from hw.timing import ELEMENT_LATENCY, RESIDUAL_CYCLES
from quant.approx import gelu, gelu_constants, sigmoid
from quant.fixed import requantize, saturate

ONE, CURVE = gelu_constants(0.5)
OUT_MULT, OUT_SHIFT = 60000, 35


def expected_results(mode, acc, mult, shift, residual):
    scaled = requantize(acc, mult, shift, 8 if mode in (Drain.INT8, Drain.ROW_SCALE) else 16)
    if mode == Drain.GELU:
        return requantize(gelu(scaled, ONE, CURVE), OUT_MULT, OUT_SHIFT, 8)
    if mode == Drain.SIGMOID:
        return sigmoid(scaled)
    if mode == Drain.RESIDUAL:
        return saturate(scaled + residual, 16)
    return scaled


@pytest.mark.parametrize("mode", list(Drain))
def test_element(mode):
    random = np.random.default_rng(mode)
    acc = np.concatenate([[-(1 << 30), (1 << 30) - 1, -1, 0, 1], random.integers(-(1 << 24), 1 << 24, 150)])
    bias = np.concatenate([[-(1 << 30), 1 << 30, 0, 1, -1], random.integers(-(1 << 20), 1 << 20, 150)])
    mult, shift = random.integers(0, 1 << 16, acc.size), random.integers(16, 33, acc.size)
    residual = random.choice([-(1 << 15), (1 << 15) - 1, 0, 5], acc.size)
    dut = DrainElement()
    latency = ELEMENT_LATENCY[mode]
    results = []

    async def feed(ctx):
        for name, value in (
            ("mode", mode), ("one", ONE), ("curve", CURVE), ("out_mult", OUT_MULT), ("out_shift", OUT_SHIFT),
        ):  # fmt: skip
            ctx.set(getattr(dut, name), value)
        for cycle in range(acc.size + latency):
            case = min(cycle, acc.size - 1)
            for name, values in (("acc", acc), ("bias", bias), ("mult", mult), ("shift", shift)):
                ctx.set(getattr(dut, name), int(values[case]))
            ctx.set(dut.residual, int(residual[min(max(cycle - RESIDUAL_CYCLES, 0), acc.size - 1)]))
            results.append(ctx.get(dut.o))
            await ctx.tick()

    run(dut, feed)
    assert results[latency:] == expected_results(mode, acc + bias, mult, shift, residual).tolist()


@pytest.mark.parametrize(("stride", "words", "row_tiles"), [(0, 1, 1), (0, 3, 2), (7, 3, 4), (65535, 1, 2), (9, 2, 1)])
def test_walk(stride, words, row_tiles):
    dut = WordWalk()
    seen = []

    async def walk(ctx):
        for name, value in (("stride", stride), ("words", words), ("row_tiles", row_tiles)):
            ctx.set(getattr(dut, name), value)
        for base in (40, 65000):
            ctx.set(dut.base, base)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            while ctx.get(dut.is_active):
                for is_next in (0, 1, 1):
                    if not ctx.get(dut.is_active):
                        break
                    if is_next:
                        seen.append(tuple(ctx.get(getattr(dut, name)) for name in ("row", "word", "address")))
                        assert ctx.get(dut.is_last_word) == (seen[-1][1] == words - 1)
                    ctx.set(dut.next, is_next)
                    await ctx.tick()
            ctx.set(dut.next, 0)

    run(dut, walk)
    assert seen == [
        (row, word, base + row * stride + word)
        for base in (40, 65000)
        for row in range(row_tiles)
        for word in range(words)
    ]
