"""First pass of LayerNorm: the sums of the rows of a row tile."""

from operator import add

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.delay import delay
from hw.rtl.row_statistics import row_sums
from hw.rtl.tree import reduce_tree


class RowSums(wiring.Component):
    """sum(x) and sum(x**2) of each lane over the parts of a row tile; 1 part per cycle, the next row tile at once.

    The sums of a row tile are offered 4 cycles after its last part. The last part of a row tile waits until those of
    the row tile before have been taken.

    Members
    -------
    parts : In(stream of R x `width` i16);  num_parts : In(17) - of a row tile, 1 or more; stable while there are any.
    start : In(1) - with the first part or before, after the last sums of another num_parts.
    o : Out(stream of row_sums) - held until they are taken.
    """

    def __init__(self, lanes, width):
        self._lanes, self._width = lanes, width
        super().__init__(
            {
                "parts": In(stream.Signature(lanes * width * 16)),
                "num_parts": In(17),
                "start": In(1),
                "o": Out(stream.Signature(row_sums(lanes))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        parts_left = Signal(17, reset_less=True)
        is_first, is_owed = Signal(), Signal()
        is_last = parts_left == 1
        take = Signal()
        m.d.comb += [take.eq(self.parts.valid & ~(is_last & is_owed)), self.parts.ready.eq(take)]
        with m.If(self.start | (take & is_last)):
            m.d.sync += [parts_left.eq(self.num_parts), is_first.eq(1)]
        with m.Elif(take):
            m.d.sync += [parts_left.eq(parts_left - 1), is_first.eq(0)]

        accumulate = delay(m, take, 3, name="accumulate", reset_less=False)
        is_first_sum = delay(m, is_first, 3, name="is_first_sum")
        is_complete = delay(m, take & is_last, 3, name="is_complete", reset_less=False)
        with m.If(take & is_last):
            m.d.sync += is_owed.eq(1)
        with m.If(is_complete):
            m.d.sync += self.o.valid.eq(1)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [self.o.valid.eq(0), is_owed.eq(0)]

        words = data.View(data.ArrayLayout(signed(16), self._lanes * self._width), self.parts.payload)
        sums = Signal(row_sums(self._lanes), reset_less=True)
        m.d.comb += self.o.payload.eq(sums)
        for lane in range(self._lanes):
            values, squares = [], []
            for position in range(self._width):
                x = Signal(signed(16), name=f"x_{lane}_{position}", reset_less=True)
                square = Signal(31, name=f"square_{lane}_{position}", reset_less=True)
                m.d.sync += [x.eq(words[lane * self._width + position]), square.eq(x * x)]
                values.append(delay(m, x, 1, name=f"x_{lane}_{position}"))
                squares.append(square)
            for terms, result, name in (
                (values, sums.totals[lane], "total"),
                (squares, sums.squares[lane], "squares"),
            ):
                part_sum = Signal(result.shape(), name=f"part_{name}_{lane}", reset_less=True)
                running = Signal(result.shape(), name=f"{name}_{lane}", reset_less=True)
                both = part_sum + Mux(is_first_sum, 0, running)
                m.d.sync += part_sum.eq(reduce_tree(add, terms))
                with m.If(accumulate):
                    m.d.sync += running.eq(both)
                with m.If(is_complete):
                    m.d.sync += result.eq(both)
        return m
