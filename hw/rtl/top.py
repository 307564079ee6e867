"""The accelerator: units, memories, sequencer and bus ports wired together behind flat pins."""

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, ClockDomain, DomainRenamer, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Flow, In, Out, Signature, connect

from hw.config import AccelConfig
from hw.isa import Region, Unit
from hw.regmap import NUM_TOKEN_REGISTERS
from hw.rtl.axi import AXI_ADDRESS_WIDTH, axi4_signature, axi_lite_signature
from hw.rtl.axi_port import AxiPort
from hw.rtl.csr import Csr
from hw.rtl.dma_read import LoadUnit
from hw.rtl.dma_write import StoreUnit
from hw.rtl.gemm import Gemm
from hw.rtl.operand import OperandUnit
from hw.rtl.packed_dot import Multiplier
from hw.rtl.ports import ROW_SCALE_ENTRY
from hw.rtl.scratchpad import Scratchpad
from hw.rtl.sequencer import Sequencer
from hw.rtl.stalls import StallCounters, stall_reasons
from hw.rtl.vector import VectorUnit

CONTROL_PREFIX = "s_axi_control_"


def memory_prefix(port):
    """Return the pin prefix of an AXI4 port."""
    return f"m_axi_gmem{port}_"


def top_signature(config: AccelConfig):
    """Return the pins of the core, flat as in Verilog."""
    members = {"clk": In(1), "rst": In(1), "interrupt": Out(1)}
    for name, member in axi_lite_signature().flip().members.items():
        members[CONTROL_PREFIX + name] = member
    for port in range(config.axi_ports):
        for name, member in axi4_signature(config.axi_bytes).members.items():
            members[memory_prefix(port) + name] = member
    return Signature(members)


@dataclass(frozen=True)
class SeparateModules:
    """Names of the Verilog modules of blocks that occur many times; None elaborates a block wherever it occurs."""

    column: str | None = None
    element: str | None = None
    activation: str | None = None
    norm: str | None = None
    exp: str | None = None
    ram: str | None = None


IN_PLACE = SeparateModules()


class Top(wiring.Component):
    """The core as the block design sees it: one clock, one reset, AXI4-Lite in, AXI4 out, one interrupt.

    The units and memories live in a clock domain of their own, with the same clock: the sequencer resets them between
    runs, and with everything else, while the registers and the bus engines go on.

    Members
    -------
    clk : In(1);  rst : In(1) - synchronous, high-active
    s_axi_control_* : AXI4-Lite slave, registers of hw.regmap
    m_axi_gmem{p}_* : AXI4 masters; LOAD uses all, the program fetch and STORE port 0.
    interrupt : Out(1) - a run has ended and IRQ_ENABLE is set; until the next start.
    """

    def __init__(self, config: AccelConfig, multiplier: Multiplier, separate: SeparateModules = IN_PLACE):
        self._config, self._multiplier, self._separate = config, multiplier, separate
        super().__init__(top_signature(config))

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.domains.sync = sync = ClockDomain()
        m.domains.unit = unit = ClockDomain()
        sync.clk, sync.rst, unit.clk = self.clk, self.rst, self.clk

        m.submodules.csr = csr = Csr(config)
        m.submodules.sequencer = sequencer = Sequencer(config)
        m.d.comb += unit.rst.eq(sequencer.unit_reset)
        separate = self._separate
        units: dict[Unit, Any] = {
            Unit.LOAD: LoadUnit(config),
            Unit.OPERAND: OperandUnit(config),
            Unit.GEMM: Gemm(config, self._multiplier, separate.column, separate.element, separate.activation),
            Unit.VECTOR: VectorUnit(config, self._multiplier, separate.norm, separate.exp),
            Unit.STORE: StoreUnit(config),
        }
        for name, component in units.items():
            m.submodules[f"{name.name.lower()}_unit"] = DomainRenamer("unit")(component)
            connect(m, sequencer.commands[name], component.command)
            m.d.comb += [sequencer.done[name].eq(component.done), sequencer.fault[name].eq(component.fault)]
        self._connect_memories(m, units)
        self._connect_buses(m, units[Unit.LOAD], units[Unit.STORE], sequencer)
        self._connect_registers(m, units, csr, sequencer)
        self._count_stalls(m, units, csr, sequencer)
        return m

    def _connect_memories(self, m, units):
        load, operand, gemm, vector, store = units.values()
        config = self._config
        shapes = {
            "act": (config.act_words, 8 * config.act_bytes, config.rows),
            "wide": (config.wide_words, 8 * config.wide_bytes, config.rows),
            "weight": (config.weight_words, 8 * config.weight_bytes, config.weight_bytes),
            "param": (config.param_words, 8 * config.param_bytes, 1),
            "row_scale": (config.row_scale_words, ROW_SCALE_ENTRY.size * config.rows, config.rows),
        }
        readers = {
            "act": (gemm.act, operand.act, vector.act_read, store.act),
            "wide": (gemm.wide_read, vector.wide_read, store.wide),
            "weight": (gemm.weight,),
            "param": (gemm.param, vector.param),
            "row_scale": (gemm.row_scale,),
        }
        writers = {  # LOAD first: what comes from the bus never waits
            "act": (load.act, gemm.act_write, vector.act_write),
            "wide": (load.wide, gemm.wide_write, vector.wide_write),
            "weight": (load.weight, operand.weight),
            "param": (load.param,),
            "row_scale": (vector.row_scale,),
        }
        for name, (depth, width, enables) in shapes.items():
            memory = Scratchpad(depth, width, enables, len(readers[name]), len(writers[name]), self._separate.ram)
            m.submodules[f"{name}_memory"] = DomainRenamer("unit")(memory)
            for client, port in zip((*readers[name], *writers[name]), (*memory.readers, *memory.writers), strict=True):
                connect(m, client, port)
        connect(m, store.token, vector.token)
        m.d.comb += [
            operand.tokens.eq(vector.tokens),
            gemm.tokens.eq(vector.tokens),
            gemm.packages.eq(vector.packages),
        ]

    def _connect_buses(self, m, load, store, sequencer):
        config = self._config
        buses = [AxiPort(config.axi_bytes, 2, has_writer=True)]  # read clients: LOAD, then the program fetch
        buses += [AxiPort(config.axi_bytes, 1, has_writer=False) for _ in range(1, config.axi_ports)]
        for port, bus in enumerate(buses):
            m.submodules[f"gmem{port}"] = bus
            self._connect_pins(m, memory_prefix(port), bus.pins, axi4_signature(config.axi_bytes))
            connect(m, load.bursts[port], bus.read_bursts[0])
            connect(m, bus.read_beats[0], load.beats[port])
            m.d.comb += bus.read_flush[0].eq(sequencer.flush)
        first = buses[0]
        connect(m, sequencer.bursts, first.read_bursts[1])
        connect(m, first.read_beats[1], sequencer.beats)
        connect(m, store.bursts, first.write_bursts)
        connect(m, store.beats, first.write_beats)
        m.d.comb += [
            first.read_flush[1].eq(sequencer.fetch_flush),
            first.write_flush.eq(sequencer.flush),
            store.writes_idle.eq(first.write_idle),
            sequencer.axi_read_error.eq(load.axi_error),
            sequencer.axi_write_error.eq(first.write_error),
            sequencer.fetch_idle.eq(first.read_idle[1]),
            sequencer.bus_idle.eq(Cat(first.write_idle, (bus.read_idle for bus in buses)).all()),
        ]

    def _connect_registers(self, m, units, csr, sequencer):
        self._connect_pins(m, CONTROL_PREFIX, csr.bus, axi_lite_signature().flip())
        m.d.comb += [
            sequencer.start.eq(csr.start),
            sequencer.abort.eq(csr.abort),
            sequencer.program.eq(_address(csr, "program")),
            sequencer.program_length.eq(csr.program_length),
            sequencer.watchdog.eq(csr.watchdog),
            csr.status.eq(sequencer.status),
            csr.error.eq(sequencer.error),
            csr.error_index.eq(sequencer.error_index),
            csr.cycles.eq(sequencer.cycles),
            self.interrupt.eq(csr.irq_enable & (sequencer.status.done | sequencer.status.error)),
        ]
        for region in Region:
            name = region.name.lower()
            for unit in (Unit.LOAD, Unit.STORE):
                m.d.comb += [
                    units[unit].regions[region].base.eq(_address(csr, name)),
                    units[unit].regions[region].size.eq(getattr(csr, f"{name}_size")),
                ]
        for unit in Unit:
            name = unit.name.lower()
            m.d.comb += [
                getattr(csr, f"busy_{name}").eq(sequencer.busy_cycles[unit]),
                getattr(csr, f"wait_{name}").eq(sequencer.wait_cycles[unit]),
            ]
        for index in range(NUM_TOKEN_REGISTERS):
            m.d.comb += getattr(csr, f"tokens_{index}").eq(units[Unit.VECTOR].token_counts[index])

    def _count_stalls(self, m, units, csr, sequencer):
        m.submodules.stalls = stalls = StallCounters()
        m.d.comb += [
            stalls.clear.eq(sequencer.unit_reset & sequencer.status.busy),
            stalls.is_running.eq(sequencer.status.busy),
            stalls.reasons.eq(stall_reasons(units, sequencer.busy, sequencer.awaited)),
            *(getattr(csr, name).eq(getattr(stalls, name)) for name in stalls.names),
        ]

    def _connect_pins(self, m, prefix, bus, signature):
        """Connect a bus to the pins of a prefix; signature is as the core drives it."""
        for name, member in signature.members.items():
            pin, signal = getattr(self, prefix + name), getattr(bus, name)
            m.d.comb += pin.eq(signal) if member.flow is Flow.Out else signal.eq(pin)


def _address(csr, name):
    """Return the DDR address that a _LO and _HI register pair holds."""
    return Cat(getattr(csr, f"{name}_lo"), getattr(csr, f"{name}_hi"))[:AXI_ADDRESS_WIDTH]
