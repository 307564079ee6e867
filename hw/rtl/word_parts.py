"""Words of R lanes x K channels in equal parts: part p holds channels p*G..p*G+G-1 of every lane."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out


def select_part(lane, width, index):
    """Return the `width` values, as plain bits, of part `index` (a signal) of a lane's K values of equal size."""
    values = [Value.cast(lane[k]) for k in range(len(lane))]
    return [Cat(values[first::width]).word_select(index, len(values[0])) for first in range(width)]


class Gather(wiring.Component):
    """Parts into words: `valid` and `word` in the cycle of the push of a word's last part.

    Members
    -------
    push : In(1), part : In(R x G values of `bits`) - the parts of a word, in order, in any cycles.
    valid : Out(1);  word : Out(R x K values of `bits`)
    """

    def __init__(self, rows, depth, width, bits):
        self._rows, self._parts, self._lane_bits = rows, depth // width, width * bits
        super().__init__(
            {
                "push": In(1),
                "part": In(rows * width * bits),
                "valid": Out(1),
                "word": Out(rows * depth * bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        index = Signal(range(self._parts))
        earlier = [
            Signal(self._rows * self._lane_bits, name=f"part_{p}", reset_less=True) for p in range(self._parts - 1)
        ]
        with m.If(self.push):
            m.d.sync += index.eq(index + 1)  # the number of parts is a power of two
            with m.Switch(index):
                for p, part in enumerate(earlier):
                    with m.Case(p):
                        m.d.sync += part.eq(self.part)
        parts = [*earlier, self.part]
        m.d.comb += [
            self.valid.eq(self.push & (index == self._parts - 1)),
            self.word.eq(
                Cat(part.word_select(row, self._lane_bits) for row in range(self._rows) for part in parts),
            ),
        ]
        return m


class Split(wiring.Component):
    """Words into parts, 1 part per cycle; it holds one word, and takes the next with the last part of the one before.

    Members
    -------
    i : In(stream of R x K values of `bits`);  o : Out(stream of R x G values of `bits`)
    """

    def __init__(self, rows, depth, width, bits):
        self._rows, self._depth, self._width, self._bits = rows, depth, width, bits
        super().__init__(
            {
                "i": In(stream.Signature(rows * depth * bits)),
                "o": Out(stream.Signature(rows * width * bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes = data.ArrayLayout(data.ArrayLayout(self._bits, self._depth), self._rows)
        word = Signal(lanes, reset_less=True)
        index = Signal(range(self._depth // self._width))
        is_full = Signal()
        m.d.comb += [
            self.o.valid.eq(is_full),
            self.o.payload.eq(Cat(select_part(word[row], self._width, index) for row in range(self._rows))),
            self.i.ready.eq(~is_full | (self.o.ready & index.all())),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += index.eq(index + 1)
        with m.If(self.i.ready):
            m.d.sync += is_full.eq(self.i.valid)
            m.d.sync += word.as_value().eq(self.i.payload)
        return m
