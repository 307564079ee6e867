"""Instruction set: opcodes, the descriptor layout and its packing. RTL decoder, compiler, machine and driver import it.

A program is a straight line of 64-byte descriptors in DDR, executed by units that run concurrently. Each unit takes
its own descriptors in program order; `wait_<unit>` of a descriptor is the number of descriptors (modulo 2**16) that
that unit must have completed before this one starts. That vector clock is the only ordering there is.
docs/architecture.md gives the meaning of every opcode; sim/machine.py executes it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

DESCRIPTOR_BYTES = 64


class Unit(IntEnum):
    """Execution units, in the order of the wait fields and of the counters."""

    LOAD = 0
    OPERAND = 1
    GEMM = 2
    VECTOR = 3
    STORE = 4


class Opcode(IntEnum):
    """What a descriptor asks for; 0 is illegal so that cleared memory faults."""

    END = 1
    LOAD = 2
    STORE = 3
    KEYS = 4
    VALUES = 5
    GEMM = 6
    BEGIN = 7
    LAYER_NORM = 8
    SOFTMAX = 9
    UNIFORM = 10
    SELECT = 11
    COMPACT = 12


UNIT_OF: dict[Opcode, Unit] = {
    Opcode.LOAD: Unit.LOAD,
    Opcode.STORE: Unit.STORE,
    Opcode.KEYS: Unit.OPERAND,
    Opcode.VALUES: Unit.OPERAND,
    Opcode.GEMM: Unit.GEMM,
    Opcode.BEGIN: Unit.VECTOR,
    Opcode.LAYER_NORM: Unit.VECTOR,
    Opcode.SOFTMAX: Unit.VECTOR,
    Opcode.UNIFORM: Unit.VECTOR,
    Opcode.SELECT: Unit.VECTOR,
    Opcode.COMPACT: Unit.VECTOR,
}
"""The unit that executes an opcode; END belongs to the sequencer."""

WITHOUT_PICTURE = (Opcode.END, Opcode.LOAD, Opcode.STORE)
"""Opcodes that do not look at what is known of a picture; its number must be 0 there."""


class Drain(IntEnum):
    """What the GEMM drain does with an accumulator (field `mode` of GEMM)."""

    INT8 = 0
    GELU = 1
    SIGMOID = 2
    ROW_SCALE = 3
    SCORE = 4
    RESIDUAL = 5
    WIDE = 6


class Memory(IntEnum):
    """On-chip memories a LOAD or STORE can name."""

    ACT = 0
    WIDE = 1
    WEIGHT = 2
    PARAM = 3
    TOKEN = 4


class Region(IntEnum):
    """DDR regions; each has a base and a size register, and descriptors hold offsets into them."""

    WEIGHTS = 0
    INPUT = 1
    OUTPUT = 2


class ErrorCode(IntEnum):
    """Why a run ended; the ERROR_INDEX register holds the index of the descriptor."""

    NONE = 0
    BAD_OPCODE = 1
    BAD_ADDRESS = 2
    AXI_READ = 3
    AXI_WRITE = 4
    WATCHDOG = 5
    ABORTED = 6


FIELD_BITS: dict[str, int] = {
    "opcode": 8,
    "mode": 8,
    "wait_load": 16,
    "wait_operand": 16,
    "wait_gemm": 16,
    "wait_vector": 16,
    "wait_store": 16,
    "src_base": 16,
    "src_stride": 16,
    "src_words": 16,
    "aux_base": 16,
    "aux_stride": 16,
    "dst_base": 16,
    "dst_stride": 16,
    "cols": 16,
    "rows": 16,
    "param_base": 16,
    "row_base": 16,
    "mult": 16,
    "shift": 8,
    "heads": 8,
    "one": 16,
    "curve": 16,
    "threshold": 16,
    "dim": 16,
    "addend": 32,
    "region": 8,
    "memory": 8,
    "index": 16,
    "offset": 32,
    "length": 32,
    "first_tile": 8,
    "picture": 8,
}
"""Width of each descriptor field, packed from bit 0 upwards without gaps; together they fill the 512 bits."""


ADDEND_MASK = (1 << FIELD_BITS["addend"]) - 1
"""Makes a negative number an addend."""


@dataclass(frozen=True)
class Descriptor:
    """One job for one unit; a field that an opcode does not use is zero. Units: words, rows, bytes as the name says.

    addend is what LAYER_NORM adds to the variance and, as i32, what modes of GEMM add: SCORE to the package token's
    column, GELU to its result, as quant.approx.gelu's offset.
    """

    opcode: int
    mode: int = 0
    wait_load: int = 0
    wait_operand: int = 0
    wait_gemm: int = 0
    wait_vector: int = 0
    wait_store: int = 0
    src_base: int = 0
    src_stride: int = 0
    src_words: int = 0
    aux_base: int = 0
    aux_stride: int = 0
    dst_base: int = 0
    dst_stride: int = 0
    cols: int = 0
    rows: int = 0
    param_base: int = 0
    row_base: int = 0
    mult: int = 0
    shift: int = 0
    heads: int = 0
    one: int = 0
    curve: int = 0
    threshold: int = 0
    dim: int = 0
    addend: int = 0
    region: int = 0
    memory: int = 0
    index: int = 0
    offset: int = 0
    length: int = 0
    first_tile: int = 0
    picture: int = 0

    def __post_init__(self) -> None:
        for name, bits in FIELD_BITS.items():
            value = getattr(self, name)
            if not 0 <= value < 1 << bits:
                raise ValueError(f"{name} must be in 0..{(1 << bits) - 1}, not {value!r}")

    @property
    def addend_i32(self) -> int:
        """The addend as the signed number that it is for GEMM."""
        return (self.addend ^ 1 << 31) - (1 << 31)

    @property
    def waits(self) -> tuple[int, ...]:
        """Completed descriptors required of each unit, in the order of `Unit`."""
        return (self.wait_load, self.wait_operand, self.wait_gemm, self.wait_vector, self.wait_store)

    def covered_rows(self, live: int, lanes: int) -> int:
        """Return how many rows a GEMM or LAYER_NORM covers while `live` tokens are live; lanes is R.

        The rows from row tile first_tile on: as many as `rows` says (0: all), and never more than there are.
        """
        left = max(live - self.first_tile * lanes, 0)
        return min(self.rows, left) if self.rows else left

    def pack(self) -> bytes:
        """Return the 64 bytes, little endian."""
        word, position = 0, 0
        for name, bits in FIELD_BITS.items():
            word |= int(getattr(self, name)) << position
            position += bits
        return word.to_bytes(DESCRIPTOR_BYTES, "little")

    @classmethod
    def unpack(cls, data: bytes) -> Descriptor:
        """Inverse of pack. Raises ValueError if data is not 64 bytes."""
        if len(data) != DESCRIPTOR_BYTES:
            raise ValueError(f"descriptor must have {DESCRIPTOR_BYTES} bytes, not {len(data)}")
        word = int.from_bytes(data, "little")
        values = {}
        for name, bits in FIELD_BITS.items():
            values[name] = word & ((1 << bits) - 1)
            word >>= bits
        return cls(**values)


assert tuple(field.name for field in fields(Descriptor)) == tuple(FIELD_BITS)
assert sum(FIELD_BITS.values()) == 8 * DESCRIPTOR_BYTES
