"""Polynomial GELU of the GEMM drain."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.delay import delay
from hw.rtl.fabric import fabric_square
from hw.timing import GELU_CYCLES
from quant.approx import ERF_KNEE_Q10


class Gelu(wiring.Component):
    """x/2 * (1 + L_erf(x / sqrt(2))) + offset, Q5.10 and Q11 in, Q26 out: a pipeline that never stops.

    Golden: quant.approx.gelu.

    Latency LATENCY cycles, 1 result per cycle.

    Members
    -------
    x : In(signed(16))
    one, curve : In(16) - quant.approx.gelu_constants; stable while results are in flight
    offset : In(signed(16)) - quant.approx.gelu_offset; as stable
    o : Out(signed(32))
    """

    LATENCY = GELU_CYCLES

    def __init__(self):
        super().__init__(
            {
                "x": In(signed(16)),
                "one": In(16),
                "curve": In(16),
                "offset": In(signed(16)),
                "o": Out(signed(32)),
            }
        )

    def elaborate(self, platform):
        m = Module()

        magnitude = Signal(16, reset_less=True)
        below_knee = Signal(range(ERF_KNEE_Q10 + 1), reset_less=True)
        square = Signal(2 * len(below_knee), reset_less=True)
        m.d.sync += [
            magnitude.eq(abs(self.x)),
            below_knee.eq(Mux(magnitude > ERF_KNEE_Q10, 0, ERF_KNEE_Q10 - magnitude)),
            square.eq(fabric_square(below_knee)),
        ]

        square_q13 = square[7:]
        scaled = Signal(len(square_q13) + len(self.curve), reset_less=True)
        erf_q15 = Signal(16, reset_less=True)  # not negative for any delta1 in (0, 1]
        m.d.sync += [
            scaled.eq(square_q13 * self.curve),
            erf_q15.eq(self.one - ((scaled + (1 << 12)) >> 13)),
        ]

        product = Signal(32, reset_less=True)
        moved = Signal(signed(17), reset_less=True)
        total = Signal(signed(32), reset_less=True)
        m.d.sync += [
            moved.eq(delay(m, self.x, 5, name="x") + self.offset),
            product.eq(delay(m, magnitude, 4, name="magnitude") * erf_q15),
            total.eq((moved << 15) + product),
        ]
        m.d.comb += self.o.eq(total)
        return m
