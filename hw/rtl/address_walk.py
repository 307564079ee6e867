"""Address generator: the two nested loops in which every vector engine visits a memory."""

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.ports import ADDRESS_WIDTH

WALK_WIDTH = ADDRESS_WIDTH + 1
"""One bit more than an address: a step beyond the last word of a memory is seen as such, not wrapped."""

COUNT_WIDTH = 16

walk_layout = data.StructLayout(
    {
        "base": ADDRESS_WIDTH,
        "inner_step": ADDRESS_WIDTH,
        "inner_count": COUNT_WIDTH,
        "outer_step": ADDRESS_WIDTH,
        "outer_count": COUNT_WIDTH,
    }
)
"""for o < outer_count: for i < inner_count: base + o*outer_step + i*inner_step. A count of 0 means 1."""


class AddressWalk(wiring.Component):
    """Stream of the addresses of two nested loops; the first one cycle after the start, then 1 per cycle.

    Each run of the inner loop is given `passes` times. An address is exact as long as those before it are addresses
    of ADDRESS_WIDTH bits, so the first one that leaves a memory is always recognised.

    Members
    -------
    i : In(stream of walk_layout) - taken when the previous walk is over.
    o : Out(stream of WALK_WIDTH bits)
    """

    def __init__(self, passes=1):
        self._passes = passes
        super().__init__({"i": In(stream.Signature(walk_layout)), "o": Out(stream.Signature(WALK_WIDTH))})

    def elaborate(self, platform):
        m = Module()
        walk = Signal(walk_layout, reset_less=True)
        start_of_inner = Signal(WALK_WIDTH, reset_less=True)
        address = Signal(WALK_WIDTH, reset_less=True)
        inner, outer = Signal(COUNT_WIDTH, reset_less=True), Signal(COUNT_WIDTH, reset_less=True)
        visit = Signal(range(max(self._passes, 2)), reset_less=True)
        is_walking = Signal()
        next_start = Signal(WALK_WIDTH)

        m.d.comb += [
            self.i.ready.eq(~is_walking),
            self.o.valid.eq(is_walking),
            self.o.payload.eq(address),
            next_start.eq(start_of_inner + walk.outer_step),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                walk.eq(self.i.payload),
                start_of_inner.eq(self.i.payload.base),
                address.eq(self.i.payload.base),
                inner.eq(1),
                outer.eq(1),
                visit.eq(0),
                is_walking.eq(1),
            ]
        with m.If(self.o.valid & self.o.ready):
            with m.If(inner < walk.inner_count):
                m.d.sync += [inner.eq(inner + 1), address.eq(address + walk.inner_step)]
            with m.Elif(visit != self._passes - 1):
                m.d.sync += [inner.eq(1), visit.eq(visit + 1), address.eq(start_of_inner)]
            with m.Elif(outer < walk.outer_count):
                m.d.sync += [
                    inner.eq(1),
                    visit.eq(0),
                    outer.eq(outer + 1),
                    start_of_inner.eq(next_start),
                    address.eq(next_start),
                ]
            with m.Else():
                m.d.sync += is_walking.eq(0)
        return m
