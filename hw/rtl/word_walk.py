"""Addresses of the words of a tensor, row tile by row tile."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.ports import ADDRESS_WIDTH


class WordWalk(wiring.Component):
    """Counter over `row_tiles` row tiles of `words` words: address = base + row * stride + word. One word per cycle.

    Members
    -------
    base, stride, words, row_tiles : In(16) - at least one word and one row tile; stable until the walk ends
    start : In(1) - the walk begins in the next cycle;  next : In(1) - go on to the next word
    is_active : Out(1) - the outputs below are a word of the walk
    address : Out(17) - one bit wider than a port's address, to catch an overflow;  word, row : Out(16)
    is_last_word : Out(1) - of its row tile
    """

    def __init__(self):
        super().__init__(
            {
                "base": In(ADDRESS_WIDTH),
                "stride": In(ADDRESS_WIDTH),
                "words": In(16),
                "row_tiles": In(16),
                "start": In(1),
                "next": In(1),
                "is_active": Out(1),
                "address": Out(ADDRESS_WIDTH + 1),
                "word": Out(16),
                "row": Out(16),
                "is_last_word": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        row_address = Signal(ADDRESS_WIDTH + 1)
        next_row_address = row_address + self.stride
        m.d.comb += self.is_last_word.eq(self.word == self.words - 1)

        with m.If(self.start):
            m.d.sync += [
                self.is_active.eq(1),
                self.address.eq(self.base),
                row_address.eq(self.base),
                self.word.eq(0),
                self.row.eq(0),
            ]
        with m.Elif(self.next & self.is_last_word):
            m.d.sync += [
                self.is_active.eq(self.row != self.row_tiles - 1),
                self.address.eq(next_row_address),
                row_address.eq(next_row_address),
                self.word.eq(0),
                self.row.eq(self.row + 1),
            ]
        with m.Elif(self.next):
            m.d.sync += [self.address.eq(self.address + 1), self.word.eq(self.word + 1)]
        return m
