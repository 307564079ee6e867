"""Striping of a LOAD over the AXI ports: stripe n of the transfer goes to port n mod ports.

A stripe is 256 bytes of the transfer, or one memory word where that is larger. Stripes are whole words, so each port
assembles its own words and knows their addresses: no port waits for another one.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.rtl.axi import BLOCK_BYTES, burst_layout, read_beat_layout
from hw.rtl.ports import ADDRESS_WIDTH
from hw.timing import BURST_BLOCKS

stripe_layout = data.StructLayout({"blocks": range(17), "words": range(65)})
"""Size of one stripe, in DDR blocks and in words of its memory: 1024 bytes and 256 / 4 words at most."""


def word_layout(width):
    """Return the layout of an assembled word: its address, and `width` bits of which the last ones are the word."""
    return data.StructLayout({"address": ADDRESS_WIDTH, "data": width})


def register_width(axi_bytes, word_bytes):
    """Bits of a register that holds a beat of axi_bytes and any word of the sizes in word_bytes."""
    return 8 * max(axi_bytes, *word_bytes)


def stripe_sizes(block, word_bytes):
    """Return the size of the first stripe of a transfer from a DDR block, and that of the others, as stripe_layout.

    Stripes end at multiples of their size in DDR, so that each one is one burst. If the words do not lie at multiples
    of theirs, the ends are as far off as the words.
    """
    stripe_bytes = max(BURST_BLOCKS * BLOCK_BYTES, word_bytes)
    step_bytes = max(BLOCK_BYTES, word_bytes)
    step_blocks, stripe_blocks = step_bytes // BLOCK_BYTES, stripe_bytes // BLOCK_BYTES
    into_stripe = Cat(Const(0, exact_log2(step_bytes)), block[exact_log2(step_blocks) : exact_log2(stripe_blocks)])
    return tuple(
        {"blocks": size >> exact_log2(BLOCK_BYTES), "words": size >> exact_log2(word_bytes)}
        for size in (stripe_bytes - into_stripe, Const(stripe_bytes))
    )


class StripeDealer(wiring.Component):
    """Cut bursts at the ends of stripes and give each to the port of its stripe; 1 burst per cycle, no latency.

    Members
    -------
    start : In(1) - a transfer begins in the next cycle: its first stripe is `first`, every other one `later`.
    first, later : In(stripe_layout) - `later` is stable during the transfer.
    i : In(stream of burst_layout);  o : Out(streams of burst_layout), array of ports
    """

    def __init__(self, ports):
        self._ports = ports
        super().__init__(
            {
                "start": In(1),
                "first": In(stripe_layout),
                "later": In(stripe_layout),
                "i": In(stream.Signature(burst_layout)),
                "o": Out(stream.Signature(burst_layout)).array(ports),
            }
        )

    def elaborate(self, platform):
        m = Module()
        port = Signal(range(max(self._ports, 2)))  # a signal of no bits would be two bits wide in Verilog
        stripe_left = Signal.like(self.first.blocks, reset_less=True)
        taken = Signal(range(BURST_BLOCKS))  # blocks of the offered burst that are dealt already
        burst = self.i.payload
        rest = Signal.like(burst.blocks)
        is_stripe_over, is_burst_over, is_dealt = Signal(), Signal(), Signal()
        blocks = Mux(is_stripe_over, stripe_left, rest)
        m.d.comb += [
            rest.eq(burst.blocks - taken),
            is_stripe_over.eq(stripe_left <= rest),
            is_burst_over.eq(rest <= stripe_left),
            self.i.ready.eq(is_dealt & is_burst_over),
        ]
        for index, sink in enumerate(self.o):
            is_turn = port == index
            m.d.comb += [
                sink.payload.block.eq(burst.block + taken),
                sink.payload.blocks.eq(blocks),
                sink.valid.eq(self.i.valid & is_turn),
            ]
            with m.If(is_turn):
                m.d.comb += is_dealt.eq(self.i.valid & sink.ready)
        with m.If(is_dealt):
            m.d.sync += [
                taken.eq(Mux(is_burst_over, 0, taken + stripe_left)),
                stripe_left.eq(Mux(is_stripe_over, self.later.blocks, stripe_left - rest)),
            ]
            with m.If(is_stripe_over):
                m.d.sync += port.eq(Mux(port == self._ports - 1, 0, port + 1))
        with m.If(self.start):
            m.d.sync += [port.eq(0), stripe_left.eq(self.first.blocks)]
        return m


class StripeWords(wiring.Component):
    """The beats of one port to words with their addresses: 1 beat per cycle, or 1 word where words are smaller.

    memories : {Memory: bytes of a word}. Beats shift into one register from its top, so that the bits of a finished
    word lie in one place for each memory. Words smaller than a beat shift out of the top beat towards its low end.

    Members
    -------
    start : In(1) - a transfer begins; it is the only one until its last word is taken.
    memory : In(8) - the Memory of the transfer; stable from start on, as are the next two.
    later_words : In - words of every stripe but the transfer's first;  skip : In - from the last word of a stripe to
    the first word of this port's next one.
    address, words : In - with start: the first word of this port, and the words of this port's first stripe.
    beats : In(stream of read_beat_layout) - a beat with an error is not taken.
    o : Out(stream of word_layout) - the word is in the bits that word_slice gives.
    """

    def __init__(self, axi_bytes, memories):
        self._axi_bytes, self._memories = axi_bytes, memories
        self._width = register_width(axi_bytes, memories.values())
        super().__init__(
            {
                "start": In(1),
                "memory": In(8),
                "later_words": In(stripe_layout["words"].shape),
                "skip": In(ADDRESS_WIDTH),
                "address": In(ADDRESS_WIDTH),
                "words": In(stripe_layout["words"].shape),
                "beats": In(stream.Signature(read_beat_layout(axi_bytes))),
                "o": Out(stream.Signature(word_layout(self._width))),
            }
        )

    def word_slice(self, memory):
        """Return the bits of o.payload.data that hold a word of a memory."""
        first = self._width - 8 * max(self._axi_bytes, self._memories[memory])
        return slice(first, first + 8 * self._memories[memory])

    def elaborate(self, platform):
        m = Module()
        word = Signal(self._width, reset_less=True)
        beat = Signal(range(max(self._width // (8 * self._axi_bytes), 2)))  # of the word that is being assembled
        words_held = Signal(range(max(self._axi_bytes // min(self._memories.values()), 1) + 1))
        stripe_left = Signal.like(self.words, reset_less=True)
        address = Signal(ADDRESS_WIDTH, reset_less=True)
        is_last_beat, do_take, do_give = Signal(), Signal(), Signal()
        is_error = self.beats.payload.error
        m.d.comb += [
            self.o.valid.eq(words_held != 0),
            self.o.payload.address.eq(address),
            self.o.payload.data.eq(word),
            do_give.eq(self.o.valid & self.o.ready),
            self.beats.ready.eq(((words_held == 0) | ((words_held == 1) & do_give)) & ~is_error),
            do_take.eq(self.beats.valid & self.beats.ready),
        ]
        with m.If(do_give):
            m.d.sync += [
                words_held.eq(words_held - 1),
                address.eq(address + Mux(stripe_left == 1, self.skip, 1)),
                stripe_left.eq(Mux(stripe_left == 1, self.later_words, stripe_left - 1)),
            ]
        with m.Switch(self.memory):
            for memory, word_bytes in self._memories.items():
                with m.Case(memory):
                    m.d.comb += is_last_beat.eq(beat == max(word_bytes // self._axi_bytes, 1) - 1)
                    if word_bytes < self._axi_bytes:
                        with m.If(do_give):
                            m.d.sync += word.eq(word >> (8 * word_bytes))
                    with m.If(do_take & is_last_beat):
                        m.d.sync += words_held.eq(max(self._axi_bytes // word_bytes, 1))
        with m.If(do_take):
            m.d.sync += [
                word.eq(Cat(word[8 * self._axi_bytes :], self.beats.payload.data)),
                beat.eq(Mux(is_last_beat, 0, beat + 1)),
            ]
        with m.If(self.start):
            m.d.sync += [address.eq(self.address), stripe_left.eq(self.words)]
        return m
