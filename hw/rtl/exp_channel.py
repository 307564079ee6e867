"""One column of one lane of the softmax engine."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, Signature

from hw.rtl.delay import delay
from quant.approx import EXP_CENTRE_Q12, EXP_MAX, EXP_OFFSET_Q15, EXP_SCALE_Q16

SCORE_MIN = -(1 << 15)


class ExpChannel(wiring.Component):
    """One column of one lane: quant.approx.exp2_negative of peak - x, free running, latency LATENCY cycles.

    Members
    -------
    x : In(i16), is_valid : In(1) - an invalid column is the smallest score and gives 0.
    peak : In(i16) - wanted 1 cycle after x and not below it.
    score : Out(i16) - x, or the smallest score, 1 cycle later.
    y : Out(u7)
    """

    LATENCY = 7

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
        base_q12 = Signal(13, reset_less=True)
        square = Signal(26, reset_less=True)
        scaled = Signal(31, reset_less=True)
        power_q15 = Signal(16, reset_less=True)
        y = Signal(7, reset_less=True)
        m.d.sync += [
            score.eq(Mux(self.is_valid, self.x, SCORE_MIN)),
            distance.eq(self.peak - score),
            base_q12.eq(EXP_CENTRE_Q12 - (distance[:8] << 4)),
            square.eq(base_q12 * base_q12),
            scaled.eq((square >> 9) * EXP_SCALE_Q16),
            power_q15.eq((scaled >> 16) + EXP_OFFSET_Q15),
        ]

        whole = Signal(4)
        m.d.comb += whole.eq(Mux(distance[12:] == 0, distance[8:12], 15))
        whole = delay(m, whole, 4, name="whole")
        is_valid = delay(m, self.is_valid, 6, name="is_valid")
        # A shift of whole + 8 with round half up: one place less, then an increment and the last place.
        twice, rounded = Signal(9), Signal(9)
        m.d.comb += [twice.eq((power_q15 >> 7) >> whole), rounded.eq((twice + 1) >> 1)]
        m.d.sync += y.eq(Mux(is_valid, Mux(rounded > EXP_MAX, EXP_MAX, rounded), 0))
        m.d.comb += [self.score.eq(score), self.y.eq(y)]
        return m
