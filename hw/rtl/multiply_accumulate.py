"""Sum of products in the accumulator of one multiplier."""

from amaranth.hdl import Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.dsp48e2 import A_WIDTH, B_WIDTH, CASCADE_WIDTH, W_TOTAL, W_ZERO, Z_ZERO, dsp48e2, extended, opmode
from hw.rtl.packed_dot import Multiplier


class MultiplyAccumulate(wiring.Component):
    """Sum of products of i16 and u8, which must fit 32 bits; 1 product per cycle.

    Members
    -------
    multiply : In(1) - value : In(signed(16)) and weight : In(8) become the product.
    accumulate : In(1) - from the next cycle on: the product is added to the total; is_first : In(1) - becomes it.
    total : Out(signed(32)) - one cycle after `accumulate`.
    """

    def __init__(self, multiplier: Multiplier):
        self._multiplier = multiplier
        super().__init__(
            {
                "multiply": In(1),
                "value": In(signed(16)),
                "weight": In(8),
                "accumulate": In(1),
                "is_first": In(1),
                "total": Out(signed(32)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if self._multiplier is Multiplier.DSP48E2:
            total = Signal(CASCADE_WIDTH)
            m.submodules.cell = dsp48e2(
                input_registers=0,
                enable_product=self.multiply,
                enable_total=self.accumulate,
                i_OPMODE=opmode(w=Mux(self.is_first, Const(W_ZERO, 2), Const(W_TOTAL, 2)), z=Z_ZERO),
                i_A=extended(self.value, A_WIDTH),
                i_B=extended(self.weight, B_WIDTH),
                i_PCIN=Const(0, CASCADE_WIDTH),
                o_P=total,
                o_PCOUT=Signal(CASCADE_WIDTH),
            )
        else:
            product = Signal(signed(24), reset_less=True)
            total = Signal(signed(32), reset_less=True)
            with m.If(self.multiply):
                m.d.sync += product.eq(self.value * self.weight)
            with m.If(self.accumulate):
                m.d.sync += total.eq(product + Mux(self.is_first, 0, total))
        m.d.comb += self.total.eq(total)
        return m
