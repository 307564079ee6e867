"""Write end of a free-running pipeline: a queue whose room is reserved when a word enters the pipeline."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.rtl.address_walk import WALK_WIDTH
from hw.rtl.stream import Fifo


def walk_write_layout(width, enables):
    """Return the layout of a write whose address has not been checked against its memory yet."""
    return data.StructLayout({"address": WALK_WIDTH, "data": width, "enable": enables})


class WriteQueue(wiring.Component):
    """Queue of `depth` writes to consecutive addresses of a walk, all lanes enabled.

    A pipeline stage cannot be stopped: it reserves a place before it takes a word and pushes the result later. `depth`
    must exceed the length of that pipeline for 1 word per cycle.

    Members
    -------
    has_room : Out(1), reserve : In(1) - reserve only with has_room.
    push : In(1), data : In(width) - one push for each reservation, in order.
    addresses : In(stream of WALK_WIDTH bits) - one address is taken by each push and must be valid by then.
    writes : Out(stream of walk_write_layout)
    is_empty : Out(1) - every reserved write has transferred.
    """

    def __init__(self, width, enables, depth=16):
        self._layout, self._depth = walk_write_layout(width, enables), depth
        super().__init__(
            {
                "has_room": Out(1),
                "reserve": In(1),
                "push": In(1),
                "data": In(width),
                "addresses": In(stream.Signature(WALK_WIDTH)),
                "writes": Out(stream.Signature(self._layout)),
                "is_empty": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifo = fifo = Fifo(self._layout, self._depth)
        reserved = Signal(range(self._depth + 1))
        do_write = self.writes.valid & self.writes.ready
        m.d.comb += [
            self.has_room.eq(reserved != self._depth),
            self.is_empty.eq(reserved == 0),
            fifo.i.valid.eq(self.push),
            fifo.i.payload.address.eq(self.addresses.payload),
            fifo.i.payload.data.eq(self.data),
            fifo.i.payload.enable.eq(~0),
            self.addresses.ready.eq(self.push),
        ]
        connect(m, fifo.o, flipped(self.writes))
        m.d.sync += reserved.eq(reserved + self.reserve - do_write)
        return m
