"""Block RAM with one read and one write port: elaborated in place, or an instance of the module in ram.v.

A generated memory would carry its initial contents bit by bit, which for megabytes of RAM takes minutes to write and to
read; no unit relies on them.
"""

from pathlib import Path

from amaranth.hdl import ClockSignal, Instance, Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

RAM_VERILOG = Path(__file__).with_suffix(".v")
"""The Verilog source of the module `heatvit_ram`."""


class Ram(wiring.Component):
    """RAM of `depth` words of `width` bits with `enables` write enables.

    A read in the cycle of a write to the same word returns the old word. Addresses are below `depth`.

    Members
    -------
    read_address : In;  read_data : Out(width) - one cycle later.
    write_address : In;  write_data : In(width);  write_enable : In(enables) - equal parts of the word
    """

    def __init__(self, depth, width, enables, module: str | None = None):
        """Take the name of the Verilog module in ram.v, or elaborate in place."""
        self._depth, self._width, self._enables, self._module = depth, width, enables, module
        super().__init__(
            {
                "read_address": In(range(depth)),
                "read_data": Out(width),
                "write_address": In(range(depth)),
                "write_data": In(width),
                "write_enable": In(enables),
            }
        )

    def elaborate(self, platform):
        m = Module()
        if self._module is None:
            m.submodules.memory = memory = Memory(shape=self._width, depth=self._depth, init=[])
            read, write = memory.read_port(), memory.write_port(granularity=self._width // self._enables)
            m.d.comb += [
                read.addr.eq(self.read_address),
                self.read_data.eq(read.data),
                write.addr.eq(self.write_address),
                write.data.eq(self.write_data),
                write.en.eq(self.write_enable),
            ]
        else:
            m.submodules.memory = Instance(
                self._module,
                p_DEPTH=self._depth,
                p_WIDTH=self._width,
                p_ENABLES=self._enables,
                p_ADDRESS_WIDTH=len(self.read_address),
                i_clk=ClockSignal(),
                i_read_address=self.read_address,
                o_read_data=self.read_data,
                i_write_address=self.write_address,
                i_write_data=self.write_data,
                i_write_enable=self.write_enable,
            )
        return m
