"""Package row: the score-weighted mean of the rows that leave."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.delay import delay
from hw.rtl.requantize import Requantize

WEIGHT_BITS = 8


class Package(wiring.Component):
    """Weighted mean of the rows of one channel word: K sums and K requantizers, free running.

    Members
    -------
    clear : In(1) - the sums start again.
    row : In(K x i16), weight : In(u8) - one row per cycle, weight 0 for none.
    mult : In(16), shift : In(6) - of quant.approx.row_scale.
    mean : Out(K x i16) - of the rows up to LATENCY cycles before.
    """

    LATENCY = 3 + Requantize.LATENCY

    def __init__(self, depth):
        self._depth = depth
        row = data.ArrayLayout(signed(16), depth)
        super().__init__(
            {
                "clear": In(1),
                "row": In(row),
                "weight": In(WEIGHT_BITS),
                "mult": In(16),
                "shift": In(6),
                "mean": Out(row),
            }
        )

    def elaborate(self, platform):
        m = Module()
        row = delay(m, self.row, 1, name="row")
        weight = delay(m, self.weight, 1, name="weight")
        for position in range(self._depth):
            requantize = Requantize(16)
            m.submodules[f"requantize_{position}"] = requantize
            product = Signal(signed(16 + WEIGHT_BITS + 1), name=f"product_{position}", reset_less=True)
            total = Signal(signed(32), name=f"total_{position}", reset_less=True)
            m.d.sync += [
                product.eq(row[position] * weight),
                total.eq(Mux(self.clear, 0, total + product)),
            ]
            m.d.comb += [
                requantize.acc.eq(total),
                requantize.mult.eq(self.mult),
                requantize.shift.eq(self.shift),
                self.mean[position].eq(requantize.o),
            ]
        return m
