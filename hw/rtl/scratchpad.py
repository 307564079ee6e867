"""On-chip memory: simple dual-port RAM whose two ports are shared by several readers and writers."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, connect, flipped

from hw.rtl.ports import ADDRESS_WIDTH, read_signature, write_signature
from hw.rtl.ram import Ram
from hw.rtl.stream import RoundRobin
from hw.timing import READ_LATENCY


class Scratchpad(wiring.Component):
    """RAM of `depth` words of `width` bits with `enables` write enables; one read and one write per cycle.

    Readers share their port by round robin, and so do all writers but the first, which is never refused: its ready does
    not depend on what others do in the cycle. A response comes READ_LATENCY cycles after its request.
    A read in the cycle of a write to the same word returns the old or the new word. Addresses are below `depth`: the
    units see to that.

    Members
    -------
    readers : In(read port), array;  writers : In(write port), array
    """

    def __init__(self, depth, width, enables, readers, writers, ram_module: str | None = None):
        """Take the name of the Verilog module in ram.v, or elaborate the RAM in place."""
        self._depth, self._width, self._enables, self._ram_module = depth, width, enables, ram_module
        super().__init__(
            {
                "readers": In(read_signature(width)).array(readers),
                "writers": In(write_signature(width, enables)).array(writers),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = Ram(self._depth, self._width, self._enables, self._ram_module)
        self._read(m, ram)
        self._write(m, ram)
        return m

    def _read(self, m, ram):
        m.submodules.read_arbiter = arbiter = RoundRobin(ADDRESS_WIDTH, len(self.readers))
        response = Signal(self._width, reset_less=True)
        m.d.comb += [arbiter.o.ready.eq(1), ram.read_address.eq(arbiter.o.payload)]
        m.d.sync += response.eq(ram.read_data)  # the block RAM's own output register
        for index, reader in enumerate(self.readers):
            connect(m, flipped(reader.request), arbiter.i[index])
            is_granted = arbiter.o.valid & (arbiter.grant == index)
            in_flight = Signal(READ_LATENCY, name=f"in_flight_{index}")
            m.d.sync += in_flight.eq(Cat(is_granted, in_flight[:-1]))
            m.d.comb += [reader.response.eq(response), reader.response_valid.eq(in_flight[-1])]

    def _write(self, m, ram):
        first, *others = (writer.request for writer in self.writers)
        m.d.comb += first.ready.eq(1)
        self._drive(m, ram, first)
        if others:
            m.submodules.write_arbiter = arbiter = RoundRobin(first.payload.shape(), len(others))
            for index, other in enumerate(others):
                connect(m, flipped(other), arbiter.i[index])
            with m.If(~first.valid):
                m.d.comb += arbiter.o.ready.eq(1)
                self._drive(m, ram, arbiter.o)

    def _drive(self, m, ram, request):
        m.d.comb += [ram.write_address.eq(request.payload.address), ram.write_data.eq(request.payload.data)]
        with m.If(request.valid):
            m.d.comb += ram.write_enable.eq(request.payload.enable)
