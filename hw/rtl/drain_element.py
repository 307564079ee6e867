"""What the GEMM drain does with one accumulator per cycle."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature

from hw.isa import Drain
from hw.rtl.requantize import Requantize
from hw.timing import ELEMENT_CYCLES


class DrainElement(wiring.Component):
    """Bias, requantize, and what `mode` does before an activation; a pipeline that never stops.

    Latency LATENCY cycles. docs/architecture.md section 4 defines the modes; int8 results are in the low byte, and
    modes GELU and SIGMOID give what their function takes.

    Members
    -------
    acc, bias : In(signed(32)), mult : In(16), shift : In(6) - of one element, all in the same cycle
    residual : In(signed(16)), mode : In(Drain) - of the element, RESIDUAL_CYCLES later
    o : Out(signed(16))
    """

    LATENCY = ELEMENT_CYCLES

    SIGNATURE = Signature(
        {
            "acc": In(signed(32)),
            "bias": In(signed(32)),
            "mult": In(16),
            "shift": In(6),
            "residual": In(signed(16)),
            "mode": In(Drain),
            "o": Out(signed(16)),
        }
    )

    def __init__(self):
        super().__init__(self.SIGNATURE)

    def elaborate(self, platform):
        m = Module()
        m.submodules.requantize = requantize = Requantize(16)
        biased = Signal(signed(32), reset_less=True)
        mult = Signal(16, reset_less=True)
        shift = Signal(6, reset_less=True)
        m.d.sync += [biased.eq(self.acc + self.bias), mult.eq(self.mult), shift.eq(self.shift)]
        m.d.comb += [requantize.acc.eq(biased), requantize.mult.eq(mult), requantize.shift.eq(shift)]
        scaled = requantize.o

        result = Signal(signed(16), reset_less=True)
        with m.Switch(self.mode):
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
