"""Packed dot product: one 27 x 18 multiplier computes two int8 products that share a weight."""

from enum import Enum

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.timing import dot_latency

LOW_BITS = 18
"""Width of the low field of a packed sum; the high field starts above it and is as wide."""

LOW_BIAS = 1 << (LOW_BITS - 1)
"""Added once to a chain. It makes the low field non-negative, so the high field needs no borrow correction."""

PACKED_WIDTH = 27
"""A packed operand, (high << LOW_BITS) + low, fills the A input of a DSP48E2."""

SUM_WIDTH = 2 * LOW_BITS
CASCADE_WIDTH = 48

OPMODE_BIASED = 0b10_000_01_01
"""W = RND, Z = 0, Y and X = product: the first cell of a chain (UltraScale DSP user guide UG579, OPMODE tables)."""
OPMODE_CASCADE = 0b00_001_01_01
"""W = 0, Z = PCIN, Y and X = product: every further cell."""


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
            m.submodules[f"cell_{k}"] = _dsp48e2(
                opmode=OPMODE_BIASED if k == 0 else OPMODE_CASCADE,
                i_A=_sign_extended(self.pairs[k], 30),
                i_B=_sign_extended(self.weights[k], 18),
                i_PCIN=cascade,
                o_P=total,
                o_PCOUT=cascade_out,
            )
            cascade = cascade_out
        return total


def _sign_extended(value, width):
    return Cat(value, value[-1].replicate(width - len(value)))


def _dsp48e2(*, opmode, **ports):
    """Return a DSP48E2 with its A, B, M and P registers in use: P = A * B + (RND or PCIN), 3 cycles from A to P."""
    unused_inputs = {
        "ACIN": 30, "ALUMODE": 4, "BCIN": 18, "C": 48, "CARRYCASCIN": 1, "CARRYIN": 1, "CARRYINSEL": 3, "D": 27,
        "INMODE": 5, "MULTSIGNIN": 1, "CEA1": 1, "CEAD": 1, "CEALUMODE": 1, "CEB1": 1, "CEC": 1, "CECARRYIN": 1,
        "CECTRL": 1, "CED": 1, "CEINMODE": 1, "RSTA": 1, "RSTALLCARRYIN": 1, "RSTALUMODE": 1, "RSTB": 1, "RSTC": 1,
        "RSTCTRL": 1, "RSTD": 1, "RSTINMODE": 1, "RSTM": 1, "RSTP": 1,
    }  # fmt: skip
    return Instance(
        "DSP48E2",
        p_AMULTSEL="A",
        p_BMULTSEL="B",
        p_USE_MULT="MULTIPLY",
        p_USE_SIMD="ONE48",
        p_AREG=1,
        p_ACASCREG=1,
        p_BREG=1,
        p_BCASCREG=1,
        p_MREG=1,
        p_PREG=1,
        p_ADREG=0,
        p_DREG=0,
        p_CREG=1,  # C is unused: its register saves power (UG579, unused ports)
        p_ALUMODEREG=0,
        p_CARRYINREG=0,
        p_CARRYINSELREG=0,
        p_INMODEREG=0,
        p_OPMODEREG=0,
        p_RND=Const(LOW_BIAS, CASCADE_WIDTH),
        i_CLK=ClockSignal(),
        i_OPMODE=Const(opmode, 9),
        **{f"i_CE{register}": Const(1) for register in ("A2", "B2", "M", "P")},
        **{f"i_{name}": Const(0, width) for name, width in unused_inputs.items()},
        **ports,
    )
