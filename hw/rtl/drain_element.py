"""What the GEMM drain does with one accumulator per cycle."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.isa import Drain
from hw.rtl.gelu import Gelu
from hw.rtl.requantize import Requantize
from hw.rtl.sigmoid import Sigmoid


class DrainElement(wiring.Component):
    """Bias, requantize and the function of `mode`; a pipeline that never stops, latency ELEMENT_LATENCY[mode].

    docs/architecture.md section 4 defines the modes; int8 and u8 results are in the low byte.

    Members
    -------
    acc, bias : In(signed(32)), mult : In(16), shift : In(6) - of one element, all in the same cycle
    residual : In(signed(16)) - RESIDUAL_CYCLES later
    mode : In(Drain); one, curve, out_mult : In(16), out_shift : In(6) - for GELU; stable while results are in flight
    o : Out(signed(16))
    """

    def __init__(self):
        super().__init__(
            {
                "acc": In(signed(32)),
                "bias": In(signed(32)),
                "mult": In(16),
                "shift": In(6),
                "residual": In(signed(16)),
                "mode": In(Drain),
                "one": In(16),
                "curve": In(16),
                "out_mult": In(16),
                "out_shift": In(6),
                "o": Out(signed(16)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.requantize = requantize = Requantize(16)
        biased = Signal(signed(32), reset_less=True)
        mult = Signal(16, reset_less=True)
        shift = Signal(6, reset_less=True)
        m.d.sync += [biased.eq(self.acc + self.bias), mult.eq(self.mult), shift.eq(self.shift)]
        m.d.comb += [requantize.acc.eq(biased), requantize.mult.eq(mult), requantize.shift.eq(shift)]
        scaled = requantize.o

        m.submodules.gelu = gelu = Gelu()
        m.submodules.requantize_gelu = requantize_gelu = Requantize(8)
        m.d.comb += [
            gelu.x.eq(scaled),
            gelu.one.eq(self.one),
            gelu.curve.eq(self.curve),
            requantize_gelu.acc.eq(gelu.o),
            requantize_gelu.mult.eq(self.out_mult),
            requantize_gelu.shift.eq(self.out_shift),
        ]

        m.submodules.sigmoid = sigmoid = Sigmoid()
        m.d.comb += sigmoid.x.eq(scaled)

        result = Signal(signed(16), reset_less=True)
        with m.Switch(self.mode):
            with m.Case(Drain.GELU):
                m.d.sync += result.eq(requantize_gelu.o)
            with m.Case(Drain.SIGMOID):
                m.d.sync += result.eq(sigmoid.o)
            with m.Case(Drain.INT8, Drain.ROW_SCALE):
                m.d.sync += result.eq(_saturate(scaled, 8))
            with m.Case(Drain.RESIDUAL):
                m.d.sync += result.eq(_saturate(self.residual + scaled, 16))
            with m.Default():
                m.d.sync += result.eq(scaled)
        m.d.comb += self.o.eq(result)
        return m


def _saturate(value, bits):
    """Twin of quant.fixed.saturate."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return Mux(value < low, low, Mux(value > high, high, value))
