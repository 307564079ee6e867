"""Rows of WIDE one by one, each with its decision: the source of the compaction."""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.config import AccelConfig
from hw.rtl.selector import DECISION, decision_write


def row_layout(config: AccelConfig):
    """Return the layout of one token's part of a channel word; is_last marks the last live token."""
    return data.StructLayout({"row": data.ArrayLayout(signed(16), config.depth), "decision": DECISION, "is_last": 1})


class RowUnpack(wiring.Component):
    """Decision memory, and the split of WIDE words into the rows of live tokens; 1 row per cycle.

    Members
    -------
    decide : In(1), decision : In(decision_write) - from Select.
    start : In(1) - the next word is row tile 0;  live : In - stable while words come.
    words : In(word stream) - channel word by channel word, the row tiles of each in order.
    o : Out(stream of row_layout) - the live tokens in order, for each channel word.
    """

    def __init__(self, config: AccelConfig):
        self._config = config
        super().__init__(
            {
                "decide": In(1),
                "decision": In(decision_write(config)),
                "start": In(1),
                "live": In(range(config.max_tokens + 1)),
                "words": In(stream.Signature(8 * config.wide_bytes)),
                "o": Out(stream.Signature(row_layout(config))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes = self._config.rows
        m.submodules.decisions = memory = Memory(
            shape=data.ArrayLayout(DECISION, lanes), depth=self._config.row_tiles, init=[]
        )
        write, read = memory.write_port(), memory.read_port(domain="comb")

        # The front lane is on offer; both registers shift by one lane a row.
        lane_bits = 8 * self._config.wide_bytes // lanes
        word = Signal(lanes * lane_bits, reset_less=True)
        decisions = Signal(data.ArrayLayout(DECISION, lanes), reset_less=True)
        lanes_left = Signal(range(lanes + 1))
        is_last_tile = Signal(reset_less=True)
        row_tile = Signal(range(self._config.row_tiles), reset_less=True)
        unread = Signal.like(self.live, reset_less=True)
        do_step = self.o.valid & self.o.ready
        do_take = self.words.valid & self.words.ready
        m.d.comb += [
            write.en.eq(self.decide),
            write.addr.eq(self.decision.row_tile),
            write.data.eq(self.decision.decisions),
            read.addr.eq(row_tile),
            self.words.ready.eq((lanes_left == 0) | (do_step & (lanes_left == 1))),
            self.o.valid.eq(lanes_left != 0),
            self.o.payload.row.eq(word[:lane_bits]),
            self.o.payload.decision.eq(decisions[0]),
            self.o.payload.is_last.eq(is_last_tile & (lanes_left == 1)),
        ]
        with m.If(do_take):
            m.d.sync += [word.eq(self.words.payload), decisions.eq(read.data), is_last_tile.eq(unread <= lanes)]
            m.d.sync += lanes_left.eq(Mux(unread < lanes, unread, lanes))
        with m.Elif(do_step):
            m.d.sync += [word.eq(word >> lane_bits), decisions.eq(decisions.as_value() >> DECISION.size)]
            m.d.sync += lanes_left.eq(lanes_left - 1)
        with m.If(self.start | (do_take & (unread <= lanes))):
            m.d.sync += [unread.eq(self.live), row_tile.eq(0)]
        with m.Elif(do_take):
            m.d.sync += [unread.eq(unread - lanes), row_tile.eq(row_tile + 1)]
        return m
