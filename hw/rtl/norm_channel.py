"""One channel of one lane of the LayerNorm engine."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature

from hw.rtl.requantize import Requantize
from hw.rtl.row_statistics import DIM_BITS, TOTAL_BITS

CENTRED_BITS = 27
"""D*x - sum(x)."""
PRODUCT_BITS = 32


class NormChannel(wiring.Component):
    """One channel of one lane: the square in the first pass, the normalised int8 in the second; free running.

    One multiplier serves both passes: x*x, then x*D. `product` and `x_out` belong to the x of 2 cycles before,
    `y` to the x of LATENCY cycles before; gamma and beta are wanted AFFINE_DELAY cycles after their x.

    Members
    -------
    x : In(i16), is_second_pass : In(1)
    dim, total, mult, shift, out_shift : In - constant during the second pass of a row tile.
    gamma : In(i16), beta : In(i32)
    x_out : Out(i16), product : Out(i32), y : Out(i8)
    """

    AFFINE_DELAY = 3 + Requantize.LATENCY
    LATENCY = AFFINE_DELAY + 3

    SIGNATURE = Signature(
        {
            "x": In(signed(16)),
            "is_second_pass": In(1),
            "dim": In(DIM_BITS),
            "total": In(signed(TOTAL_BITS)),
            "mult": In(16),
            "shift": In(6),
            "gamma": In(signed(16)),
            "beta": In(signed(32)),
            "out_shift": In(5),
            "x_out": Out(signed(16)),
            "product": Out(signed(PRODUCT_BITS)),
            "y": Out(signed(8)),
        }
    )

    def __init__(self):
        super().__init__(self.SIGNATURE)

    def elaborate(self, platform):
        m = Module()
        x, factor = Signal(signed(16), reset_less=True), Signal(signed(16), reset_less=True)
        x_out = Signal(signed(16), reset_less=True)
        product = Signal(signed(PRODUCT_BITS), reset_less=True)
        centred = Signal(signed(CENTRED_BITS), reset_less=True)
        m.d.sync += [
            x.eq(self.x),
            factor.eq(Mux(self.is_second_pass, self.dim, self.x)),
            x_out.eq(x),
            product.eq(x * factor),
            centred.eq(product - self.total),
        ]
        m.d.comb += [self.x_out.eq(x_out), self.product.eq(product)]

        m.submodules.requantize = requantize = Requantize(16)
        m.d.comb += [
            requantize.acc.eq(centred),
            requantize.mult.eq(self.mult),
            requantize.shift.eq(self.shift),
        ]

        scaled = Signal(signed(32), reset_less=True)
        beta = Signal(signed(32), reset_less=True)
        rounded = Signal(signed(34), reset_less=True)
        half = Signal(31)
        shifted = Signal(signed(34))
        y = Signal(signed(8), reset_less=True)
        m.d.comb += [half.eq((1 << self.out_shift) >> 1), shifted.eq(rounded >> self.out_shift), self.y.eq(y)]
        m.d.sync += [
            scaled.eq(requantize.o * self.gamma),
            beta.eq(self.beta),
            rounded.eq(scaled + beta + half),
            y.eq(Mux(shifted > 127, 127, Mux(shifted < -128, -128, shifted))),
        ]
        return m
