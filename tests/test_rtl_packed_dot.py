"""Testpoints of hw/rtl/packed_dot.py.

- pack: every pair of int8 packs to (high << 18) + low in 27 bits
- both forms: extreme and random vectors of every chain depth, one result per cycle, at the stated latency
- DSP48E2 form: simulated on a model of the primitive as UG579 documents it, from the parameters and ports of the
  instance itself; a parameter or port that the model does not know fails
"""

import numpy as np
import pytest
from amaranth.hdl import Cat, Const, Elaboratable, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from rtl_streams import run, run_pipeline

from hw.rtl import packed_dot
from hw.rtl.delay import delay
from hw.rtl.packed_dot import Multiplier, PackedDot, dot_latency, expand_pair, operand_delays, pack_pair


class Dsp48e2Model(Elaboratable):
    """The part of a DSP48E2 that UG579 documents for a multiply-add; stands in for its Instance.

    Raises AssertionError if an input or parameter asks for anything that is not modelled.
    """

    FIXED = {
        "AMULTSEL": "A", "BMULTSEL": "B", "USE_MULT": "MULTIPLY", "USE_SIMD": "ONE48", "ADREG": 0, "DREG": 0,
        "CREG": 1, "ALUMODEREG": 0, "CARRYINREG": 0, "CARRYINSELREG": 0, "INMODEREG": 0, "OPMODEREG": 0,
    }  # fmt: skip
    ENABLES = ("CEA2", "CEB2", "CEM", "CEP")
    IDLE_INPUTS = (
        "ACIN", "ALUMODE", "BCIN", "C", "CARRYCASCIN", "CARRYIN", "CARRYINSEL", "D", "INMODE", "MULTSIGNIN", "CEA1",
        "CEAD", "CEALUMODE", "CEB1", "CEC", "CECARRYIN", "CECTRL", "CED", "CEINMODE", "RSTA", "RSTALLCARRYIN",
        "RSTALUMODE", "RSTB", "RSTC", "RSTCTRL", "RSTD", "RSTINMODE", "RSTM", "RSTP",
    )  # fmt: skip

    def __init__(self, name, **arguments):
        assert name == "DSP48E2"
        self.arguments = arguments

    def take(self, name):
        value = self.arguments.pop(name)
        return value.value if isinstance(value, Const) else value

    def elaborate(self, platform):
        m = Module()
        for name, value in self.FIXED.items():
            assert self.take(f"p_{name}") == value, name
        assert [self.take(f"i_{name}") for name in self.ENABLES] == [1, 1, 1, 1]
        assert not any(self.take(f"i_{name}") for name in self.IDLE_INPUTS)
        self.take("i_CLK")
        opmode, rounding = self.take("i_OPMODE"), self.take("p_RND")
        stages = {name: self.take(f"p_{name}") for name in ("AREG", "ACASCREG", "BREG", "BCASCREG", "MREG", "PREG")}
        assert stages["AREG"] == stages["ACASCREG"] and stages["BREG"] == stages["BCASCREG"]
        a, b = Value.cast(self.arguments.pop("i_A")), Value.cast(self.arguments.pop("i_B"))
        p, pcout = self.arguments.pop("o_P"), self.arguments.pop("o_PCOUT")
        pcin = Value.cast(self.arguments.pop("i_PCIN"))
        assert not self.arguments, self.arguments
        assert (len(a), len(b), len(pcin), len(p), len(pcout)) == (30, 18, 48, 48, 48)

        # The multiplier takes A[26:0] and B[17:0]; its 45-bit product passes the X and Y multiplexers together.
        a, b = delay(m, a, stages["AREG"], name="a"), delay(m, b, stages["BREG"], name="b")
        product = Signal(signed(45))
        m.d.comb += product.eq(a[:27].as_signed() * b.as_signed())
        product = delay(m, product, stages["MREG"], name="product")
        assert opmode & 0b1111 == 0b0101
        z = {0b000: Const(0, 48), 0b001: pcin}[opmode >> 4 & 0b111]
        w = {0b00: 0, 0b10: rounding}[opmode >> 7]
        total = Signal(48)
        m.d.comb += total.eq(z + w + product)
        total = delay(m, total, stages["PREG"], name="p")
        m.d.comb += [p.eq(total), pcout.eq(total)]
        return m


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
    monkeypatch.setattr(packed_dot, "Instance", Dsp48e2Model)
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
