"""One channel of one lane of LayerNorm's second pass."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature

from hw.rtl.delay import delay
from hw.rtl.reciprocal_sqrt import ROW_FACTORS
from hw.rtl.requantize import RoundShift


class NormChannel(wiring.Component):
    """One channel of one lane: x * factor - offset, shifted, times gamma plus beta, shifted; free running.

    `y` belongs to the x of LATENCY cycles before.

    Members
    -------
    x : In(i16)
    factor, offset, shift : In - of ROW_FACTORS; wanted 1, 2 and 3 cycles after their x
    gamma : In(i16), beta : In(i33) - wanted AFFINE_DELAY cycles after their x; beta with the half of out_shift added
    out_shift : In(5) - constant while results are in flight
    y : Out(i8)
    """

    AFFINE_DELAY = 3 + RoundShift.LATENCY
    LATENCY = AFFINE_DELAY + 3

    SIGNATURE = Signature(
        {
            "x": In(signed(16)),
            "factor": In(ROW_FACTORS["factor"].width),
            "offset": In(signed(ROW_FACTORS["offset"].width)),
            "shift": In(6),
            "gamma": In(signed(16)),
            "beta": In(signed(33)),
            "out_shift": In(5),
            "y": Out(signed(8)),
        }
    )

    def __init__(self):
        super().__init__(self.SIGNATURE)

    def elaborate(self, platform):
        m = Module()
        x = delay(m, self.x, 1, name="x")
        product = Signal(signed(43), reset_less=True)
        centred = Signal(signed(48), reset_less=True)
        m.submodules.round_shift = round_shift = RoundShift(16)
        m.d.sync += [product.eq(x * self.factor), centred.eq(product - self.offset)]
        m.d.comb += [round_shift.value.eq(centred), round_shift.shift.eq(self.shift)]

        scaled = Signal(signed(32), reset_less=True)
        beta = Signal(signed(33), reset_less=True)
        total = Signal(signed(34), reset_less=True)
        shifted = Signal(signed(34))
        y = Signal(signed(8), reset_less=True)
        m.d.comb += [shifted.eq(total >> self.out_shift), self.y.eq(y)]
        m.d.sync += [
            scaled.eq(round_shift.o * self.gamma),
            beta.eq(self.beta),
            total.eq(scaled + beta),
            y.eq(Mux(shifted > 127, 127, Mux(shifted < -128, -128, shifted))),
        ]
        return m
