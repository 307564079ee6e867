"""Package row: the score-weighted mean of the rows that leave."""

from operator import add

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AccelConfig
from hw.rtl.delay import delay
from hw.rtl.multiply_accumulate import MultiplyAccumulate
from hw.rtl.packed_dot import Multiplier
from hw.rtl.requantize import Requantize
from hw.rtl.selector import WEIGHT_BITS
from hw.rtl.tree import reduce_tree
from hw.timing import compact_rows, package_positions


class Package(wiring.Component):
    """Weighted mean of the rows of each channel word: R/2 rows per cycle, and one requantizer for every 8 positions.

    The sums of a channel word may grow while the mean of the one before is worked out, one position after the other.
    is_ready comes as many cycles after the last step as there are positions to a requantizer, and 10 more, if the
    constants are known and the mean before has been taken by then.

    Members
    -------
    step : In(1) - rows : In(R/2 x K x i16), weights : In(R/2 x u8) enter the sums; is_last : In(1) - as the last.
    is_scaled : In(1), mult : In(16), shift : In(6) - of quant.approx.row_scale, once they are known.
    is_busy : Out(1) - a last step has come whose mean is not ready: another must wait.
    mean : Out(K x i16), is_ready : Out(1), take : In(1) - is_ready falls.
    """

    def __init__(self, config: AccelConfig, multiplier: Multiplier):
        self._multiplier = multiplier
        self._depth, self._rows = config.depth, compact_rows(config)
        self._positions = package_positions(config)
        row = data.ArrayLayout(signed(16), self._depth)
        super().__init__(
            {
                "step": In(1),
                "is_last": In(1),
                "rows": In(data.ArrayLayout(row, self._rows)),
                "weights": In(data.ArrayLayout(WEIGHT_BITS, self._rows)),
                "is_scaled": In(1),
                "mult": In(16),
                "shift": In(6),
                "is_busy": Out(1),
                "mean": Out(row),
                "is_ready": Out(1),
                "take": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        is_complete = Signal()
        sums = self._accumulate(m, is_complete)

        # One position after the other: its sums over the rows of a step, the requantizer, the mean
        index = Signal(range(self._positions))
        is_summed, do_scale = Signal(), Signal()
        is_last_index = index == self._positions - 1
        m.d.comb += do_scale.eq(is_summed & self.is_scaled & ~self.is_ready)
        with m.If(do_scale):
            m.d.sync += [index.eq(Mux(is_last_index, 0, index + 1)), is_summed.eq(~is_last_index)]
        with m.If(is_complete):
            m.d.sync += is_summed.eq(1)
        is_scaled = delay(m, do_scale, 1 + Requantize.LATENCY, name="is_scaled", reset_less=False)
        ends = delay(m, do_scale & is_last_index, 1 + Requantize.LATENCY, name="ends", reset_less=False)
        for group in range(self._depth // self._positions):
            first = group * self._positions
            m.submodules[f"requantize_{group}"] = requantize = Requantize(16)
            acc = Signal(signed(32), name=f"acc_{group}", reset_less=True)
            terms = [Array(row[first : first + self._positions])[index] for row in sums]
            m.d.sync += acc.eq(reduce_tree(add, terms))
            m.d.comb += [requantize.acc.eq(acc), requantize.mult.eq(self.mult), requantize.shift.eq(self.shift)]
            mean = [self.mean[position] for position in range(first, first + self._positions)]
            with m.If(is_scaled):
                for position, following in zip(mean, [*mean[1:], requantize.o], strict=True):
                    m.d.sync += position.eq(following)
        with m.If(self.take):
            m.d.sync += self.is_ready.eq(0)
        with m.If(ends):
            m.d.sync += [self.is_ready.eq(1), self.is_busy.eq(0)]
        with m.If(self.step & self.is_last):
            m.d.sync += self.is_busy.eq(1)
        return m

    def _accumulate(self, m, is_complete):
        """Sum the products, each row of a step in a multiplier of its own; return the sums when complete."""
        is_fresh = Signal(init=1)
        has_product = delay(m, self.step, 1, name="has_product", reset_less=False)
        is_last_product = delay(m, self.is_last, 1, name="is_last_product")
        with m.If(has_product):
            m.d.sync += is_fresh.eq(is_last_product)
        m.d.sync += is_complete.eq(has_product & is_last_product)
        complete = []
        for row in range(self._rows):
            for position in range(self._depth):
                name = f"{row}_{position}"
                m.submodules[f"sum_{name}"] = total = MultiplyAccumulate(self._multiplier)
                m.d.comb += [
                    total.multiply.eq(self.step),
                    total.value.eq(self.rows[row][position]),
                    total.weight.eq(self.weights[row]),
                    total.accumulate.eq(has_product),
                    total.is_first.eq(is_fresh),
                ]
                held = Signal(signed(32), name=f"held_{name}", reset_less=True)
                with m.If(is_complete):
                    m.d.sync += held.eq(total.total)
                complete.append(held)
        return [complete[row * self._depth : (row + 1) * self._depth] for row in range(self._rows)]
