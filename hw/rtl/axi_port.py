"""One AXI4 master port of the core: its burst engines and their pins."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped
from amaranth.utils import exact_log2

from hw.rtl.axi import axi4_signature, burst_layout, read_beat_layout
from hw.rtl.burst import BurstReader, BurstWriter, ReadShare

BURST_INCR = 1
CACHE_BUFFERABLE = 0b0011  # normal, non-cacheable, bufferable: what the Zynq high-performance ports expect


class AxiPort(wiring.Component):
    """AXI4 master with `readers` read clients and, if has_writer, one write client.

    Traffic on the bus is completed whatever the clients do; `flush` drops the rest and holds until all is idle.

    Members
    -------
    pins : Out(axi4_signature) - the write channels are silent without a writer.
    read_bursts : In(stream of burst_layout), read_beats : Out(stream of read_beat_layout) - arrays, one per reader
    read_flush : In(one bit per reader), read_idle : Out(one bit per reader)
    write_bursts : In(stream of burst_layout), write_beats : In(stream of 8*axi_bytes bits)
    write_flush : In(1), write_idle : Out(1), write_error : Out(1) - as BurstWriter; the write members are absent
    without a writer.
    """

    def __init__(self, axi_bytes, readers, *, has_writer):
        self._axi_bytes, self._readers, self._has_writer = axi_bytes, readers, has_writer
        members = {
            "pins": Out(axi4_signature(axi_bytes)),
            "read_bursts": In(stream.Signature(burst_layout)).array(readers),
            "read_beats": Out(stream.Signature(read_beat_layout(axi_bytes))).array(readers),
            "read_flush": In(readers),
            "read_idle": Out(readers),
        }
        if has_writer:
            members |= {
                "write_bursts": In(stream.Signature(burst_layout)),
                "write_beats": In(stream.Signature(8 * axi_bytes)),
                "write_flush": In(1),
                "write_idle": Out(1),
                "write_error": Out(1),
            }
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        self._connect_reads(m)
        if self._has_writer:
            self._connect_writes(m)
        return m

    def _connect_reads(self, m):
        pins = self.pins
        m.submodules.share = share = ReadShare(self._axi_bytes, self._readers)
        for index in range(self._readers):
            m.submodules[f"reader_{index}"] = reader = BurstReader(self._axi_bytes)
            connect(m, flipped(self.read_bursts[index]), reader.bursts)
            connect(m, reader.beats, flipped(self.read_beats[index]))
            connect(m, reader.ar, share.client_ar[index])
            connect(m, share.client_r[index], reader.r)
            m.d.comb += [reader.flush.eq(self.read_flush[index]), self.read_idle[index].eq(reader.idle)]
        self._connect_address(m, "ar", share.ar)
        m.d.comb += [
            share.r.valid.eq(pins.rvalid),
            share.r.payload.data.eq(pins.rdata),
            share.r.payload.last.eq(pins.rlast),
            share.r.payload.error.eq(pins.rresp[1]),
            share.r_id.eq(pins.rid),
            pins.rready.eq(1),
        ]

    def _connect_writes(self, m):
        pins = self.pins
        m.submodules.writer = writer = BurstWriter(self._axi_bytes)
        connect(m, flipped(self.write_bursts), writer.bursts)
        connect(m, flipped(self.write_beats), writer.beats)
        self._connect_address(m, "aw", writer.aw)
        m.d.comb += [
            writer.flush.eq(self.write_flush),
            self.write_idle.eq(writer.idle),
            self.write_error.eq(writer.error),
            pins.wvalid.eq(writer.w.valid),
            pins.wdata.eq(writer.w.payload.data),
            pins.wstrb.eq(~0),
            pins.wlast.eq(writer.w.payload.last),
            writer.w.ready.eq(pins.wready),
            writer.b.valid.eq(pins.bvalid),
            writer.b.payload.eq(pins.bresp[1]),
            pins.bready.eq(1),
        ]

    def _connect_address(self, m, prefix, channel):
        pin = {
            name: getattr(self.pins, prefix + name)
            for name in ("id", "addr", "len", "size", "burst", "cache", "valid", "ready")
        }
        m.d.comb += [
            pin["id"].eq(channel.payload.id),
            pin["addr"].eq(channel.payload.address),
            pin["len"].eq(channel.payload.len),
            pin["size"].eq(exact_log2(self._axi_bytes)),
            pin["burst"].eq(BURST_INCR),
            pin["cache"].eq(CACHE_BUFFERABLE),
            pin["valid"].eq(channel.valid),
            channel.ready.eq(pin["ready"]),
        ]
