"""AXI4-Lite slave: the registers of hw.regmap."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import AccelConfig
from hw.regmap import ID_VALUE, REGISTERS, Access, Control
from hw.rtl.axi import axi_lite_signature

CONSTANTS = ("ID", "CONFIG_HASH")
"""Registers that the config alone determines."""

INPUTS = tuple(name for name, register in REGISTERS.items() if register.access is Access.READ_ONLY)[len(CONSTANTS) :]
"""Registers that the core gives."""

OUTPUTS = tuple(
    name for name, register in REGISTERS.items() if register.access is Access.READ_WRITE and name != "CONTROL"
)
"""Registers that the host gives."""


class Csr(wiring.Component):
    """Register file on AXI4-Lite: 32-bit accesses with write strobes, one outstanding access each way, always OKAY.

    A read outside the map returns 0, a write there or to a read-only register is ignored.

    Members
    -------
    bus : In(axi_lite_signature)
    start, abort : Out(1) - for one cycle, when the host sets the bit in CONTROL;  irq_enable : Out(1)
    one 32-bit member per other register, named as in the map in lower case: In if the core gives it, else Out.
    """

    def __init__(self, config: AccelConfig):
        self._config = config
        assert set(CONSTANTS).isdisjoint(INPUTS)
        super().__init__(
            {
                "bus": In(axi_lite_signature()),
                "start": Out(1),
                "abort": Out(1),
                "irq_enable": Out(1),
                **{name.lower(): In(32) for name in INPUTS},
                **{name.lower(): Out(32) for name in OUTPUTS},
            }
        )

    def elaborate(self, platform):
        m = Module()
        self._write(m)
        self._read(m)
        return m

    def _write(self, m):
        bus = self.bus
        do_write = bus.awvalid & bus.wvalid & (~bus.bvalid | bus.bready)
        m.d.comb += [bus.awready.eq(do_write), bus.wready.eq(do_write)]
        with m.If(bus.bready):
            m.d.sync += bus.bvalid.eq(0)
        m.d.sync += [self.start.eq(0), self.abort.eq(0)]
        with m.If(do_write):
            m.d.sync += bus.bvalid.eq(1)
            with m.Switch(bus.awaddr[2:]):
                with m.Case(REGISTERS["CONTROL"].offset // 4):
                    with m.If(bus.wstrb[0]):
                        m.d.sync += [
                            self.start.eq(bus.wdata[Control.START.bit_length() - 1]),
                            self.abort.eq(bus.wdata[Control.ABORT.bit_length() - 1]),
                            self.irq_enable.eq(bus.wdata[Control.IRQ_ENABLE.bit_length() - 1]),
                        ]
                for name in OUTPUTS:
                    with m.Case(REGISTERS[name].offset // 4):
                        register = getattr(self, name.lower())
                        for byte in range(4):
                            with m.If(bus.wstrb[byte]):
                                m.d.sync += register.word_select(byte, 8).eq(bus.wdata.word_select(byte, 8))

    def _read(self, m):
        bus = self.bus
        values = {
            "ID": ID_VALUE,
            "CONFIG_HASH": self._config.hash32,
            "CONTROL": self.irq_enable << (Control.IRQ_ENABLE.bit_length() - 1),
            **{name: getattr(self, name.lower()) for name in (*INPUTS, *OUTPUTS)},
        }
        value = Signal(32)
        with m.Switch(bus.araddr[2:]):
            for name, register in REGISTERS.items():
                with m.Case(register.offset // 4):
                    m.d.comb += value.eq(values[name])
        m.d.comb += bus.arready.eq(~bus.rvalid | bus.rready)
        with m.If(bus.rready):
            m.d.sync += bus.rvalid.eq(0)
        with m.If(bus.arvalid & bus.arready):
            m.d.sync += [bus.rvalid.eq(1), bus.rdata.eq(value)]
