"""The numpy machine behind the core's registers and a DDR: what a driver sees of it is what it would see of the RTL.

A run begins with START and takes place while time passes (`idle`), so that what the host does beside a run is beside
it here too. The machine has no clock: CYCLES and the counters read 0.
"""

from __future__ import annotations

from hw.config import AccelConfig
from hw.isa import DESCRIPTOR_BYTES, ErrorCode, Region
from hw.regmap import ID_VALUE, NUM_TOKEN_REGISTERS, REGISTERS, Access, Control, Status
from hw.tiling import TRANSFER_BYTES
from sim.buffers import POISON, AddressSpace
from sim.machine import Machine

_NAMES = {register.offset: name for name, register in REGISTERS.items()}


class MachineMemory:
    """DDR of a simulated core that has no bus; implements sim.buffers.BackDoor."""

    def __init__(self) -> None:
        self._addresses = AddressSpace()
        self._buffers: dict[int, bytearray] = {}

    def allocate(self, num_bytes: int) -> int:
        """Return the address of a new page-aligned buffer full of POISON; addresses are never used twice."""
        address = self._addresses.take(num_bytes)
        self._buffers[address] = bytearray([POISON]) * num_bytes
        return address

    def free(self, address: int) -> None:
        """Make a buffer's addresses invalid."""
        del self._buffers[address]

    def peek(self, address: int, length: int) -> bytes:
        """Read bytes of a buffer. Raises OSError if they are not all in one."""
        buffer, start = self._find(address, length)
        return bytes(buffer[start : start + length])

    def poke(self, address: int, contents: bytes) -> None:
        """Write bytes of a buffer. Raises OSError if they are not all in one."""
        buffer, start = self._find(address, len(contents))
        buffer[start : start + len(contents)] = contents

    def _find(self, address: int, length: int) -> tuple[bytearray, int]:
        for base, buffer in self._buffers.items():
            if base <= address and address + length <= base + len(buffer):
                return buffer, address - base
        raise OSError(f"no buffer of {length} bytes at {address:#x}")


class MachineCore:
    """A core whose runs the numpy machine executes; read32, write32 and idle are those of a driver's transport."""

    def __init__(self, config: AccelConfig) -> None:
        self.memory = MachineMemory()
        self._machine = Machine(config)
        self._registers = dict.fromkeys(REGISTERS, 0)
        self._registers |= {"ID": ID_VALUE, "CONFIG_HASH": config.hash32}

    def read32(self, offset: int) -> int:
        """Return a register; one that does not exist reads 0."""
        return self._registers[_NAMES[offset]] if offset in _NAMES else 0

    def write32(self, offset: int, value: int) -> None:
        """Write a register; one that the host may not write keeps its value."""
        name = _NAMES.get(offset)
        if name == "CONTROL":
            self._control(Control(value))
        elif name is not None and REGISTERS[name].access is Access.READ_WRITE:
            self._registers[name] = value

    def idle(self) -> None:
        """Let the run in progress take place. One that hangs or is interrupted in the middle stays in progress."""
        if self._is_busy:
            self._run()

    @property
    def _is_busy(self) -> bool:
        return bool(self._registers["STATUS"] & Status.BUSY)

    def _control(self, bits: Control) -> None:
        if Control.ABORT in bits and self._is_busy:
            self._end(ErrorCode.ABORTED, 0)
        elif Control.START in bits and not self._is_busy:
            self._registers |= {f"TOKENS_{i}": 0 for i in range(NUM_TOKEN_REGISTERS)}
            self._registers |= {"STATUS": int(Status.BUSY), "ERROR": 0, "ERROR_INDEX": 0}

    def _run(self) -> None:
        try:
            program = self._read("PROGRAM", self._registers["PROGRAM_LENGTH"] * DESCRIPTOR_BYTES)
            regions = {region: self._read_region(region) for region in Region}
        except OSError:  # the RTL finds out at the access and knows its descriptor
            self._end(ErrorCode.AXI_READ, 0)
            return
        result = self._machine.run(program, regions)
        if result.error is ErrorCode.WATCHDOG and not self._registers["WATCHDOG"]:
            return
        self.memory.poke(self._address("OUTPUT"), bytes(regions[Region.OUTPUT]))
        self._registers |= {f"TOKENS_{i}": count for i, count in enumerate(result.token_counts)}
        self._end(result.error, result.error_index)

    def _end(self, error: ErrorCode, index: int) -> None:
        status = Status.DONE if error is ErrorCode.NONE else Status.ERROR
        self._registers |= {"STATUS": int(status), "ERROR": int(error), "ERROR_INDEX": index}

    def _read(self, name: str, length: int) -> bytes:
        return self.memory.peek(self._address(name), length)

    def _read_region(self, region: Region) -> bytearray:
        size = self._registers[f"{region.name}_SIZE"]
        assert size % TRANSFER_BYTES == 0
        return bytearray(self._read(region.name, size))

    def _address(self, name: str) -> int:
        return self._registers[f"{name}_LO"] | self._registers[f"{name}_HI"] << 32
