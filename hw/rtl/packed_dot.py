"""Packed dot product: one 27 x 18 multiplier computes two int8 products that share a weight."""

from enum import Enum

from amaranth.hdl import Cat, Const, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.dsp48e2 import (
    A_WIDTH,
    B_WIDTH,
    CASCADE_WIDTH,
    W_ROUNDING,
    W_ZERO,
    Z_CASCADE,
    Z_ZERO,
    dsp48e2,
    extended,
    opmode,
)
from hw.timing import dot_latency

LOW_BITS = 18
"""Width of the low field of a packed sum; the high field starts above it and is as wide."""

LOW_BIAS = 1 << (LOW_BITS - 1)
"""Added once to a chain. It makes the low field non-negative, so the high field needs no borrow correction."""

PACKED_WIDTH = 27
"""A packed operand, (high << LOW_BITS) + low, fills the A input of a DSP48E2."""

SUM_WIDTH = 2 * LOW_BITS


class Multiplier(Enum):
    """How a packed dot product is built: plain RTL for simulation, or a chain of DSP48E2 for synthesis."""

    BEHAVIOURAL = "behavioural"
    DSP48E2 = "dsp48e2"


def operand_delays(multiplier, depth):
    """Cycles by which each of `depth` operands must follow operand 0's time to be summed dot_latency later.

    A cascade takes operand k when the sum of the operands before it arrives. The behavioural form adds all products
    at once in its only register, so its operands are delayed together, outside, where the delay is shared.
    """
    if multiplier is Multiplier.DSP48E2:
        return list(range(depth))
    return [dot_latency(depth) - 1] * depth


def pack_pair(low_i8, high_i8):
    """Return (high << LOW_BITS) + low in two parts, (low 8 bits, top 9 bits): what has to be stored of it."""
    return low_i8, (high_i8 + low_i8[-1:].as_signed())[:9]


def expand_pair(low_i8, top):
    """Return the packed operand of pack_pair's two parts: the bits between them repeat the sign of low."""
    return Cat(low_i8, low_i8[-1].replicate(LOW_BITS - 8), top).as_signed()


class PackedDot(wiring.Component):
    """Dot product of two int8 vectors of 1..CHAIN_MAX elements with the same weights; 1 result per cycle.

    Operands: pairs packed by expand_pair, activations in [-128, 127] and weights in [-127, 127]. Operand k arrives
    operand_delays(...)[k] cycles after the time of its result's request; the result follows dot_latency after it.

    Members
    -------
    pairs : In(`depth` signed packed operands);  weights : In(`depth` int8)
    low, high : Out(signed(18)) - dot products of the low and of the high vector.
    """

    def __init__(self, depth, multiplier):
        self._depth, self._multiplier = depth, multiplier
        super().__init__(
            {
                "pairs": In(data.ArrayLayout(PACKED_WIDTH, depth)),
                "weights": In(data.ArrayLayout(8, depth)),
                "low": Out(signed(LOW_BITS)),
                "high": Out(signed(LOW_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if self._multiplier is Multiplier.DSP48E2:
            total = self._cascade(m)
        else:
            total = self._single_sum(m)
        m.d.comb += [
            # Removing the bias from an 18-bit field is an inversion of its top bit.
            self.low.eq(Cat(total[: LOW_BITS - 1], ~total[LOW_BITS - 1]).as_signed()),
            self.high.eq(total[LOW_BITS:SUM_WIDTH].as_signed()),
        ]
        return m

    def _single_sum(self, m):
        total = Signal(SUM_WIDTH, reset_less=True)
        products = [
            pair.as_signed() * weight.as_signed() for pair, weight in zip(self.pairs, self.weights, strict=True)
        ]
        m.d.sync += total.eq(sum(products, start=Const(LOW_BIAS)))
        return total

    def _cascade(self, m):
        cascade = Const(0, CASCADE_WIDTH)
        for k in range(self._depth):
            total = Signal(CASCADE_WIDTH, name=f"total_{k}")
            cascade_out = Signal(CASCADE_WIDTH, name=f"cascade_{k}")
            m.submodules[f"cell_{k}"] = dsp48e2(
                input_registers=1,
                rounding=LOW_BIAS,
                i_OPMODE=opmode(w=W_ROUNDING, z=Z_ZERO) if k == 0 else opmode(w=W_ZERO, z=Z_CASCADE),
                i_A=extended(self.pairs[k].as_signed(), A_WIDTH),
                i_B=extended(self.weights[k].as_signed(), B_WIDTH),
                i_PCIN=cascade,
                o_P=total,
                o_PCOUT=cascade_out,
            )
            cascade = cascade_out
        return total
