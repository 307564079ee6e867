"""LOAD: copy bytes of a DDR region to consecutive words of an on-chip memory."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.isa import Memory
from hw.rtl.axi import burst_layout, read_beat_layout
from hw.rtl.ports import act_write, param_write, unit_signature, weight_write, wide_write
from hw.rtl.stream import WidthConverter
from hw.rtl.transfer import Transfer, regions_layout


class LoadUnit(wiring.Component):
    """LOAD unit: bursts of at most 256 bytes dealt to the AXI ports in turn, put back in order and cut into words.

    One beat per cycle over all ports, if a word is at least as large as a beat; else one word per cycle.

    Members
    -------
    command, done, fault : see unit_signature
    axi_error : Out(1) - the bus answered with an error; the unit then stands still until its reset.
    regions : In(regions_layout) - stable during a run
    bursts : Out(stream of burst_layout), beats : In(stream of read_beat_layout) - arrays, one per AXI port.
    act, wide, weight, param : Out(write port)
    """

    def __init__(self, config: AccelConfig):
        self._config = config
        super().__init__(
            {
                **unit_signature(),
                "axi_error": Out(1),
                "regions": In(regions_layout),
                "bursts": Out(stream.Signature(burst_layout)).array(config.axi_ports),
                "beats": In(stream.Signature(read_beat_layout(config.axi_bytes))).array(config.axi_ports),
                "act": Out(act_write(config)),
                "wide": Out(wide_write(config)),
                "weight": Out(weight_write(config)),
                "param": Out(param_write(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        memories = {
            Memory.ACT: (config.act_bytes, config.act_words),
            Memory.WIDE: (config.wide_bytes, config.wide_words),
            Memory.WEIGHT: (config.weight_bytes, config.weight_words),
            Memory.PARAM: (config.param_bytes, config.param_words),
        }
        ports = {Memory.ACT: self.act, Memory.WIDE: self.wide, Memory.WEIGHT: self.weight, Memory.PARAM: self.param}
        m.submodules.transfer = transfer = Transfer(memories, "dst_base")
        connect(m, flipped(self.command), transfer.command)
        m.d.comb += [
            self.done.eq(transfer.done),
            self.fault.eq(transfer.fault),
            transfer.regions.eq(self.regions),
            transfer.is_settled.eq(1),  # a word that was taken is visible in the next cycle
        ]
        self._deal(m, transfer.bursts)
        beats = self._collect(m)
        m.d.comb += self.axi_error.eq(beats.valid & beats.payload.error)
        for memory, (word_bytes, _) in memories.items():
            converter = WidthConverter(8 * config.axi_bytes, 8 * word_bytes)
            m.submodules[f"{memory.name.lower()}_words"] = converter
            request = ports[memory].request
            is_target = transfer.memory == memory
            m.d.comb += [
                converter.i.payload.eq(beats.payload.data),
                converter.i.valid.eq(beats.valid & ~beats.payload.error & is_target),
                request.payload.address.eq(transfer.address),
                request.payload.data.eq(converter.o.payload),
                request.payload.enable.eq(~0),
                request.valid.eq(converter.o.valid),
                converter.o.ready.eq(request.ready),
            ]
            with m.If(is_target):
                m.d.comb += [
                    beats.ready.eq(converter.i.ready & ~beats.payload.error),
                    transfer.step.eq(request.valid & request.ready),
                ]
        return m

    def _turn(self):
        """Return a new counter of ports, at port 0."""
        return Signal(range(max(self._config.axi_ports, 2)))  # a signal of no bits would be two bits wide in Verilog

    def _next_port(self, port):
        return Mux(port == self._config.axi_ports - 1, 0, port + 1)

    def _deal(self, m, bursts):
        """Give each burst to the next port."""
        port = self._turn()
        for index, sink in enumerate(self.bursts):
            is_turn = port == index
            m.d.comb += [sink.payload.eq(bursts.payload), sink.valid.eq(bursts.valid & is_turn)]
            with m.If(is_turn):
                m.d.comb += bursts.ready.eq(sink.ready)
        with m.If(bursts.valid & bursts.ready):
            m.d.sync += port.eq(self._next_port(port))

    def _collect(self, m):
        """Take one whole burst from each port in the same order; return the merged stream of beats."""
        port = self._turn()
        beats = stream.Signature(read_beat_layout(self._config.axi_bytes)).create()
        for index, source in enumerate(self.beats):
            with m.If(port == index):
                m.d.comb += [
                    beats.payload.eq(source.payload),
                    beats.valid.eq(source.valid),
                    source.ready.eq(beats.ready),
                ]
        with m.If(beats.valid & beats.ready & beats.payload.last):
            m.d.sync += port.eq(self._next_port(port))
        return beats
