"""One read of several memories at a time."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.delay import delay
from hw.rtl.ports import ADDRESS_WIDTH, read_signature
from hw.timing import READ_LATENCY


class JointRead(wiring.Component):
    """Read one word of each of several memories as one transfer; the words appear together.

    A joint read retires in the cycle in which the last of its requests transfers, however long each port stalls; its
    words are on `words` READ_LATENCY cycles later, for that cycle. The next one is offered only then, so no word is
    ever overtaken. One joint read per cycle while every port is ready. The result cannot be refused: the user reserves
    its place before.

    Members
    -------
    i : In(stream of {<memory>: address, "enable": one bit a memory, in order}) - addresses one bit wider than a port's
    <memory> : Out(read_signature)
    is_busy : Out(1) - a joint read is offered;  is_retired : Out(1) - and completes in this cycle
    words : Out(struct {<memory>: word}), valid : Out(1)
    fault : Out(1) - an address was beyond its memory; nothing more is read until reset.
    """

    def __init__(self, memories):
        """Take {name: (word width, depth in words)}."""
        self._memories = memories
        addresses = {name: ADDRESS_WIDTH + 1 for name in memories}
        super().__init__(
            {
                "i": In(stream.Signature(data.StructLayout({**addresses, "enable": len(memories)}))),
                **{name: Out(read_signature(width)) for name, (width, _) in memories.items()},
                "is_busy": Out(1),
                "is_retired": Out(1),
                "words": Out(data.StructLayout({name: width for name, (width, _) in memories.items()})),
                "valid": Out(1),
                "fault": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        wanted = self.i.payload
        do_take = self.i.valid & self.i.ready
        is_beyond = Cat(wanted[name] >= depth for name, (_, depth) in self._memories.items()) & wanted.enable

        is_busy = Signal()
        m.d.comb += [
            self.is_busy.eq(is_busy),
            self.i.ready.eq((~is_busy | self.is_retired) & ~self.fault),
            self.valid.eq(delay(m, self.is_retired, READ_LATENCY, name="is_retired", reset_less=False)),
        ]
        with m.If(do_take):
            m.d.sync += is_busy.eq(~is_beyond.any())
        with m.Elif(self.is_retired):
            m.d.sync += is_busy.eq(0)
        with m.If(do_take & is_beyond.any()):
            m.d.sync += self.fault.eq(1)

        is_done = []
        for index, name in enumerate(self._memories):
            port = getattr(self, name)
            is_pending = Signal(name=f"is_pending_{name}")
            address = Signal(ADDRESS_WIDTH, name=f"address_{name}", reset_less=True)
            m.d.comb += [port.request.payload.eq(address), port.request.valid.eq(is_pending)]
            with m.If(do_take):
                m.d.sync += [
                    is_pending.eq(wanted.enable[index] & ~is_beyond.any()),
                    address.eq(wanted[name]),
                ]
            with m.Elif(port.request.ready):
                m.d.sync += is_pending.eq(0)
            is_done.append(~is_pending | port.request.ready)

            # A word that comes before the others waits here; the port cannot send the next one until all have come.
            held = Signal(len(port.response), name=f"held_{name}", reset_less=True)
            with m.If(port.response_valid):
                m.d.sync += held.eq(port.response)
            m.d.comb += self.words[name].eq(Mux(port.response_valid, port.response, held))
        m.d.comb += self.is_retired.eq(is_busy & Cat(is_done).all())
        return m
