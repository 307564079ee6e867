"""Requantizer: int32 accumulator times multiplier, shift, round half up, saturate."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.delay import delay
from hw.rtl.fabric import fabric_product
from hw.timing import REQUANTIZE_CYCLES, ROUND_SHIFT_CYCLES

SPLIT = 26
"""A DSP multiplies the accumulator's bits below; the six above are worth a few adders, not another DSP."""


class RoundShift(wiring.Component):
    """saturate((value + half) >> shift): a pipeline that never stops, the end of every requantize.

    Latency LATENCY cycles, 1 result per cycle; the inputs should come from registers.

    Members
    -------
    value : In(signed(48));  shift : In(6), 0..47
    o : Out(signed(bits))
    """

    LATENCY = ROUND_SHIFT_CYCLES

    def __init__(self, bits):
        self._bits = bits
        super().__init__({"value": In(signed(48)), "shift": In(6), "o": Out(signed(bits))})

    def elaborate(self, platform):
        m = Module()

        # Shifting twice the value keeps the half bit, which makes rounding half up an increment for any shift.
        coarse = Signal(signed(49), reset_less=True)
        fine = Signal(signed(49), reset_less=True)
        fine_shift = delay(m, self.shift[:2], 1, name="fine_shift")
        m.d.sync += [
            coarse.eq((self.value << 1) >> Cat(Const(0, 2), self.shift[2:])),
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
        high = self.acc[SPLIT:].as_signed()
        product_high = Signal(signed(len(high) + 16), reset_less=True)
        product_low = Signal(SPLIT + 16, reset_less=True)
        product = Signal(signed(48), reset_less=True)
        m.d.sync += [
            product_high.eq(fabric_product(self.mult, high)),
            product_low.eq(self.acc[:SPLIT] * self.mult),
            product.eq((product_high << SPLIT) + product_low),
        ]
        m.submodules.round_shift = round_shift = RoundShift(self._bits)
        m.d.comb += [
            round_shift.value.eq(product),
            round_shift.shift.eq(delay(m, self.shift, REQUANTIZE_CYCLES - ROUND_SHIFT_CYCLES, name="shift")),
            self.o.eq(round_shift.o),
        ]
        return m
