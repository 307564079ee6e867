"""LOAD: copy bytes of a DDR region to consecutive words of an on-chip memory."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.config import AccelConfig
from hw.isa import Memory
from hw.rtl.axi import burst_layout, read_beat_layout
from hw.rtl.ports import act_write, param_write, unit_signature, weight_write, wide_write
from hw.rtl.stream import RoundRobin
from hw.rtl.stripe import StripeDealer, StripeWords, stripe_layout, stripe_sizes
from hw.rtl.transfer import Transfer, regions_layout


class LoadUnit(wiring.Component):
    """LOAD unit: bursts of at most 256 bytes dealt to the AXI ports in stripes; each port assembles words of its own.

    One beat per cycle and port, up to one word per cycle over all ports. Words of different ports are written in any
    order.

    Members
    -------
    command, done, fault : see unit_signature
    axi_error : Out(1) - the bus answered with an error; its port then stands still until the reset of the unit, so
    that the command is never done.
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
        m.submodules.transfer = transfer = Transfer(memories, "dst_base")
        connect(m, flipped(self.command), transfer.command)
        m.d.comb += [
            self.done.eq(transfer.done),
            self.fault.eq(transfer.fault),
            transfer.regions.eq(self.regions),
            transfer.is_settled.eq(1),  # a word that was taken is visible in the next cycle
            self.axi_error.eq(Cat(beats.valid & beats.payload.error for beats in self.beats).any()),
        ]
        word_bytes = {memory: size for memory, (size, _) in memories.items()}
        first, later = Signal(stripe_layout), Signal(stripe_layout)
        with m.Switch(transfer.memory):
            for memory, size in word_bytes.items():
                with m.Case(memory):
                    for stripe, values in zip((first, later), stripe_sizes(transfer.block, size), strict=True):
                        m.d.comb += [stripe[name].eq(value) for name, value in values.items()]
        self._deal(m, transfer, first, later)
        self._write(m, transfer, self._assemble(m, transfer, word_bytes, first, later))
        return m

    def _deal(self, m, transfer, first, later):
        """Give each burst to the port of its stripe."""
        m.submodules.dealer = dealer = StripeDealer(self._config.axi_ports)
        connect(m, transfer.bursts, dealer.i)
        m.d.comb += [dealer.start.eq(transfer.start), dealer.first.eq(first), dealer.later.eq(later)]
        for index, bursts in enumerate(self.bursts):
            connect(m, dealer.o[index], flipped(bursts))

    def _assemble(self, m, transfer, word_bytes, first, later):
        """Assemble words behind each port; return the StripeWords."""
        config = self._config
        words_of_port = []
        for index, beats in enumerate(self.beats):
            words = StripeWords(config.axi_bytes, word_bytes)
            m.submodules[f"words_{index}"] = words
            connect(m, flipped(beats), words.beats)
            before = first.words + (index - 1) * later.words if index else 0  # words of the stripes of ports before
            m.d.comb += [
                words.start.eq(transfer.start),
                words.memory.eq(transfer.memory),
                words.later_words.eq(later.words),
                words.skip.eq((config.axi_ports - 1) * later.words + 1),
                words.address.eq(transfer.base + before),
                words.words.eq(later.words if index else first.words),
            ]
            words_of_port.append(words)
        return words_of_port

    def _write(self, m, transfer, words_of_port):
        """Write the finished words of all ports, one per cycle."""
        layout = words_of_port[0].o.payload.shape()
        m.submodules.arbiter = arbiter = RoundRobin(layout, len(words_of_port))
        for index, words in enumerate(words_of_port):
            connect(m, words.o, arbiter.i[index])
        ports = {Memory.ACT: self.act, Memory.WIDE: self.wide, Memory.WEIGHT: self.weight, Memory.PARAM: self.param}
        for memory, port in ports.items():
            is_target = transfer.memory == memory
            m.d.comb += [
                port.request.payload.address.eq(arbiter.o.payload.address),
                port.request.payload.data.eq(arbiter.o.payload.data[words_of_port[0].word_slice(memory)]),
                port.request.payload.enable.eq(~0),
                port.request.valid.eq(arbiter.o.valid & is_target),
            ]
            with m.If(is_target):
                m.d.comb += [
                    arbiter.o.ready.eq(port.request.ready),
                    transfer.step.eq(port.request.valid & port.request.ready),
                ]
