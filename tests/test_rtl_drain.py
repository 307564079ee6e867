"""Testpoints of the parts of the drain; test_rtl_gemm.py tests the whole.

- element: every mode at the stated latency, one result per cycle, on extreme and random accumulators, both saturations
- activation: GELU and sigmoid of whole words at the stated rate, with pauses on both sides and full queues
- walk: addresses, words and rows of several shapes, strides 0 and larger than the row, with pauses; a second walk
"""

import numpy as np
import pytest
from rtl_streams import run, sink, source, unpack_word

from hw.config import AccelConfig
from hw.isa import Drain
from hw.rtl.activation import Activation
from hw.rtl.drain_element import DrainElement
from hw.rtl.word_walk import WordWalk
from hw.timing import RESIDUAL_CYCLES, activation_width
from quant.approx import gelu, gelu_constants, sigmoid
from quant.fixed import requantize, saturate

ONE, CURVE = gelu_constants(0.5)
OUT_MULT, OUT_SHIFT, OUT_OFFSET = 60000, 35, -4567


def expected_results(mode, acc, mult, shift, residual):
    scaled = requantize(acc, mult, shift, 8 if mode in (Drain.INT8, Drain.ROW_SCALE) else 16)
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
    latency = DrainElement.LATENCY
    results = []

    async def feed(ctx):
        ctx.set(dut.mode, mode)
        for cycle in range(acc.size + latency):
            case = min(cycle, acc.size - 1)
            for name, values in (("acc", acc), ("bias", bias), ("mult", mult), ("shift", shift)):
                ctx.set(getattr(dut, name), int(values[case]))
            ctx.set(dut.residual, int(residual[min(max(cycle - RESIDUAL_CYCLES, 0), acc.size - 1)]))
            results.append(ctx.get(dut.o))
            await ctx.tick()

    run(dut, feed)
    assert results[latency:] == expected_results(mode, acc + bias, mult, shift, residual).tolist()


@pytest.mark.parametrize("pauses", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.9)])
@pytest.mark.parametrize("mode", [Drain.GELU, Drain.SIGMOID])
@pytest.mark.parametrize("depth", [2, 8])
def test_activation(mode, depth, pauses):
    config = AccelConfig(2, 8, depth, act_words=16, wide_words=16, weight_words=16, param_words=16, max_tokens=16)
    num_words, lanes = 60, config.act_bytes
    x_i16 = np.random.default_rng(depth).integers(-6000, 6000, (num_words, config.rows, depth))
    x_i16[0] = np.resize([-32768, 32767, 0, -1], (config.rows, depth))
    dut, received, cycles = Activation(config), [], []

    async def wait(ctx):
        for name, value in (
            ("is_gelu", mode == Drain.GELU), ("one", ONE), ("curve", CURVE), ("offset", OUT_OFFSET), ("mult", OUT_MULT),
            ("shift", OUT_SHIFT),
        ):  # fmt: skip
            ctx.set(getattr(dut, name), value)
        while len(received) < num_words:
            await ctx.tick()
            cycles.append(len(received))

    words = [word.tolist() for word in x_i16]
    run(
        dut,
        source(dut.i, words, pause=pauses[0]),
        wait,
        backgrounds=[sink(dut.o, received, pause=pauses[1], seed=1)],
    )
    is_gelu = mode == Drain.GELU
    expected = requantize(gelu(x_i16, ONE, CURVE, OUT_OFFSET), OUT_MULT, OUT_SHIFT, 8) if is_gelu else sigmoid(x_i16)
    assert [unpack_word(word, 8, lanes, is_signed=is_gelu).tolist() for word in received] == expected.reshape(
        num_words, -1
    ).tolist()
    if pauses == (0.0, 0.0):
        period = depth // activation_width(config)
        assert len(cycles) - cycles.index(1) == period * (num_words - 1) + 1


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
