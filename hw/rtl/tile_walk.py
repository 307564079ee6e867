"""Operand addresses of the steps of a GEMM: row tiles, in them column tiles, in them steps."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.ports import ADDRESS_WIDTH


class TileWalk(wiring.Component):
    """Counter over the steps of a GEMM, one per cycle.

    Members
    -------
    act_base, act_stride, weight_base, weight_stride : In(16) - first word; distance of row tiles, of column tiles
    row_tiles, words, steps : In(16) - row tiles, output words of a row tile, steps of a tile; at least one each
    start : In(1) - the walk begins in the next cycle;  next : In(1) - go on to the next step
    is_active : Out(1) - the outputs below are a step of the walk
    act_address, weight_address : Out(17) - one bit wider than a port's address, to catch an overflow
    is_first, is_last : Out(1) - step of its tile;  num_words : Out - output words of its tile, at most C/K
    """

    def __init__(self, tile_words):
        """Take C/K, the output words of a whole tile."""
        self._tile_words = tile_words
        super().__init__(
            {
                "act_base": In(ADDRESS_WIDTH),
                "act_stride": In(ADDRESS_WIDTH),
                "weight_base": In(ADDRESS_WIDTH),
                "weight_stride": In(ADDRESS_WIDTH),
                "row_tiles": In(16),
                "words": In(16),
                "steps": In(16),
                "start": In(1),
                "next": In(1),
                "is_active": Out(1),
                "act_address": Out(ADDRESS_WIDTH + 1),
                "weight_address": Out(ADDRESS_WIDTH + 1),
                "is_first": Out(1),
                "is_last": Out(1),
                "num_words": Out(range(tile_words + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        row_tile, step, words_left = Signal(16), Signal(16), Signal(16)
        act_tile, weight_tile = Signal(ADDRESS_WIDTH + 1), Signal(ADDRESS_WIDTH + 1)
        is_last_tile = words_left <= self._tile_words
        m.d.comb += [
            self.is_first.eq(step == 0),
            self.is_last.eq(step == self.steps - 1),
            self.num_words.eq(Mux(is_last_tile, words_left, self._tile_words)),
        ]

        with m.If(self.start):
            m.d.sync += [
                self.is_active.eq(1),
                act_tile.eq(self.act_base),
                self.act_address.eq(self.act_base),
                weight_tile.eq(self.weight_base),
                self.weight_address.eq(self.weight_base),
                row_tile.eq(0),
                words_left.eq(self.words),
                step.eq(0),
            ]
        with m.Elif(self.next & self.is_last):
            next_act_tile = Mux(is_last_tile, act_tile + self.act_stride, act_tile)
            next_weight_tile = Mux(is_last_tile, self.weight_base, weight_tile + self.weight_stride)
            m.d.sync += [
                self.is_active.eq(~(is_last_tile & (row_tile == self.row_tiles - 1))),
                act_tile.eq(next_act_tile),
                self.act_address.eq(next_act_tile),
                weight_tile.eq(next_weight_tile),
                self.weight_address.eq(next_weight_tile),
                row_tile.eq(row_tile + is_last_tile),
                words_left.eq(Mux(is_last_tile, self.words, words_left - self._tile_words)),
                step.eq(0),
            ]
        with m.Elif(self.next):
            m.d.sync += [
                self.act_address.eq(self.act_address + 1),
                self.weight_address.eq(self.weight_address + 1),
                step.eq(step + 1),
            ]
        return m
