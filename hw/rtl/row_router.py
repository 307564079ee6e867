"""Rows to lanes: the only path on which data changes its lane."""

from amaranth.hdl import Array, Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.config import AccelConfig
from hw.rtl.address_walk import WALK_WIDTH
from hw.rtl.ports import ADDRESS_WIDTH
from hw.rtl.write_queue import walk_write_layout
from hw.timing import compact_rows


def routed_rows(config: AccelConfig):
    """Return the layout of R/2 rows and where they go; sources, here, beyond and address as in plan_step."""
    rows = compact_rows(config)
    return data.StructLayout(
        {
            "rows": data.ArrayLayout(16 * config.depth, rows),
            "sources": data.ArrayLayout(range(max(rows, 2)), config.rows),
            "here": config.rows,
            "beyond": config.rows,
            "address": WALK_WIDTH,
        }
    )


class RowRouter(wiring.Component):
    """One register per lane between rows and writes; latency 1 cycle, 1 transfer and 1 write per cycle.

    Half a word of rows reaches at most two row tiles. Those for the first are written in the next cycle, and those
    beyond with the next transfer or, without one, alone: so at most half a word waits, and a transfer
    never meets a lane that is still to be written.

    Members
    -------
    i : In(stream of routed_rows);  stride : In(16) - from one row tile to the next.
    writes : Out(stream of unchecked writes)
    is_empty : Out(1) - every write has transferred.
    """

    def __init__(self, config: AccelConfig):
        self._config = config
        super().__init__(
            {
                "i": In(stream.Signature(routed_rows(config))),
                "stride": In(ADDRESS_WIDTH),
                "writes": Out(stream.Signature(walk_write_layout(8 * config.wide_bytes, config.rows))),
                "is_empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        lanes = self._config.rows
        routed = self.i.payload
        here, beyond = Signal(lanes), Signal(lanes)
        address = Signal(WALK_WIDTH, reset_less=True)
        row = Signal(data.ArrayLayout(16 * self._config.depth, lanes), reset_less=True)
        do_write = self.writes.valid & self.writes.ready
        do_load = self.i.valid & self.i.ready
        m.d.comb += [
            self.is_empty.eq(here == 0),
            self.i.ready.eq(self.is_empty | do_write),
            self.writes.valid.eq(~self.is_empty),
            self.writes.payload.address.eq(address),
            self.writes.payload.enable.eq(here),
            self.writes.payload.data.eq(row.as_value()),
        ]
        with m.If(do_load):
            m.d.sync += [here.eq(beyond | routed.here), beyond.eq(routed.beyond), address.eq(routed.address)]
            for lane in range(lanes):
                with m.If(routed.here[lane] | routed.beyond[lane]):
                    m.d.sync += row[lane].eq(Array(routed.rows)[routed.sources[lane]])
        with m.Elif(do_write):
            m.d.sync += [here.eq(beyond), beyond.eq(0), address.eq(address + self.stride)]
        return m
