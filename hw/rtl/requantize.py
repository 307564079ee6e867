"""Requantizer: int32 accumulator times multiplier, shift, round half up, saturate."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.delay import delay
from hw.timing import REQUANTIZE_CYCLES

SPLIT = 17
"""The accumulator is split here into two DSP products: 17 is the shift that a DSP cascade has built in."""


class Requantize(wiring.Component):
    """saturate((acc * mult + half) >> shift): a pipeline that never stops. Golden: quant.fixed.requantize.

    Latency LATENCY cycles, 1 result per cycle; the inputs should come from registers.

    Members
    -------
    acc : In(signed(32));  mult : In(16);  shift : In(6), 0..47
    o : Out(signed(bits))
    """

    LATENCY = REQUANTIZE_CYCLES

    def __init__(self, bits):
        self._bits = bits
        super().__init__({"acc": In(signed(32)), "mult": In(16), "shift": In(6), "o": Out(signed(bits))})

    def elaborate(self, platform):
        m = Module()

        product_high = Signal(signed(32), reset_less=True)
        product_low = Signal(SPLIT + 16, reset_less=True)
        product = Signal(signed(48), reset_less=True)
        m.d.sync += [
            product_high.eq(self.acc[SPLIT:].as_signed() * self.mult),
            product_low.eq(self.acc[:SPLIT] * self.mult),
            product.eq((product_high << SPLIT) + product_low),
        ]

        # Shifting twice the product keeps the half bit, which makes rounding half up an increment for any shift.
        coarse = Signal(signed(49), reset_less=True)
        fine = Signal(signed(49), reset_less=True)
        coarse_shift = delay(m, self.shift[2:], 2, name="coarse_shift")
        fine_shift = delay(m, self.shift[:2], 3, name="fine_shift")
        m.d.sync += [
            coarse.eq((product << 1) >> Cat(Const(0, 2), coarse_shift)),
            fine.eq(coarse >> fine_shift),
        ]

        # Clipped before the increment, above to an even value: then the increment cannot overflow.
        clipped = Signal(signed(self._bits + 1), reset_less=True)
        is_negative, above = fine[-1], fine[self._bits :]
        is_beyond = above != is_negative.replicate(len(above))
        is_highest = ~is_negative & fine[: self._bits].all()
        is_clipped = is_beyond | is_highest
        limit = Mux(is_negative, -(1 << self._bits), (1 << self._bits) - 2)
        m.d.sync += clipped.eq(Mux(is_clipped, limit, fine))
        rounded = Signal(signed(self._bits), reset_less=True)
        m.d.sync += rounded.eq((clipped + 1) >> 1)
        m.d.comb += self.o.eq(rounded)
        return m
