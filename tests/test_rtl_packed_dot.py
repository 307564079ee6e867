"""Testpoints of hw/rtl/packed_dot.py.

- pack: every pair of int8 packs to (high << 18) + low in 27 bits
- both forms: extreme and random vectors of every chain depth, one result per cycle, at the stated latency
- DSP48E2 form: simulated on a model of the primitive as UG579 documents it, from the parameters and ports of the
  instance itself; a parameter or port that the model does not know fails
"""

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from rtl_dsp48e2 import Dsp48e2Model
from rtl_streams import run, run_pipeline

from hw.rtl import dsp48e2
from hw.rtl.delay import delay
from hw.rtl.packed_dot import Multiplier, PackedDot, expand_pair, operand_delays, pack_pair
from hw.timing import dot_latency


class Skewed(wiring.Component):
    """A PackedDot behind the pair packer and the operand delays that it asks for."""

    def __init__(self, depth, multiplier):
        self.depth, self.multiplier = depth, multiplier
        super().__init__(
            {
                "low_in": In(data.ArrayLayout(signed(8), depth)),
                "high_in": In(data.ArrayLayout(signed(8), depth)),
                "weights": In(data.ArrayLayout(signed(8), depth)),
                "low": Out(signed(18)),
                "high": Out(signed(18)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.dot = dot = PackedDot(self.depth, self.multiplier)
        for k, cycles in enumerate(operand_delays(self.multiplier, self.depth)):
            pair = Signal(27, name=f"pair_{k}")
            m.d.comb += [
                pair.eq(expand_pair(*pack_pair(self.low_in[k], self.high_in[k]))),
                dot.pairs[k].eq(delay(m, pair, cycles, name=f"pair_{k}")),
                dot.weights[k].eq(delay(m, self.weights[k], cycles, name=f"weight_{k}")),
            ]
        m.d.comb += [self.low.eq(dot.low), self.high.eq(dot.high)]
        return m


def vectors(depth):
    """Operands (low, high, weights), each (cases, depth) int64: all-extreme corners, then random ones."""
    random = np.random.default_rng(depth)
    corners = [
        [np.full(depth, value) for value in (low, high, weight)]
        for low in (-128, -1, 0, 127)
        for high in (-128, 0, 127)
        for weight in (-127, 0, 127)
    ]
    low_high = random.integers(-128, 128, (2, 100, depth))
    weights = random.integers(-127, 128, (100, depth))
    return [np.concatenate(parts) for parts in zip(np.array(corners).swapaxes(0, 1), [*low_high, weights], strict=True)]


@pytest.mark.parametrize("multiplier", list(Multiplier))
@pytest.mark.parametrize("depth", [1, 2, 4, 7, 8])
def test_dot_products(multiplier, depth, monkeypatch):
    monkeypatch.setattr(dsp48e2, "Instance", Dsp48e2Model)
    low, high, weights = vectors(depth)
    dut = Skewed(depth, multiplier)
    cases = [
        {"low_in": case[0].tolist(), "high_in": case[1].tolist(), "weights": case[2].tolist()}
        for case in zip(low, high, weights, strict=True)
    ]
    expected = list(zip((low * weights).sum(1).tolist(), (high * weights).sum(1).tolist(), strict=True))
    assert run_pipeline(dut, cases, dot_latency(depth), ("low", "high")) == expected


def test_pack_every_pair():
    class Packer(wiring.Component):
        low: In(signed(8))
        high: In(signed(8))
        packed: Out(signed(27))

        def elaborate(self, platform):
            m = Module()
            m.d.comb += self.packed.eq(expand_pair(*pack_pair(self.low, self.high)))
            m.d.sync += Signal().eq(0)
            return m

    dut = Packer()

    async def check(ctx):
        for high in (-128, -127, -1, 0, 1, 126, 127):
            for low in range(-128, 128):
                ctx.set(dut.low, low)
                ctx.set(dut.high, high)
                assert ctx.get(dut.packed) == (high << 18) + low

    run(dut, check)
