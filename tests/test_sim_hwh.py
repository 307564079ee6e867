"""The hardware handoff of simulated boards, as PYNQ's own parser reads it.

Testpoints: the core has the address, range and VLNV of hw.overlay and binds the driver; one memory master a port, each
with both DDR windows, at the width of the config; all as in the block design of the Vivado scripts; clocks: one PL
clock on; the widths that PYNQ writes; the file is written whole with a manifest and a .bit that no board takes.
"""

import pytest
from pynqmetadata.frontends import Metadata
from pynqmetadata.views.runtime import RuntimeMetadataParser
from vivado_design import block_design

from bitstreams.manifest import Manifest
from hw.config import CONFIGS
from hw.overlay import (
    CONTROL_BASE,
    CONTROL_INTERFACE,
    CONTROL_RANGE,
    DDR_WINDOWS,
    DESIGN,
    HP_DATA_BITS,
    INSTANCE,
    PL_CLOCK_MHZ,
    PROCESSING_SYSTEM,
    VLNV,
    hp_interface,
    memory_interface,
)
from sim.hwh import hardware_handoff
from sim.overlay_files import write_overlay


@pytest.fixture(params=["tiny", "zcu102_2048"])
def config(request):
    return CONFIGS[request.param]


@pytest.fixture
def parser(config, tmp_path):
    return RuntimeMetadataParser(Metadata(input=str(write_overlay(tmp_path, config).with_suffix(".hwh"))))


def test_pynq_finds_the_core(parser):
    core = parser.ip_dict[INSTANCE]
    assert (core["phys_addr"], core["addr_range"], core["type"]) == (CONTROL_BASE, CONTROL_RANGE, VLNV)
    assert core["fullpath"] == INSTANCE


def test_pynq_sets_clocks_and_widths(parser, config):
    assert [parser.clock_dict[clock]["enable"] for clock in range(4)] == [1, 0, 0, 0]
    assert parser.clock_dict[0]["frequency"] == PL_CLOCK_MHZ
    parameters = parser.ip_dict[PROCESSING_SYSTEM]["parameters"]
    widths = {name: int(value) for name, value in parameters.items() if name.startswith("C_SAXIGP")}
    assert widths == {f"C_SAXIGP{port + 2}_DATA_WIDTH": HP_DATA_BITS for port in range(config.axi_ports)}


def test_every_port_reaches_both_windows_of_ddr(config):
    root = hardware_handoff(config).getroot()
    core = root.find(f".//MODULE[@INSTANCE='{INSTANCE}']")
    buses = {bus.get("NAME"): (bus.get("TYPE"), int(bus.get("DATAWIDTH"))) for bus in core.iter("BUSINTERFACE")}
    masters = {memory_interface(port): ("MASTER", 8 * config.axi_bytes) for port in range(config.axi_ports)}
    assert buses == {CONTROL_INTERFACE: ("SLAVE", 32), **masters}
    ranges = [
        (
            r.get("MASTERBUSINTERFACE"),
            r.get("SLAVEBUSINTERFACE"),
            int(r.get("BASEVALUE"), 16),
            int(r.get("HIGHVALUE"), 16),
        )
        for r in core.iter("MEMRANGE")
    ]
    assert ranges == [
        (memory_interface(port), hp_interface(port), window.base, window.base + window.size - 1)
        for port in range(config.axi_ports)
        for window in DDR_WINDOWS
    ]


@pytest.mark.parametrize("name", ["demo", "zcu102_2048", "zcu102_4096"])
def test_block_design_of_the_vivado_scripts_agrees(name):
    """What Vivado would write of its design, and what the simulated board is given, say the same."""
    config = CONFIGS[name]
    design, root = block_design(config), hardware_handoff(config).getroot()
    modules = {module.get("INSTANCE"): module for module in root.iter("MODULE")}
    assert set(modules) == {INSTANCE, PROCESSING_SYSTEM}
    assert design.cells[INSTANCE] == modules[INSTANCE].get("VLNV")
    assert design.cells[PROCESSING_SYSTEM].split(":")[:3] == modules[PROCESSING_SYSTEM].get("VLNV").split(":")[:3]

    in_handoff = {
        (module.get("INSTANCE"), window.get("MASTERBUSINTERFACE"), window.get("SLAVEBUSINTERFACE")): set()
        for module in modules.values()
        for window in module.iter("MEMRANGE")
    }
    for instance, module in modules.items():
        for window in module.iter("MEMRANGE"):
            low, high = (int(window.get(end), 16) for end in ("BASEVALUE", "HIGHVALUE"))
            key = (instance, window.get("MASTERBUSINTERFACE"), window.get("SLAVEBUSINTERFACE"))
            in_handoff[key].add((low, high - low + 1))
    in_design = {key: set() for key in in_handoff}
    for (space, segment), window in design.addresses.items():
        if window is not None:
            cell, master = space.split("/")
            slave = design.segments[segment].split("/")[1]
            in_design[cell, "M_AXI_HPM0_FPD" if cell == PROCESSING_SYSTEM else master, slave].add(window)
    assert in_design == in_handoff

    parameters = {entry.get("NAME"): entry.get("VALUE") for entry in modules[PROCESSING_SYSTEM].iter("PARAMETER")}
    chosen = design.config[PROCESSING_SYSTEM]
    for port in ("MAXIGP0", *(f"SAXIGP{port + 2}" for port in range(config.axi_ports))):
        assert chosen[f"PSU__{port}__DATA_WIDTH"] == parameters[f"C_{port}_DATA_WIDTH"]
    clock = "PSU__CRL_APB__PL0_REF_CTRL"
    assert float(chosen[f"{clock}__FREQMHZ"]) == float(parameters[f"{clock}__ACT_FREQMHZ"])


def test_overlay_files(config, tmp_path):
    bitstream = write_overlay(tmp_path / "new", config)
    assert bitstream.name == f"{DESIGN}.bit" and b"simulated" in bitstream.read_bytes()
    manifest = Manifest.load(bitstream.with_name("manifest.json"))
    assert (manifest.config, manifest.vlnv, manifest.tool) == (config, VLNV, "simulated")
