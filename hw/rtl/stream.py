"""Small stream pieces: bounded FIFO, width converter, round-robin arbiter, back-pressured memory reader."""

from amaranth.hdl import Cat, Module, Mux, Shape, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFO
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.rtl.ports import ADDRESS_WIDTH, read_signature
from hw.timing import READ_LATENCY


class Fifo(wiring.Component):
    """First-in first-out queue of `depth` payloads; latency 1 cycle, 1 transfer per cycle.

    Members
    -------
    i : In(stream of shape);  o : Out(stream of shape)
    level : Out(range(depth + 1)) - payloads held.
    """

    def __init__(self, shape, depth):
        self._shape, self._depth = shape, depth
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "level": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifo = fifo = SyncFIFO(width=Shape.cast(self._shape).width, depth=self._depth)
        m.d.comb += [
            fifo.w_data.eq(self.i.payload),
            fifo.w_en.eq(self.i.valid),
            self.i.ready.eq(fifo.w_rdy),
            Cat(self.o.payload).eq(fifo.r_data),
            self.o.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.o.ready),
            self.level.eq(fifo.level),
        ]
        return m


class WidthConverter(wiring.Component):
    """Gather narrow payloads into wide ones, or split wide ones; the low bits come first.

    One width is a multiple of the other. Takes or gives one payload of the narrower side per cycle. Gathering has a
    latency of 1 cycle after the last part; splitting and equal widths have none.

    Members
    -------
    i : In(stream of i_width bits);  o : Out(stream of o_width bits)
    """

    def __init__(self, i_width, o_width):
        assert max(i_width, o_width) % min(i_width, o_width) == 0
        self._i_width, self._o_width = i_width, o_width
        super().__init__({"i": In(stream.Signature(i_width)), "o": Out(stream.Signature(o_width))})

    def elaborate(self, platform):
        m = Module()
        if self._i_width < self._o_width:
            self._gather(m, self._o_width // self._i_width)
        elif self._i_width > self._o_width:
            self._split(m, self._i_width // self._o_width)
        else:
            connect(m, flipped(self.i), flipped(self.o))
        return m

    def _gather(self, m, parts):
        word = Signal(self._o_width, reset_less=True)
        index = Signal(range(parts))
        is_full = Signal()
        m.d.comb += [
            self.i.ready.eq(~is_full | self.o.ready),
            self.o.valid.eq(is_full),
            self.o.payload.eq(word),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += is_full.eq(0)
        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [
                word.word_select(index, self._i_width).eq(self.i.payload),
                index.eq(Mux(index == parts - 1, 0, index + 1)),
                is_full.eq(index == parts - 1),
            ]

    def _split(self, m, parts):
        index = Signal(range(parts))
        is_last = index == parts - 1
        m.d.comb += [
            self.o.valid.eq(self.i.valid),
            self.o.payload.eq(self.i.payload.word_select(index, self._o_width)),
            self.i.ready.eq(self.o.ready & is_last),
        ]
        with m.If(self.o.valid & self.o.ready):
            m.d.sync += index.eq(Mux(is_last, 0, index + 1))


class RoundRobin(wiring.Component):
    """Arbiter of `count` streams: no latency; a waiting stream is served after at most count - 1 others.

    Once offered, a payload stays until it is taken, also when other streams become valid meanwhile.

    Members
    -------
    i : In(stream of shape), array of count;  o : Out(stream of shape)
    grant : Out(index) - the stream that `o` offers.
    """

    def __init__(self, shape, count):
        self._count = count
        self._index = range(max(count, 2))  # a signal of no bits would be two bits wide in Verilog
        super().__init__(
            {
                "i": In(stream.Signature(shape)).array(count),
                "o": Out(stream.Signature(shape)),
                "grant": Out(self._index),
            }
        )

    def elaborate(self, platform):
        m = Module()
        last = Signal(self._index, init=self._count - 1)
        is_held = Signal()
        valid = Cat(source.valid for source in self.i)
        with m.If(is_held):
            m.d.comb += self.grant.eq(last)
        with m.Else():
            # From the least to the most preferred, so that the last assignment wins: the successor of `last`.
            with m.Switch(last):
                for previous in range(self._count):
                    with m.Case(previous):
                        for step in reversed(range(1, self._count + 1)):
                            candidate = (previous + step) % self._count
                            with m.If(valid[candidate]):
                                m.d.comb += self.grant.eq(candidate)
        with m.Switch(self.grant):
            for index, source in enumerate(self.i):
                with m.Case(index):
                    m.d.comb += [
                        self.o.payload.eq(source.payload),
                        self.o.valid.eq(source.valid),
                        source.ready.eq(self.o.ready),
                    ]
        with m.If(self.o.valid):
            m.d.sync += [last.eq(self.grant), is_held.eq(~self.o.ready)]
        return m


class MemoryReader(wiring.Component):
    """Read port with back-pressure: a stream of addresses becomes a stream of words.

    A read is requested only if its word will fit, so that responses are never lost; 1 word per cycle.

    Members
    -------
    addresses : In(stream of a word address);  words : Out(stream of width bits)
    port : Out(read port)
    """

    def __init__(self, width):
        self._width = width
        super().__init__(
            {
                "addresses": In(stream.Signature(ADDRESS_WIDTH)),
                "words": Out(stream.Signature(width)),
                "port": Out(read_signature(width)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # The round trip of a credit is the memory latency, one cycle of FIFO and the return of the credit itself.
        depth = READ_LATENCY + 2
        m.submodules.fifo = fifo = Fifo(self._width, depth)
        free = Signal(range(depth + 1), init=depth)
        has_room = free != 0
        do_request = self.port.request.valid & self.port.request.ready
        do_pop = self.words.valid & self.words.ready
        m.d.comb += [
            self.port.request.payload.eq(self.addresses.payload),
            self.port.request.valid.eq(self.addresses.valid & has_room),
            self.addresses.ready.eq(self.port.request.ready & has_room),
            fifo.i.payload.eq(self.port.response),
            fifo.i.valid.eq(self.port.response_valid),
        ]
        connect(m, fifo.o, flipped(self.words))
        m.d.sync += free.eq(free - do_request + do_pop)
        return m
