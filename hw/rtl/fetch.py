"""Program fetch: descriptors from DDR, ahead of the units."""

from amaranth.hdl import Cat, Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.isa import DESCRIPTOR_BYTES
from hw.rtl.axi import AXI_ADDRESS_WIDTH, BLOCK_BYTES, burst_layout, read_beat_layout
from hw.rtl.burst import BurstSplitter
from hw.rtl.ports import descriptor_layout
from hw.rtl.stream import WidthConverter
from hw.rtl.transfer import BLOCK_BITS

assert DESCRIPTOR_BYTES == BLOCK_BYTES


class Fetch(wiring.Component):
    """Program fetch: reads descriptors ahead, in order, as far as the buffer of its reader goes.

    Members
    -------
    start : In(1);  block : In - first descriptor, as address / 64;  length : In(32) - descriptors, at least 1
    bursts : Out(stream of burst_layout), beats : In(stream of read_beat_layout)
    o : Out(stream of descriptor_layout)
    axi_error : Out(1) - the next descriptor cannot be had: the bus answered with an error.
    """

    def __init__(self, axi_bytes):
        self._axi_bytes = axi_bytes
        super().__init__(
            {
                "start": In(1),
                "block": In(AXI_ADDRESS_WIDTH - BLOCK_BITS),
                "length": In(32),
                "bursts": Out(stream.Signature(burst_layout)),
                "beats": In(stream.Signature(read_beat_layout(axi_bytes))),
                "o": Out(stream.Signature(descriptor_layout)),
                "axi_error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.splitter = splitter = BurstSplitter()
        m.submodules.words = words = WidthConverter(8 * self._axi_bytes, 8 * DESCRIPTOR_BYTES)
        connect(m, splitter.o, flipped(self.bursts))
        is_error = self.beats.payload.error
        m.d.comb += [
            splitter.i.valid.eq(self.start),
            splitter.i.payload.block.eq(self.block),
            splitter.i.payload.blocks.eq(self.length),
            words.i.payload.eq(self.beats.payload.data),
            words.i.valid.eq(self.beats.valid & ~is_error),
            self.beats.ready.eq(words.i.ready & ~is_error),
            self.axi_error.eq(self.beats.valid & is_error & ~self.o.valid),
            Cat(self.o.payload).eq(words.o.payload),
            self.o.valid.eq(words.o.valid),
            words.o.ready.eq(self.o.ready),
        ]
        return m
