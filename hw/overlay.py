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

PROCESSING_SYSTEM, CLOCK_WIZARD, SYSTEM_RESET = "zynq_ultra_ps_e_0", "clk_wiz_0", "proc_sys_reset_0"
CONTROL_INTERCONNECT = "smartconnect_control"
"""Names of the cells around the core; memory_interconnect names those of the memory ports."""

CLOCK_PIN, RESET_PIN, INTERRUPT_PIN = "clk", "rst", "interrupt"
"""Pins of the core: one clock, a synchronous reset and an interrupt, both active high."""

CONTROL_INTERFACE, CONTROL_BLOCK = "s_axi_control", "Reg"
"""The core's AXI4-Lite slave, and the address block of its registers."""
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
"""S_AXI_HP0_FPD to S_AXI_HP3_FPD: not coherent with the caches."""
CONTROL_DATA_BITS, HP_DATA_BITS = 32, 128
"""Widths that M_AXI_HPM0_FPD and the slaves of the memory ports are set to, whatever the core's ports have."""

PL_CLOCK_MHZ = 100
"""Clock 0 of the processing system, from which the clock wizard makes the core's."""

CLOCK_MHZ = 250
"""What the clock wizard is asked for. A target: whether a config closes it, only Vivado's timing report can say."""

CLOCK_RANGE_MHZ = (6.25, 333.0)
"""From the least of an MMCM to the most of the processing system's AXI ports, which have the core's clock.

Source: Zynq UltraScale+ MPSoC Data Sheet, DC and AC Switching Characteristics (DS925), speed grade -2.
"""


def memory_interface(port: int) -> str:
    """Return the name of the core's AXI4 master of a port."""
    return f"m_axi_gmem{port}"


def memory_interconnect(port: int) -> str:
    """Return the name of the cell between a port of the core and the processing system."""
    return f"smartconnect_gmem{port}"


def hp_interface(port: int) -> str:
    """Return the processing system's slave that a port of the core is connected to."""
    if not 0 <= port < MAX_MEMORY_PORTS:
        raise ValueError(f"port must be in 0..{MAX_MEMORY_PORTS - 1}, not {port!r}")
    return f"S_AXI_HP{port}_FPD"


def hp_parameter(port: int) -> str:
    """Return what the processing system's parameters and address segments call the slave of a port."""
    return f"SAXIGP{port + 2}"


def hp_segment(port: int, window: DdrWindow) -> str:
    """Return the address segment of a DDR window behind the slave of a port, as slave/segment."""
    return f"{hp_parameter(port)}/HP{port}_{window.name}"
