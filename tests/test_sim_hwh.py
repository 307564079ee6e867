"""The hardware handoff of simulated boards, as PYNQ's own parser reads it.

Testpoints: the core has the address, range and VLNV of hw.overlay and binds the driver; one memory master a port, each
with both DDR windows, at the width of the config; clocks: one PL clock on; the widths that PYNQ writes; the file is
written whole with a manifest and a .bit that no board takes.
"""

import pytest
from pynqmetadata.frontends import Metadata
from pynqmetadata.views.runtime import RuntimeMetadataParser

from bitstreams.manifest import Manifest
from hw.config import CONFIGS
from hw.overlay import (
    CONTROL_BASE,
    CONTROL_INTERFACE,
    CONTROL_RANGE,
    DDR_WINDOWS,
    DESIGN,
    INSTANCE,
    VLNV,
    hp_interface,
    memory_interface,
)
from sim.hwh import PL_CLOCK_MHZ, PROCESSOR_INSTANCE, hardware_handoff
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
    parameters = parser.ip_dict[PROCESSOR_INSTANCE]["parameters"]
    widths = {name: int(value) for name, value in parameters.items() if name.startswith("C_SAXIGP")}
    assert widths == {f"C_SAXIGP{port + 2}_DATA_WIDTH": 8 * config.axi_bytes for port in range(config.axi_ports)}


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


def test_overlay_files(config, tmp_path):
    bitstream = write_overlay(tmp_path / "new", config)
    assert bitstream.name == f"{DESIGN}.bit" and b"simulated" in bitstream.read_bytes()
    manifest = Manifest.load(bitstream.with_name("manifest.json"))
    assert (manifest.config, manifest.vlnv, manifest.tool) == (config, VLNV, "simulated")
