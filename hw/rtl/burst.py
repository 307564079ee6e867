"""Bursts on AXI4: splitting a transfer, and the two engines that own outstanding bus traffic.

The engines stay out of the reset of the units: when a run ends early, `flush` drops what has not reached the bus, and
the traffic that has is completed, as AXI demands.
"""

from amaranth.hdl import Cat, Const, Module, Mux, ResetInserter, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from hw.rtl.axi import (
    BLOCK_BYTES,
    ID_WIDTH,
    address_layout,
    burst_layout,
    read_beat_layout,
    transfer_layout,
    write_beat_layout,
)
from hw.rtl.stream import Fifo, RoundRobin
from hw.timing import BURST_BLOCKS, READ_BLOCKS

WRITE_BLOCKS = 2 * BURST_BLOCKS
"""Blocks buffered for writing: one burst on the bus while the next one fills."""

MAX_WRITES = 15
"""Write bursts without a response."""


class BurstSplitter(wiring.Component):
    """Cut a transfer into bursts that end at BURST_BLOCKS boundaries; 1 burst per cycle.

    Members
    -------
    i : In(stream of transfer_layout) - of at least one block;  o : Out(stream of burst_layout)
    idle : Out(1) - every burst has been taken.
    """

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(transfer_layout)),
                "o": Out(stream.Signature(burst_layout)),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rest = Signal(transfer_layout)
        to_boundary = BURST_BLOCKS - rest.block[: exact_log2(BURST_BLOCKS)]
        is_last = rest.blocks <= to_boundary
        m.d.comb += [
            self.idle.eq(rest.blocks == 0),
            self.i.ready.eq(self.idle),
            self.o.valid.eq(~self.idle),
            self.o.payload.block.eq(rest.block),
            self.o.payload.blocks.eq(Mux(is_last, rest.blocks, to_boundary)),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += rest.eq(self.i.payload)
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += [
                rest.block.eq(rest.block + to_boundary),
                rest.blocks.eq(Mux(is_last, 0, rest.blocks - to_boundary)),
            ]
        return m


def _beats(blocks, axi_bytes):
    """Beats of a number of blocks."""
    return blocks << exact_log2(BLOCK_BYTES // axi_bytes)


def _drive_address(m, channel, burst, axi_bytes):
    """Register a burst on an address channel."""
    m.d.sync += [
        channel.payload.address.eq(Cat(Const(0, exact_log2(BLOCK_BYTES)), burst.block)),
        channel.payload.len.eq(_beats(burst.blocks, axi_bytes) - 1),
        channel.valid.eq(1),
    ]


class BurstReader(wiring.Component):
    """Read engine of one client: bursts in, their beats out in order; several bursts outstanding.

    A burst is requested only if the FIFO has room for all of it, so that R never waits: a slow client cannot block
    the other client of the bus.

    Members
    -------
    bursts : In(stream of burst_layout);  beats : Out(stream of read_beat_layout)
    flush : In(1) - drop everything that is buffered or arrives; hold until `idle`.
    idle : Out(1) - nothing is offered or outstanding on the bus.
    ar : Out(stream of address_layout);  r : In(stream of read_beat_layout) - always ready.
    """

    def __init__(self, axi_bytes):
        self._axi_bytes = axi_bytes
        super().__init__(
            {
                "bursts": In(stream.Signature(burst_layout)),
                "beats": Out(stream.Signature(read_beat_layout(axi_bytes))),
                "flush": In(1),
                "idle": Out(1),
                "ar": Out(stream.Signature(address_layout)),
                "r": In(stream.Signature(read_beat_layout(axi_bytes), always_ready=True)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = _beats(READ_BLOCKS, self._axi_bytes)
        m.submodules.fifo = fifo = ResetInserter(self.flush)(Fifo(read_beat_layout(self._axi_bytes), depth))
        free = Signal(range(depth + 1), init=depth)
        outstanding = Signal(range(READ_BLOCKS + 1))
        burst = self.bursts.payload
        beats = _beats(burst.blocks, self._axi_bytes)
        can_issue = (~self.ar.valid | self.ar.ready) & (free >= beats) & ~self.flush
        do_issue = self.bursts.valid & can_issue
        do_pop = self.beats.valid & self.beats.ready
        is_burst_over = self.r.valid & self.r.payload.last
        m.d.comb += [
            self.bursts.ready.eq(can_issue),
            self.idle.eq(outstanding == 0),
            fifo.i.payload.eq(self.r.payload),
            fifo.i.valid.eq(self.r.valid),
        ]
        connect(m, fifo.o, flipped(self.beats))
        m.d.sync += [
            free.eq(free - Mux(do_issue, beats, 0) + do_pop),
            outstanding.eq(outstanding + do_issue - is_burst_over),
        ]
        with m.If(self.flush):
            m.d.sync += free.eq(depth)
        with m.If(self.ar.ready):
            m.d.sync += self.ar.valid.eq(0)
        with m.If(do_issue):
            _drive_address(m, self.ar, burst, self._axi_bytes)
        return m


class ReadShare(wiring.Component):
    """Read channel of one AXI port for several readers: round robin on AR, ARID = RID = the reader.

    Members
    -------
    client_ar : In(stream of address_layout), array;  client_r : Out(stream of read_beat_layout), array
    ar : Out(stream of address_layout)
    r : In(stream of read_beat_layout), r_id : In(ID_WIDTH) - always ready.
    """

    def __init__(self, axi_bytes, clients):
        assert 1 <= clients <= 1 << ID_WIDTH
        beats = stream.Signature(read_beat_layout(axi_bytes), always_ready=True)
        super().__init__(
            {
                "client_ar": In(stream.Signature(address_layout)).array(clients),
                "client_r": Out(beats).array(clients),
                "ar": Out(stream.Signature(address_layout)),
                "r": In(beats),
                "r_id": In(ID_WIDTH),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.arbiter = arbiter = RoundRobin(address_layout, len(self.client_ar))
        for index, source in enumerate(self.client_ar):
            connect(m, flipped(source), arbiter.i[index])
        m.d.comb += [
            self.ar.valid.eq(arbiter.o.valid),
            self.ar.payload.eq(arbiter.o.payload),
            self.ar.payload.id.eq(arbiter.grant),
            arbiter.o.ready.eq(self.ar.ready),
        ]
        for index, sink in enumerate(self.client_r):
            m.d.comb += [
                sink.payload.eq(self.r.payload),
                sink.valid.eq(self.r.valid & (self.r_id == index)),
            ]
        return m


class BurstWriter(wiring.Component):
    """Write engine: bursts and their data in, AW, W and B on the bus.

    A burst goes to the bus only when all its data is here, so that the bus never waits for a unit and a flush can
    always complete what has begun.

    Members
    -------
    bursts : In(stream of burst_layout);  beats : In(stream of 8*axi_bytes bits)
    flush : In(1) - drop what has not reached the bus; hold until `idle`.
    idle : Out(1) - every burst that was taken has its response.
    error : Out(1) - a response was SLVERR or DECERR; for one cycle.
    aw : Out(stream of address_layout);  w : Out(stream of write_beat_layout)
    b : In(stream of 1 bit: error) - always ready.
    """

    def __init__(self, axi_bytes):
        self._axi_bytes = axi_bytes
        super().__init__(
            {
                "bursts": In(stream.Signature(burst_layout)),
                "beats": In(stream.Signature(8 * axi_bytes)),
                "flush": In(1),
                "idle": Out(1),
                "error": Out(1),
                "aw": Out(stream.Signature(address_layout)),
                "w": Out(stream.Signature(write_beat_layout(axi_bytes))),
                "b": In(stream.Signature(1, always_ready=True)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        depth = _beats(WRITE_BLOCKS, self._axi_bytes)
        left = Signal(range(_beats(BURST_BLOCKS, self._axi_bytes) + 1))
        outstanding = Signal(range(MAX_WRITES + 1))
        is_active = self.aw.valid | (left != 0)
        do_drop = self.flush & ~is_active
        m.submodules.fifo = fifo = ResetInserter(do_drop)(Fifo(8 * self._axi_bytes, depth))
        connect(m, flipped(self.beats), fifo.i)

        burst = self.bursts.payload
        beats = _beats(burst.blocks, self._axi_bytes)
        can_issue = ~is_active & (fifo.level >= beats) & (outstanding != MAX_WRITES) & ~self.flush
        do_issue = self.bursts.valid & can_issue
        m.d.comb += [
            self.bursts.ready.eq(can_issue),
            self.idle.eq(outstanding == 0),
            self.error.eq(self.b.valid & self.b.payload),
            self.w.valid.eq(left != 0),
            self.w.payload.data.eq(fifo.o.payload),
            self.w.payload.last.eq(left == 1),
            fifo.o.ready.eq(self.w.valid & self.w.ready),
        ]
        m.d.sync += outstanding.eq(outstanding + do_issue - self.b.valid)
        with m.If(self.aw.ready):
            m.d.sync += self.aw.valid.eq(0)
        with m.If(self.w.valid & self.w.ready):
            m.d.sync += left.eq(left - 1)
        with m.If(do_issue):
            m.d.sync += left.eq(beats)
            _drive_address(m, self.aw, burst, self._axi_bytes)
        return m
