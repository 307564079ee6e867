"""STORE: copy consecutive words of an on-chip memory to a DDR region."""

from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.isa import Memory
from hw.rtl.axi import burst_layout
from hw.rtl.ports import act_read, token_read, unit_signature, wide_read
from hw.rtl.stream import MemoryReader, WidthConverter
from hw.rtl.transfer import Transfer, regions_layout

TOKEN_BYTES = 2
"""Bytes of a word of the token list."""


class StoreUnit(wiring.Component):
    """STORE unit: words are cut into, or gathered to, beats of the AXI port; one beat per cycle at best.

    Members
    -------
    command, done, fault : see unit_signature; done waits for the responses of the bus.
    regions : In(regions_layout) - stable during a run
    bursts : Out(stream of burst_layout), beats : Out(stream of 8*axi_bytes bits)
    writes_idle : In(1) - every burst that was taken has its response.
    act, wide, token : Out(read port)
    """

    def __init__(self, config: AccelConfig):
        self._config = config
        super().__init__(
            {
                **unit_signature(),
                "regions": In(regions_layout),
                "bursts": Out(stream.Signature(burst_layout)),
                "beats": Out(stream.Signature(8 * config.axi_bytes)),
                "writes_idle": In(1),
                "act": Out(act_read(config)),
                "wide": Out(wide_read(config)),
                "token": Out(token_read()),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        memories = {
            Memory.ACT: (config.act_bytes, config.act_words),
            Memory.WIDE: (config.wide_bytes, config.wide_words),
            Memory.TOKEN: (TOKEN_BYTES, config.token_words),
        }
        ports = {Memory.ACT: self.act, Memory.WIDE: self.wide, Memory.TOKEN: self.token}
        m.submodules.transfer = transfer = Transfer(memories, "src_base")
        connect(m, flipped(self.command), transfer.command)
        connect(m, transfer.bursts, flipped(self.bursts))
        m.d.comb += [
            self.done.eq(transfer.done),
            self.fault.eq(transfer.fault),
            transfer.regions.eq(self.regions),
            # A burst is taken only with all its data: once all are taken, the writer alone knows when they are done.
            transfer.is_settled.eq(self.writes_idle),
        ]
        for memory, (word_bytes, _) in memories.items():
            reader = MemoryReader(8 * word_bytes)
            converter = WidthConverter(8 * word_bytes, 8 * config.axi_bytes)
            m.submodules[f"{memory.name.lower()}_reader"] = reader
            m.submodules[f"{memory.name.lower()}_beats"] = converter
            connect(m, reader.port, flipped(ports[memory]))
            connect(m, reader.words, converter.i)
            is_source = transfer.memory == memory
            m.d.comb += [
                reader.addresses.payload.eq(transfer.address),
                reader.addresses.valid.eq(transfer.has_words & is_source),
            ]
            with m.If(is_source):
                m.d.comb += [
                    transfer.step.eq(reader.addresses.valid & reader.addresses.ready),
                    self.beats.payload.eq(converter.o.payload),
                    self.beats.valid.eq(converter.o.valid),
                    converter.o.ready.eq(self.beats.ready),
                ]
        return m
