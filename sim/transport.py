"""The driver's Transport over cocotb: AXI4-Lite registers and a DDR model that every AXI port of the core shares.

The driver is blocking code in a `bridge` thread; it and the simulator never run at the same time. Host buffers and
device memory are separate copies, as with the non-coherent ports of a Zynq: a forgotten flush or invalidate fails.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from typing import Any

from cocotb.clock import Clock
from cocotb.task import resume
from cocotb.triggers import ClockCycles, Timer, with_timeout
from cocotb.utils import get_sim_time
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiSlave
from cocotbext.axi.sparse_memory import SparseMemory

from bitstreams.driver import ADDRESS_LIMIT
from hw.regmap import REGISTERS
from sim.buffers import POISON, AddressSpace, SimulatedBuffer
from sim.job import CLOCK_NS

REGISTER_TIMEOUT_CYCLES = 10_000
IDLE_CYCLES = 500
"""Cycles between two polls of STATUS: a few percent of the shortest network, and no load on the simulator."""


class DeviceMemory:
    """DDR as the core sees it. An access outside the live buffers, or to a faulty one, gets an error response."""

    def __init__(self) -> None:
        self._memory = SparseMemory(ADDRESS_LIMIT)
        self._buffers: dict[int, int] = {}  # address -> size
        self._addresses = AddressSpace()
        self.faulty_address: int | None = None

    def allocate(self, num_bytes: int) -> int:
        """Return the address of a new page-aligned buffer full of POISON; addresses are never used twice."""
        address = self._addresses.take(num_bytes)
        self._buffers[address] = num_bytes
        self.poke(address, bytes([POISON]) * num_bytes)
        return address

    def free(self, address: int) -> None:
        """Make a buffer's addresses invalid."""
        del self._buffers[address]

    def peek(self, address: int, length: int) -> bytes:
        """Read without a bus."""
        return bytes(self._memory.read(address, length))

    def poke(self, address: int, contents: bytes) -> None:
        """Write without a bus."""
        self._memory.write(address, contents)

    async def read(self, address: int, length: int) -> bytes:
        """Serve a bus read; raising makes the AXI model answer with an error response."""
        self._check(address, length)
        return self.peek(address, length)

    async def write(self, address: int, contents: bytes) -> None:
        """Serve a bus write; raising makes the AXI model answer with an error response."""
        self._check(address, len(contents))
        self.poke(address, contents)

    def _check(self, address: int, length: int) -> None:
        for base, size in self._buffers.items():
            if base <= address and address + length <= base + size:
                if base == self.faulty_address:
                    raise OSError(f"injected fault at {address:#x}")
                return
        raise OSError(f"no buffer at {address:#x}")


class CocotbTransport:
    """Transport to the core `dut` in a running simulation; read32, write32 and idle are for a bridge thread."""

    def __init__(self, dut: Any, axi_ports: int, stall_seed: int | None = None) -> None:
        for name in ("s_axi_control", *(f"m_axi_gmem{port}" for port in range(axi_ports))):
            # The models report every transfer; error responses, which they call warnings, are expected in fault runs.
            logging.getLogger(f"cocotb.{dut._name}.{name}").setLevel(logging.ERROR)
        self._dut = dut
        self.memory = DeviceMemory()
        self._registers = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi_control"), dut.clk, dut.rst)
        self._ports = [
            AxiSlave(AxiBus.from_prefix(dut, f"m_axi_gmem{port}"), dut.clk, dut.rst, self.memory)
            for port in range(axi_ports)
        ]
        if stall_seed is not None:
            self._stall(random.Random(stall_seed))

    async def reset(self) -> None:
        """Start the clock and reset the core and the bus models."""
        Clock(self._dut.clk, CLOCK_NS, "ns", impl="gpi").start()
        self._dut.rst.value = 1
        await ClockCycles(self._dut.clk, 4)
        self._dut.rst.value = 0
        await ClockCycles(self._dut.clk, 2)

    @resume
    async def read32(self, offset: int) -> int:
        """Read a register over AXI4-Lite. Raises TimeoutError if the core does not answer."""
        reply = await with_timeout(self._registers.read(offset, 4), REGISTER_TIMEOUT_CYCLES * CLOCK_NS, "ns")
        return int.from_bytes(reply.data, "little")

    @resume
    async def write32(self, offset: int, value: int) -> None:
        """Write a register over AXI4-Lite. Raises TimeoutError if the core does not answer."""
        write = self._registers.write(offset, value.to_bytes(4, "little"))
        await with_timeout(write, REGISTER_TIMEOUT_CYCLES * CLOCK_NS, "ns")

    @resume
    async def idle(self) -> None:
        """Simulate some cycles."""
        await Timer(IDLE_CYCLES * CLOCK_NS, "ns")

    def seconds(self) -> float:
        """Return the simulated time."""
        return float(get_sim_time("ns")) * 1e-9

    def allocate(self, num_bytes: int) -> SimulatedBuffer:
        """Return a new buffer."""
        return SimulatedBuffer(self.memory, num_bytes)

    def buffer_address(self, name: str) -> int:
        """Return the address that the register pair <name>_LO, <name>_HI holds."""
        low, high = (self.read32(REGISTERS[f"{name}_{half}"].offset) for half in ("LO", "HI"))
        return int(low) | int(high) << 32

    def _stall(self, rng: random.Random) -> None:
        """Pause every channel at random, each with its own probability and seed."""
        for bus in (self._registers, *self._ports):
            for side, names in ((bus.write_if, ("aw", "w", "b")), (bus.read_if, ("ar", "r"))):
                for name in names:
                    getattr(side, f"{name}_channel").set_pause_generator(_pauses(rng.random(), rng.uniform(0.1, 0.6)))


def _pauses(seed: float, probability: float) -> Iterator[bool]:
    rng = random.Random(seed)
    while True:
        yield rng.random() < probability
