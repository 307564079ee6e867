"""The block design around a core, as facts: identity, names, address map, ports and clock.

One table for the Vivado scripts, the .hwh of the simulated board, the driver and the documentation.
Source of the addresses: Zynq UltraScale+ Device Technical Reference Manual (UG1085), address map and PL interfaces.
Imports: the standard library and hw.regmap, so that it also runs on the board.
"""

from __future__ import annotations

from dataclasses import dataclass

from hw.regmap import ADDRESS_BITS

IP_VENDOR, IP_LIBRARY, IP_NAME, IP_VERSION = "heatvit.org", "accelerator", "heatvit_core", "1.0"
VLNV = f"{IP_VENDOR}:{IP_LIBRARY}:{IP_NAME}:{IP_VERSION}"
"""Vendor, library, name and version of the packaged core; PYNQ binds the driver by it. The version is major.minor."""

INSTANCE = "heatvit_0"
"""Name of the core in the block design, and so its attribute of the overlay."""

DESIGN = "heatvit"
"""Name of the block design."""

PART, BOARD_PART = "xczu9eg-ffvb1156-2-e", "xilinx.com:zcu102:part0:3.4"
"""The ZCU102's chip and Vivado's name for the board (revision 1.1 of the board)."""

CONTROL_INTERFACE, INTERRUPT_PIN = "s_axi_control", "interrupt"
CONTROL_BASE = 0xA000_0000
"""Physical address of the registers: the first of the M_AXI_HPM0_FPD aperture."""
CONTROL_RANGE = 1 << ADDRESS_BITS
"""Bytes of the register window; a page, the least that Vivado assigns."""


@dataclass(frozen=True)
class DdrWindow:
    """A piece of the board's DDR in the address map of a memory port."""

    name: str
    base: int
    size: int


DDR_WINDOWS = (DdrWindow("DDR_LOW", 0x0, 2 << 30), DdrWindow("DDR_HIGH", 0x8_0000_0000, 2 << 30))
"""The 4 GiB of the ZCU102's DIMM."""

MAX_MEMORY_PORTS = 4
"""S_AXI_HP0_FPD to S_AXI_HP3_FPD: 128 bits each, not coherent with the caches."""

CLOCK_MHZ = 250
"""What the clock wizard is asked for. A target: whether a config closes it, only Vivado's timing report can say."""


def memory_interface(port: int) -> str:
    """Return the name of the core's AXI4 master of a port."""
    return f"m_axi_gmem{port}"


def hp_interface(port: int) -> str:
    """Return the processing system's slave that a port of the core is connected to."""
    if not 0 <= port < MAX_MEMORY_PORTS:
        raise ValueError(f"port must be in 0..{MAX_MEMORY_PORTS - 1}, not {port!r}")
    return f"S_AXI_HP{port}_FPD"
