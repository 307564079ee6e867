"""The hardware handoff (.hwh) of the block design around a core, as PYNQ reads it: for simulated boards.

It holds what PYNQ needs to bind the driver and to set up the processing system, from the facts of hw/overlay.py. A real
bitstream comes with the .hwh that Vivado wrote; the wrong parameters here would reprogram the clocks of a board.
"""

from __future__ import annotations

from xml.etree import ElementTree

from hw.config import AccelConfig
from hw.overlay import (
    BOARD_PART,
    CONTROL_BASE,
    CONTROL_DATA_BITS,
    CONTROL_INTERFACE,
    CONTROL_RANGE,
    DDR_WINDOWS,
    DESIGN,
    HP_DATA_BITS,
    INSTANCE,
    IP_NAME,
    IP_VERSION,
    PART,
    PL_CLOCK_MHZ,
    PROCESSING_SYSTEM,
    VLNV,
    hp_interface,
    hp_parameter,
    memory_interface,
)

PROCESSOR = "zynq_ultra_ps_e"
PROCESSOR_VERSION = "3.5"
CONTROL_MASTER = "M_AXI_HPM0_FPD"

PL_CLOCKS = 4
IO_PLL_MHZ = 1500

AXI = "xilinx.com:interface:aximm:1.0"


def hardware_handoff(config: AccelConfig) -> ElementTree.ElementTree[ElementTree.Element]:
    """Return the .hwh of the design with a core of a config."""
    root = ElementTree.Element("EDKSYSTEM", EDWVERSION="1.2")
    device, package, _ = PART.split("-", 2)
    facts = {"ARCH": "zynquplus", "BOARD": BOARD_PART, "DEVICE": device, "NAME": DESIGN, "PACKAGE": package}
    _add(root, "SYSTEMINFO", **facts)
    _add(root, "EXTERNALPORTS")
    _add(root, "EXTERNALINTERFACES")
    modules = _add(root, "MODULES")
    _add_core(modules, config)
    _add_processor(modules, config)
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


def _add(parent: ElementTree.Element, tag: str, **attributes: str | int) -> ElementTree.Element:
    return ElementTree.SubElement(parent, tag, {name: str(value) for name, value in attributes.items()})


def _add_core(modules: ElementTree.Element, config: AccelConfig) -> None:
    core = _add(
        modules,
        "MODULE",
        FULLNAME=f"/{INSTANCE}",
        HWVERSION=IP_VERSION,
        INSTANCE=INSTANCE,
        MODCLASS="PERIPHERAL",
        MODTYPE=IP_NAME,
        VLNV=VLNV,
    )
    _add(core, "PARAMETERS")
    _add(core, "PORTS")
    buses, ranges = _add(core, "BUSINTERFACES"), _add(core, "MEMORYMAP")
    _add(buses, "BUSINTERFACE", DATAWIDTH=32, NAME=CONTROL_INTERFACE, TYPE="SLAVE", VLNV=AXI)
    for port in range(config.axi_ports):
        master, slave = memory_interface(port), hp_interface(port)
        _add(buses, "BUSINTERFACE", DATAWIDTH=8 * config.axi_bytes, NAME=master, TYPE="MASTER", VLNV=AXI)
        for window in DDR_WINDOWS:
            block = f"HP{port}_{window.name}"
            _add_range(ranges, block, window.base, window.size, PROCESSING_SYSTEM, "MEMORY", master, slave)


def _add_processor(modules: ElementTree.Element, config: AccelConfig) -> None:
    processor = _add(
        modules,
        "MODULE",
        FULLNAME=f"/{PROCESSING_SYSTEM}",
        HWVERSION=PROCESSOR_VERSION,
        INSTANCE=PROCESSING_SYSTEM,
        IS_PL="FALSE",
        MODTYPE=PROCESSOR,
        VLNV=f"xilinx.com:ip:{PROCESSOR}:{PROCESSOR_VERSION}",
    )
    parameters = _add(processor, "PARAMETERS")
    # PYNQ sets these widths when it downloads a bitstream.
    widths: dict[str, str | int] = {"C_MAXIGP0_DATA_WIDTH": CONTROL_DATA_BITS}
    widths |= {f"C_{hp_parameter(port)}_DATA_WIDTH": HP_DATA_BITS for port in range(config.axi_ports)}
    for name, value in (widths | _clock_parameters()).items():
        _add(parameters, "PARAMETER", NAME=name, VALUE=value)
    _add(processor, "PORTS")
    buses, ranges = _add(processor, "BUSINTERFACES"), _add(processor, "MEMORYMAP")
    _add(buses, "BUSINTERFACE", DATAWIDTH=CONTROL_DATA_BITS, NAME=CONTROL_MASTER, TYPE="MASTER", VLNV=AXI)
    for port in range(config.axi_ports):
        _add(buses, "BUSINTERFACE", DATAWIDTH=HP_DATA_BITS, NAME=hp_interface(port), TYPE="SLAVE", VLNV=AXI)
    control = (CONTROL_MASTER, CONTROL_INTERFACE)
    _add_range(ranges, "reg0", CONTROL_BASE, CONTROL_RANGE, INSTANCE, "REGISTER", *control)


def _clock_parameters() -> dict[str, str | int]:
    parameters: dict[str, str | int] = {}
    for clock in range(PL_CLOCKS):
        control = f"PSU__CRL_APB__PL{clock}_REF_CTRL"
        parameters |= {
            f"PSU__FPGA_PL{clock}_ENABLE": int(clock == 0),
            f"{control}__SRCSEL": "IOPLL",
            f"{control}__DIVISOR0": IO_PLL_MHZ // PL_CLOCK_MHZ,
            f"{control}__DIVISOR1": 1,
            f"{control}__ACT_FREQMHZ": PL_CLOCK_MHZ,
        }
    return parameters


def _add_range(
    ranges: ElementTree.Element, block: str, base: int, size: int, instance: str, kind: str, master: str, slave: str
) -> None:
    _add(
        ranges,
        "MEMRANGE",
        ADDRESSBLOCK=block,
        BASENAME="C_BASEADDR",
        BASEVALUE=f"0x{base:X}",
        HIGHNAME="C_HIGHADDR",
        HIGHVALUE=f"0x{base + size - 1:X}",
        INSTANCE=instance,
        IS_DATA="TRUE",
        IS_INSTRUCTION="TRUE",
        MASTERBUSINTERFACE=master,
        MEMTYPE=kind,
        SLAVEBUSINTERFACE=slave,
    )
