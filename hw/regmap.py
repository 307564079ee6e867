"""AXI4-Lite register map, one table for RTL, driver, .hwh and documentation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntFlag

from hw.isa import Region, Unit

ID_VALUE = 0x48565431
"""ASCII "HVT1": the ID register of every heatvit core."""

NUM_TOKEN_REGISTERS = 32
"""Live token counts kept per run, of all pictures; COMPACT writes the one that its `index` field names."""


class Access(Enum):
    """Who may write a register: READ_ONLY by the core, READ_WRITE by the host."""

    READ_ONLY = "ro"
    READ_WRITE = "rw"


class Control(IntFlag):
    """Bits of CONTROL; START and ABORT clear themselves."""

    START = 1
    ABORT = 2
    IRQ_ENABLE = 4


class Status(IntFlag):
    """Bits of STATUS. DONE and ERROR hold until the next START; DRAINING means that AXI replies are still due."""

    BUSY = 1
    DONE = 2
    ERROR = 4
    DRAINING = 8


class Stall(Enum):
    """Why a unit does not go on. What is left of a WAIT register beyond its WEIGHT is a dependency on another unit."""

    OPERAND = "operand"
    WEIGHT = "weight"
    DRAIN = "drain"
    MEMORY = "memory"


_READ = "another unit used the memory that it reads"
_LOADED = "it waited for LOAD, or for keys or values to become weights"
_WRITE = "another unit used the memory that it writes"
STALLS: dict[Unit, dict[Stall, str]] = {
    Unit.LOAD: {Stall.MEMORY: "no beat was there"},  # memories never refuse it
    Unit.OPERAND: {Stall.OPERAND: _READ, Stall.DRAIN: _WRITE},
    Unit.GEMM: {
        Stall.OPERAND: _READ,
        Stall.WEIGHT: _LOADED,
        Stall.DRAIN: "a tile could not end: its constants or a place for it were not there",
    },
    Unit.VECTOR: {Stall.OPERAND: _READ, Stall.WEIGHT: _LOADED, Stall.DRAIN: _WRITE},
    Unit.STORE: {Stall.OPERAND: _READ, Stall.MEMORY: "all was read and not yet confirmed by the bus"},
}
"""The stalls that are counted, and what each means. WEIGHT is part of the unit's WAIT, the others are of its BUSY."""


def stall_register(unit: Unit, stall: Stall) -> str:
    """Return the name of a stall counter."""
    return f"STALL_{unit.name}_{stall.name}"


@dataclass(frozen=True)
class Register:
    """One 32-bit register at a byte offset."""

    name: str
    offset: int
    access: Access
    text: str


def _build() -> dict[str, Register]:
    rows: list[tuple[str, Access, str]] = [
        ("ID", Access.READ_ONLY, "0x48565431"),
        ("CONFIG_HASH", Access.READ_ONLY, "AccelConfig.hash32 of the generated core"),
        ("CONTROL", Access.READ_WRITE, "start, abort, interrupt enable"),
        ("STATUS", Access.READ_ONLY, "busy, done, error, draining"),
        ("ERROR", Access.READ_ONLY, "ErrorCode of the last run"),
        ("ERROR_INDEX", Access.READ_ONLY, "program index of the descriptor that failed"),
        ("PROGRAM_LO", Access.READ_WRITE, "DDR address of the program, bits 31:0, 64-byte aligned"),
        ("PROGRAM_HI", Access.READ_WRITE, "DDR address of the program, bits 39:32"),
        ("PROGRAM_LENGTH", Access.READ_WRITE, "descriptors in the program, END included"),
        (
            "WATCHDOG",
            Access.READ_WRITE,
            "cycles without a completed descriptor after which a run ends; 0 is off",
        ),
    ]
    for region in Region:
        rows += [
            (
                f"{region.name}_LO",
                Access.READ_WRITE,
                f"DDR base of the {region.name.lower()} region, bits 31:0, 64-byte aligned",
            ),
            (
                f"{region.name}_HI",
                Access.READ_WRITE,
                f"DDR base of the {region.name.lower()} region, bits 39:32",
            ),
            (f"{region.name}_SIZE", Access.READ_WRITE, f"bytes of the {region.name.lower()} region"),
        ]
    rows.append(("CYCLES", Access.READ_ONLY, "cycles of the last run, start to done"))
    for unit in Unit:
        rows += [
            (
                f"BUSY_{unit.name}",
                Access.READ_ONLY,
                f"cycles in which the {unit.name.lower()} unit had a descriptor",
            ),
            (
                f"WAIT_{unit.name}",
                Access.READ_ONLY,
                f"cycles in which the {unit.name.lower()} unit waited for another unit",
            ),
        ]
    rows += [
        (f"TOKENS_{i}", Access.READ_ONLY, f"live tokens after COMPACT {i}: selector by selector, picture by picture")
        for i in range(NUM_TOKEN_REGISTERS)
    ]
    rows += [
        (stall_register(unit, stall), Access.READ_ONLY, f"{unit.name.lower()}: cycles in which {text}")
        for unit, stalls in STALLS.items()
        for stall, text in stalls.items()
    ]
    return {name: Register(name, 4 * i, access, text) for i, (name, access, text) in enumerate(rows)}


REGISTERS: dict[str, Register] = _build()
"""Every register by name; offsets are consecutive words."""

ADDRESS_BITS = 12
"""The core decodes 4 KiB; a read outside the table returns 0, a write is ignored."""
