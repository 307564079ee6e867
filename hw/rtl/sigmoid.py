"""PLAN sigmoid of the GEMM drain."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.delay import delay
from hw.timing import SIGMOID_CYCLES


class Sigmoid(wiring.Component):
    """Piecewise linear sigmoid, Q5.10 in and Q0.8 out: a pipeline that never stops. Golden: quant.approx.sigmoid.

    Latency LATENCY cycles, 1 result per cycle.

    Members
    -------
    x : In(signed(16));  o : Out(8)
    """

    LATENCY = SIGMOID_CYCLES

    def __init__(self):
        super().__init__(
            {
                "x": In(signed(16)),
                "o": Out(8),
            }
        )

    def elaborate(self, platform):
        m = Module()

        magnitude = Signal(16, reset_less=True)
        m.d.sync += magnitude.eq(abs(self.x))

        # Slopes 1/32, 1/8 and 1/4 (PLAN, Amin 1997); the first knee is 2.375 and not 2.25 as in some copies.
        y_q15 = Signal(16, reset_less=True)
        with m.If(magnitude >= 5 << 10):
            m.d.sync += y_q15.eq(1 << 15)
        with m.Elif(magnitude >= 2432):
            m.d.sync += y_q15.eq(magnitude + 27648)
        with m.Elif(magnitude >= 1 << 10):
            m.d.sync += y_q15.eq((magnitude << 2) + 20480)
        with m.Else():
            m.d.sync += y_q15.eq((magnitude << 3) + 16384)

        is_negative = delay(m, self.x[-1], 2, name="is_negative")
        reflected_q15 = Mux(is_negative, (1 << 15) - y_q15, y_q15)
        rounded = (reflected_q15 + (1 << 6)) >> 7
        o = Signal(8, reset_less=True)
        m.d.sync += o.eq(Mux(rounded > 255, 255, rounded))
        m.d.comb += self.o.eq(o)
        return m
