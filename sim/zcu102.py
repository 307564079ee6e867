"""A simulated ZCU102 as a PYNQ device: unmodified pynq.Overlay and driver code, and a core that is not in a chip.

Host buffers and device memory are separate copies that meet in flush() and invalidate(), as with the non-coherent ports
of a Zynq. It is the only module of sim that imports pynq, and PYNQ's own search for devices does not find it.
"""

from __future__ import annotations

import ctypes
import itertools
import os
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pynq import Device
from pynq.buffer import PynqBuffer
from pynqmetadata.frontends import Metadata
from pynqmetadata.views.runtime import RuntimeMetadataParser

from hw.overlay import CONTROL_BASE, CONTROL_RANGE
from hw.regmap import REGISTERS
from sim.buffers import BackDoor
from sim.hwh import IO_PLL_MHZ

STATUS_ADDRESS = CONTROL_BASE + REGISTERS["STATUS"].offset

IO_PLL_CONTROL, PL0_CONTROL = 0xFF5E_0020, 0xFF5E_00C0
"""CRL_APB.IOPLL_CTRL and PL0_REF_CTRL (UG1087): PYNQ reads the first and writes four of the second kind."""
REFERENCE_MHZ = 33.333
"""PYNQ's idea of the oscillator of the processing system."""

_numbers = itertools.count()


class SimulatedCore(Protocol):
    """A core that is executed here: registers, DDR behind a back door, and time that passes in `idle`."""

    @property
    def memory(self) -> BackDoor:
        """The DDR that the core sees."""

    def read32(self, offset: int) -> int:
        """Return the register at a byte offset."""

    def write32(self, offset: int, value: int) -> None:
        """Write the register at a byte offset."""

    def idle(self) -> None:
        """Let some time pass."""


class SimulatedPynqBuffer(PynqBuffer):  # type: ignore[misc]
    """A PYNQ buffer in simulated memory; PYNQ's own would unmap memory that was never mapped."""

    owned_address: int | None = None  # of the buffer itself; its slices own nothing

    def freebuffer(self) -> None:
        """Free the device memory; a second call does nothing."""
        if self.owned_address is not None:
            self.device.free(self.owned_address)
            self.owned_address = None


class SimulatedZcu102(Device):  # type: ignore[misc]
    """A ZCU102 whose programmable logic is a simulated core.

    Any bitstream can be downloaded and changes nothing: the core is the one given here. Reading STATUS lets time pass,
    because no driver waits for a simulation otherwise.
    """

    def __init__(self, core: SimulatedCore) -> None:
        super().__init__(f"simulated_zcu102_{os.getpid()}_{next(_numbers)}")
        self.name, self.arch = "ZCU102 (simulated)", "aarch64"
        self.capabilities = {"REGISTER_RW": True}
        self.timestamp = ""
        self._core = core
        io_pll = round(IO_PLL_MHZ * 2 / REFERENCE_MHZ) << 8 | 1 << 16  # multiplied, then halved
        self._processor_registers = {IO_PLL_CONTROL: io_pll}

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        """Return what PYNQ knows of the design, from the .hwh beside the bitstream."""
        parser = RuntimeMetadataParser(Metadata(input=f"{os.path.splitext(bitfile_name)[0]}.hwh"))
        parser.refresh_hierarchy_dict()
        return parser

    def download(self, bitstream: Any, parser: Any = None) -> None:
        """Accept a bitstream."""
        self.post_download(bitstream, parser, self.name)

    def read_registers(self, address: int, length: int) -> bytes:
        """Return words of the core or of the processing system."""
        return b"".join(self._read(address + 4 * word).to_bytes(4, "little") for word in range(length // 4))

    def write_registers(self, address: int, data: bytes) -> None:
        """Write words of the core or of the processing system."""
        for word, value in enumerate(np.frombuffer(bytes(data), "<u4").tolist()):
            if (offset := _core_offset(address + 4 * word)) is not None:
                self._core.write32(offset, value)
            else:
                self._processor_registers[address + 4 * word] = value

    def allocate(self, shape: tuple[int, ...], dtype: DTypeLike, **_: Any) -> SimulatedPynqBuffer:
        """Return a buffer whose host copy is separate from the core's DDR."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = self._core.memory.allocate(size)
        buffer = SimulatedPynqBuffer(shape, dtype, device=self, device_address=address, bo=address, coherent=False)
        buffer.owned_address = address
        return buffer

    def free(self, address: int) -> None:
        """Free the device memory of a buffer."""
        self._core.memory.free(address)

    def flush(self, bo: int, offset: int, virtual_address: int, num_bytes: int) -> None:
        """Copy host to device."""
        self._core.memory.poke(bo + offset, _host(virtual_address, num_bytes).tobytes())

    def invalidate(self, bo: int, offset: int, virtual_address: int, num_bytes: int) -> None:
        """Copy device to host."""
        contents = self._core.memory.peek(bo + offset, num_bytes)
        _host(virtual_address, num_bytes)[:] = np.frombuffer(contents, np.uint8)

    def _read(self, address: int) -> int:
        if (offset := _core_offset(address)) is None:
            return self._processor_registers.get(address, 0)
        if address == STATUS_ADDRESS:
            self._core.idle()
        return self._core.read32(offset)


def _core_offset(address: int) -> int | None:
    """Return the byte offset of a register of the core, None if the address is not the core's."""
    return address - CONTROL_BASE if CONTROL_BASE <= address < CONTROL_BASE + CONTROL_RANGE else None


def _host(virtual_address: int, num_bytes: int) -> NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * num_bytes).from_address(virtual_address))
