"""Resources of an FPGA: what the cells of an UltraScale+ netlist occupy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

LUTS_OF = {
    **{f"LUT{inputs}": 1 for inputs in range(1, 7)},
    "INV": 1,  # a tool that merges it into the LUT behind it needs none: counted, to stay an upper estimate
    **{"SRL16E": 1, "SRLC32E": 1, "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM256X1D": 8},
    **{"RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2, "RAM256X1S": 4, "RAM512X1S": 8},
    **{"RAM32M": 4, "RAM64M": 4, "RAM32M16": 8, "RAM64M8": 8},
}
"""LUTs that a cell occupies (UltraScale Architecture CLB user guide UG574, distributed RAM and shift registers)."""

FLIP_FLOPS = ("FDRE", "FDSE", "FDCE", "FDPE")
BLOCK_RAMS = {"RAMB36E2": 1.0, "RAMB18E2": 0.5}
FREE = ("CARRY4", "CARRY8", "MUXF7", "MUXF8", "MUXF9", "BUFG", "$scopeinfo")
"""Cells beside the LUTs of a slice, and notes."""


class SynthesisError(RuntimeError):
    """Yosys is missing or failed; the message ends with its last lines."""


@dataclass(frozen=True)
class Resources:
    """What a unit occupies, or what a chip has: DSP48E2, 6-input LUTs, flip-flops, block RAMs of 36 Kbit."""

    dsp: int = 0
    lut: int = 0
    ff: int = 0
    bram36: float = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: Resources) -> Resources:
        return self + other * -1

    def __mul__(self, count: int) -> Resources:
        return Resources(*(getattr(self, f.name) * count for f in fields(self)))


def count_resources(cells: Mapping[str, int]) -> Resources:
    """Add up the cells of a netlist. Raises SynthesisError for one whose cost is unknown."""
    unknown = set(cells) - {*LUTS_OF, *FLIP_FLOPS, *BLOCK_RAMS, *FREE, "DSP48E2"}
    if unknown:
        raise SynthesisError(f"cost of cell {', '.join(sorted(unknown))} is unknown")
    return Resources(
        dsp=cells.get("DSP48E2", 0),
        lut=sum(cost * cells.get(name, 0) for name, cost in LUTS_OF.items()),
        ff=sum(cells.get(name, 0) for name in FLIP_FLOPS),
        bram36=sum(cost * cells.get(name, 0) for name, cost in BLOCK_RAMS.items()),
    )
