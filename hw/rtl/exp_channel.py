"""One column of one lane of the softmax engine."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature

from hw.rtl.delay import delay
from quant.approx import EXP_CENTRE_Q12, EXP_MAX, EXP_OFFSET_Q15, EXP_SCALE_Q16

SCORE_MIN = -(1 << 15)
FRACTION_BITS = 8


class ExpChannel(wiring.Component):
    """One column of one lane: quant.approx.exp2_negative of peak - x, free running, latency LATENCY cycles.

    The quadratic of the fraction is a table: 256 entries take fewer LUTs than the sums around its multipliers.

    Members
    -------
    x : In(i16), is_valid : In(1) - an invalid column is the smallest score and gives 0.
    peak : In(i16) - wanted 1 cycle after x and not below it.
    score : Out(i16) - x, or the smallest score, 1 cycle later.
    y : Out(u7)
    """

    LATENCY = 4

    SIGNATURE = Signature(
        {
            "x": In(signed(16)),
            "is_valid": In(1),
            "peak": In(signed(16)),
            "score": Out(signed(16)),
            "y": Out(7),
        }
    )

    def __init__(self):
        super().__init__(self.SIGNATURE)

    def elaborate(self, platform):
        m = Module()
        score = Signal(signed(16), reset_less=True)
        distance = Signal(16, reset_less=True)
        power_q8 = Signal(9, reset_less=True)
        whole = Signal(4, reset_less=True)
        y = Signal(7, reset_less=True)
        m.d.sync += [
            score.eq(Mux(self.is_valid, self.x, SCORE_MIN)),
            distance.eq(self.peak - score),
            whole.eq(Mux(distance[12:] == 0, distance[FRACTION_BITS:12], 15)),
        ]
        with m.Switch(distance[:FRACTION_BITS]):
            for fraction in range(1 << FRACTION_BITS):
                square_q15 = (EXP_CENTRE_Q12 - (fraction << 4)) ** 2 >> 9
                with m.Case(fraction):
                    m.d.sync += power_q8.eq(((square_q15 * EXP_SCALE_Q16 >> 16) + EXP_OFFSET_Q15) >> 7)

        is_valid = delay(m, self.is_valid, 3, name="is_valid")
        # A shift of whole + 8 with round half up: one place less, then an increment and the last place.
        twice, rounded = Signal(9), Signal(9)
        m.d.comb += [twice.eq(power_q8 >> whole), rounded.eq((twice + 1) >> 1)]
        m.d.sync += y.eq(Mux(is_valid, Mux(rounded > EXP_MAX, EXP_MAX, rounded), 0))
        m.d.comb += [self.score.eq(score), self.y.eq(y)]
        return m
