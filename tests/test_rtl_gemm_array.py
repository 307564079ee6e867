"""Testpoints of hw/rtl/gemm_array.py.

- random tiles of 1 to 6 steps with extreme and random operands, bubbles between steps, both multiplier forms
- tiles back to back at the closest legal distance: C/K cycles between last steps
- first word exactly array_latency cycles after the last step, C/K words in consecutive cycles
- a reset in the middle drops what is in flight
- the generated column module: the array around it elaborates to Verilog with one instance a column
"""

from random import Random

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import ResetInserter, Signal
from rtl_dsp48e2 import Dsp48e2Model
from rtl_streams import run

from hw.config import AccelConfig
from hw.rtl import dsp48e2
from hw.rtl.gemm_array import GemmArray, GemmColumn
from hw.rtl.packed_dot import Multiplier
from hw.timing import array_latency, drain_width

SIZES = {"act_words": 64, "wide_words": 64, "weight_words": 64, "param_words": 64, "max_tokens": 32}
SHAPES = [(2, 4, 2), (2, 8, 4), (4, 8, 8), (2, 16, 16)]


def config_of(shape):
    rows, columns, depth = shape
    return AccelConfig(rows=rows, columns=columns, depth=depth, **SIZES)


def random_tile(config, random, num_steps):
    """Return (act_i8 (steps, R, K), weight_i8 (steps, C, K)); every other tile holds only extreme values."""
    act_choices, weight_choices = random.choice([((-128, 127), (-127, 127)), (range(-128, 128), range(-127, 128))])
    act = [random.choice(act_choices) for _ in range(num_steps * config.rows * config.depth)]
    weight = [random.choice(weight_choices) for _ in range(num_steps * config.columns * config.depth)]
    return (
        np.array(act).reshape(num_steps, config.rows, config.depth),
        np.array(weight).reshape(num_steps, config.columns, config.depth),
    )


async def feed(ctx, dut, config, tiles, bubble, random, last_cycles):
    """Drive the tiles' steps; note in last_cycles the cycle of each last step."""
    cycle, parts = 0, config.columns // drain_width(config)

    async def tick():
        nonlocal cycle
        await ctx.tick()
        cycle += 1

    for act, weight in tiles:
        for index in range(len(act)):
            is_last = index == len(act) - 1
            while random.random() < bubble or (is_last and last_cycles and cycle - last_cycles[-1] < parts):
                ctx.set(dut.step.valid, 0)
                await tick()
            ctx.set(dut.act, act[index].tolist())
            ctx.set(dut.weight, weight[index].tolist())
            ctx.set(dut.step, {"valid": 1, "first": index == 0, "last": is_last})
            if is_last:
                last_cycles.append(cycle)
            await tick()
    ctx.set(dut.step.valid, 0)
    for _ in range(array_latency(config) + parts):
        await tick()


def collect(dut, config, words):
    """Background that appends (cycle, is_first, sums (R, G)) of every cycle to `words`."""
    width = drain_width(config)

    async def testbench(ctx):
        cycle = 0
        while True:
            _, _, is_first, sums = await ctx.tick().sample(dut.is_first, dut.sums)
            if is_first or words:
                words.append((cycle, is_first, [[sums[r][k] for k in range(width)] for r in range(config.rows)]))
            cycle += 1

    return testbench


@pytest.mark.parametrize("multiplier", list(Multiplier))
@pytest.mark.parametrize("bubble", [0.0, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
def test_tiles(shape, bubble, multiplier, monkeypatch):
    monkeypatch.setattr(dsp48e2, "Instance", Dsp48e2Model)
    config = config_of(shape)
    random = Random(1)
    tiles = [random_tile(config, random, num_steps) for num_steps in (1, 1, 3, 2, 6, 1)]
    dut = GemmArray(config, multiplier)
    last_cycles, words = [], []
    run(
        dut,
        lambda ctx: feed(ctx, dut, config, tiles, bubble, random, last_cycles),
        backgrounds=[collect(dut, config, words)],
    )
    width = drain_width(config)
    by_cycle = {cycle: (is_first, sums) for cycle, is_first, sums in words}
    assert sum(is_first for is_first, _ in by_cycle.values()) == len(tiles)
    for (act, weight), last_cycle in zip(tiles, last_cycles, strict=True):
        expected = np.einsum("srk,sck->rc", act, weight)
        for part in range(config.columns // width):
            is_first, sums = by_cycle[last_cycle + array_latency(config) + part]
            assert is_first == (part == 0)
            assert sums == expected[:, part * width : (part + 1) * width].tolist()


def test_reset_drops_tiles_in_flight():
    config = config_of((2, 4, 2))
    array = GemmArray(config, Multiplier.BEHAVIOURAL)
    reset = Signal()
    words = []

    async def abort(ctx):
        ctx.set(array.step, {"valid": 1, "first": 1, "last": 1})
        await ctx.tick()
        ctx.set(array.step.valid, 0)
        ctx.set(reset, 1)
        await ctx.tick()
        ctx.set(reset, 0)
        for _ in range(2 * array_latency(config)):
            await ctx.tick()

    run(ResetInserter(reset)(array), abort, backgrounds=[collect(array, config, words)])
    assert not words


def test_array_of_generated_columns():
    config = config_of((4, 8, 8))
    array = verilog.convert(GemmArray(config, Multiplier.DSP48E2, column_module="gemm_column"), emit_src=False)
    assert array.count("\n  gemm_column \\column_") + array.count("\n  gemm_column column_") == config.columns
    column = verilog.convert(GemmColumn(config, Multiplier.DSP48E2), name="gemm_column", emit_src=False)
    assert column.count("DSP48E2 #(") == config.rows // 2 * config.depth
