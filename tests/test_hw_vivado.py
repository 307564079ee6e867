"""The Vivado project: its scripts, executed in a Tcl interpreter against stubs of Vivado's commands.

Testpoints: Tcl gives back quoted values as they were; wrong values are refused; the IP maps every pin of the core once,
to the logical pin of its name, with registers, address spaces, clock, reset and interrupt; every interface is connected
and every clock, reset and interrupt pin driven, by what should; addresses are those of hw.overlay, all else is
excluded; the newest IP is taken; a build leaves bitstream, hand-off, platform and a complete manifest; negative or
unknown slack, a failed run, an old Vivado and a missing board are errors that leave no bitstream, also not an older
one; a script with a line too few or a pin that does not exist is noticed; the stubs refuse what Vivado does not have;
a clock that no board can have is refused.
"""

from dataclasses import replace
from pathlib import Path

import pytest
from vivado_design import (
    DIGEST,
    STUBS,
    BlockDesign,
    Build,
    block_design,
    core_ports,
    run_build,
    run_tcl,
    write_project,
)

from bitstreams.manifest import UTILISATION, Manifest
from hw import overlay
from hw.config import CONFIGS
from hw.vivado import project
from hw.vivado.tcl import set_array, tcl_value, tcl_word

TINY = CONFIGS["tiny"]
BUILT = {name: CONFIGS[name] for name in ("zcu102_2048", "zcu102_4096", "tiny")}
PROCESSING_SYSTEM, CORE = overlay.PROCESSING_SYSTEM, overlay.INSTANCE
CLOCK = f"{overlay.CLOCK_WIZARD}/clk_out1"
EXIT_ERROR = "error: "


@pytest.fixture(scope="module", params=BUILT)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Build]:
    folder = tmp_path_factory.mktemp(request.param)
    write_project(BUILT[request.param], folder)
    return request.param, run_build(BUILT[request.param], folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_project(TINY, tmp_path)
    return tmp_path


def loose_ends(design: BlockDesign) -> list[str]:
    """Return the inputs and interfaces that nothing is connected to, and those driven by the wrong clock or reset."""
    inputs = {pin: role for pin, (direction, role) in design.pins.items() if direction == "in" and role != "optional"}
    ends = [pin for pin in inputs if pin not in design.nets]
    ends += [pin for pin, role in inputs.items() if role == "plain"]
    joined = set(design.links) | set(design.links.values())
    ends += [interface for interface in design.interfaces if interface not in joined]
    ends += [
        pin
        for pin, role in inputs.items()
        if role == "clock" and pin in design.nets and design.nets[pin] != CLOCK and not pin.endswith("/clk_in1")
    ]
    return ends


def test_tcl_reads_back_what_was_quoted(tmp_path: Path) -> None:
    nasty = ["", "plain", "two words", "$home", "[exit]", "a;b", '"', "{", "}", "}{", "{}", "\\", "\\{", "a\\\nb", "#"]
    nasty += ["~", "a\nb", "\r", "\t", '{"rows": 8}', "{a {b} c}", "-dict", "a\\", "{*}", "x{"]
    values = {
        "flat": nasty,
        "nested": [nasty, ["a"]],
        "pairs": {"k{": {"m": "$x"}},
        "number": 8.5,
        "text": "$text [x]",
        "lines": "a\rb\nc",
    }
    settings = tmp_path / "settings.tcl"
    settings.write_text(set_array("settings", values))
    out = tmp_path / "out"
    run_tcl(
        f"source {tcl_word(str(settings))}\nset file [open {tcl_word(str(out))} w]\nfconfigure $file -translation lf\n"
        "set pairs [dict get $settings(pairs) k\\{]\n"
        "set rest [list $settings(number) $settings(text) $settings(lines)]\n"
        "set all [concat $settings(flat) [lindex $settings(nested) 0] $pairs $rest]\n"
        "puts -nonewline $file [join $all \\x01]\nclose $file\n"
    )
    assert out.read_bytes().decode().split("\x01") == [*nasty, *nasty, "m", "$x", "8.5", "$text [x]", "a\rb\nc"]


def test_tcl_refuses_what_it_cannot_say() -> None:
    with pytest.raises(ValueError, match="not True"):
        tcl_value([1, True])
    with pytest.raises(ValueError, match="not 'a b'"):
        set_array("settings", {"a b": 1})


def test_builds(built: tuple[str, Build]) -> None:
    name, build = built
    assert not build.error
    ports = core_ports(BUILT[name])
    mapped = [pin for interface in build.interfaces.values() for pin in interface.pins.values()]
    assert sorted(mapped) == sorted(ports)  # each exactly once


def test_interfaces_of_the_core(built: tuple[str, Build]) -> None:
    name, build = built
    config = BUILT[name]
    memory = [overlay.memory_interface(port) for port in range(config.axi_ports)]
    axi = {interface for interface in build.interfaces if build.interfaces[interface].type == "interface:aximm"}
    assert axi == {overlay.CONTROL_INTERFACE, *memory}
    for interface in axi:
        pins = build.interfaces[interface].pins
        assert pins == {logical: f"{interface}_{logical.lower()}" for logical in pins}
    control = build.interfaces[overlay.CONTROL_INTERFACE]
    assert (control.mode, control.parameters["PROTOCOL"]) == ("slave", "AXI4LITE")
    assert build.blocks == {(control.memory_map, overlay.CONTROL_BLOCK): (0, overlay.CONTROL_RANGE)}
    for interface in memory:
        master = build.interfaces[interface]
        assert (master.mode, master.parameters["PROTOCOL"]) == ("master", "AXI4")
        assert int(master.parameters["MAX_BURST_LENGTH"]) * config.axi_bytes == 256  # a burst ends at 256 bytes
        assert build.spaces[master.address_space] == 1 << 40
    clock, reset, interrupt = (
        build.interfaces[pin] for pin in (overlay.CLOCK_PIN, overlay.RESET_PIN, overlay.INTERRUPT_PIN)
    )
    assert set(clock.parameters["ASSOCIATED_BUSIF"].split(":")) == axi
    assert clock.parameters["ASSOCIATED_RESET"] == overlay.RESET_PIN
    assert (clock.type, reset.type, interrupt.type) == ("signal:clock", "signal:reset", "signal:interrupt")
    assert reset.parameters == {"POLARITY": "ACTIVE_HIGH"} and interrupt.parameters == {"SENSITIVITY": "LEVEL_HIGH"}
    assert (clock.mode, reset.mode, interrupt.mode) == ("slave", "slave", "master")


def test_everything_is_connected(built: tuple[str, Build]) -> None:
    name, build = built
    design = build.design
    assert loose_ends(design) == []
    assert design.nets[f"{overlay.CLOCK_WIZARD}/clk_in1"] == f"{PROCESSING_SYSTEM}/pl_clk0"
    assert design.nets[f"{CORE}/{overlay.RESET_PIN}"] == f"{overlay.SYSTEM_RESET}/peripheral_reset"
    assert design.nets[f"{PROCESSING_SYSTEM}/pl_ps_irq0"] == f"{CORE}/{overlay.INTERRUPT_PIN}"
    control = overlay.CONTROL_INTERCONNECT
    assert design.links[f"{PROCESSING_SYSTEM}/M_AXI_HPM0_FPD"] == f"{control}/S00_AXI"
    assert design.links[f"{control}/M00_AXI"] == f"{CORE}/{overlay.CONTROL_INTERFACE}"
    for port in range(BUILT[name].axi_ports):
        between = overlay.memory_interconnect(port)
        assert design.links[f"{CORE}/{overlay.memory_interface(port)}"] == f"{between}/S00_AXI"
        assert design.links[f"{between}/M00_AXI"] == f"{PROCESSING_SYSTEM}/{overlay.hp_interface(port)}"
    slaves = [interface for interface in design.interfaces if "/S_AXI_HP" in interface]
    assert len(slaves) == BUILT[name].axi_ports  # no port of the processing system is open for nothing


def test_cells(built: tuple[str, Build]) -> None:
    name, build = built
    design = build.design
    assert design.cells[CORE] == overlay.VLNV
    assert design.cells[PROCESSING_SYSTEM] == "xilinx.com:ip:zynq_ultra_ps_e:3.4"
    assert design.cells[overlay.CLOCK_WIZARD] == "xilinx.com:ip:clk_wiz:6.0"
    assert len(design.cells) == 5 + BUILT[name].axi_ports
    wizard = design.config[overlay.CLOCK_WIZARD]
    assert (wizard["CLKOUT1_REQUESTED_OUT_FREQ"], wizard["PRIM_SOURCE"]) == (str(overlay.CLOCK_MHZ), "No_buffer")
    widths = [design.config[PROCESSING_SYSTEM][f"PSU__SAXIGP{port + 2}__DATA_WIDTH"] for port in range(4)]
    assert widths == ["128"] * BUILT[name].axi_ports + ["64"] * (4 - BUILT[name].axi_ports)


def test_addresses(built: tuple[str, Build]) -> None:
    name, build = built
    control = f"{CORE}/{overlay.CONTROL_INTERFACE}/{overlay.CONTROL_BLOCK}"
    expected = {(f"{PROCESSING_SYSTEM}/Data", control): (overlay.CONTROL_BASE, overlay.CONTROL_RANGE)}
    for port in range(BUILT[name].axi_ports):
        for window in overlay.DDR_WINDOWS:
            segment = f"{PROCESSING_SYSTEM}/SAXIGP{port + 2}/HP{port}_{window.name}"
            expected[f"{CORE}/{overlay.memory_interface(port)}", segment] = (window.base, window.size)
    addresses = build.design.addresses
    assert {key: value for key, value in addresses.items() if value is not None} == expected
    assert {segment for _, segment in addresses} == set(build.design.segments)  # assigned or excluded


def test_results(built: tuple[str, Build]) -> None:
    name, build = built
    manifest = Manifest.load(build.folder / "overlay" / "manifest.json")
    assert manifest.config == BUILT[name] and manifest.verilog_sha256 == DIGEST and manifest.vlnv == overlay.VLNV
    assert manifest.tool == "Vivado 2022.1" and manifest.worst_slack_ns == 0.015  # hold is worse than setup here
    assert manifest.clock_mhz == pytest.approx(overlay.CLOCK_MHZ - 0.0025)  # what the wizard made, not the target
    assert manifest.utilisation == dict(zip(UTILISATION, (1434, 81234, 123456, 801.5), strict=True))
    names = {path.name for path in (build.folder / "overlay").iterdir()}
    assert names == {"heatvit.bit", "heatvit.hwh", "heatvit.xsa", "manifest.json"}
    assert {path.name for path in (build.folder / "reports").iterdir()} == {"timing.rpt", "utilisation.rpt"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"statistics": {"WNS": -0.001}}, "worst setup slack is -0.001"),
        ({"statistics": {"WHS": -0.002}}, "worst hold slack is -0.002"),
        ({"statistics": {"TPWS": -1}}, "pulse width slack is -1"),
        ({"statistics": {"WNS": ""}}, "no WNS"),
        ({"progress": "42%"}, "run synth_1 has failed: synth_1: 42%"),
        ({"release": "2021.2"}, "2022.1 or newer, not 2021.2"),
        ({"board_parts": []}, "no files of the board"),
        ({"catalogue": []}, "no IP xilinx.com:ip:zynq_ultra_ps_e"),
    ],
)
def test_a_build_that_fails_leaves_no_bitstream(folder: Path, variables: dict[str, object], message: str) -> None:
    assert not run_build(TINY, folder).error
    build = run_build(TINY, folder, **variables)
    assert build.error.startswith(EXIT_ERROR) and message in build.error
    assert not list(folder.glob("overlay/*"))
    if "statistics" in variables:
        assert (folder / "reports" / "timing.rpt").is_file()
        assert not list(folder.rglob("*.bit"))


@pytest.mark.parametrize(
    ("script", "old", "new", "message"),
    [
        ("design.tcl", "lappend clocked $interconnect/aclk", "", ""),
        (
            "design.tcl",
            "$settings(system_reset)/peripheral_reset",
            "$settings(system_reset)/peripheral_aresetn",
            "rst is reset_high",
        ),
        ("design.tcl", "$processing_system/pl_ps_irq0", "$processing_system/pl_ps_irq9", "finds 0"),
        ("design.tcl", "CONFIG.PSU__USE__M_AXI_GP1 0", "CONFIG.PSU__USE__M_AXI_GP1 1", ""),
        ("design.tcl", "CONFIG.USE_LOCKED", "CONFIG.USE_LOKED", "no property"),
        ("design.tcl", "exclude_bd_addr_seg -target_address_space", "exclude_bd_addr_seg -target", "no option -target"),
        ("design.tcl", "validate_bd_design\n", "validate_design\n", "invalid command name"),
        ("package.tcl", "{POLARITY ACTIVE_HIGH}", "{POLARTY ACTIVE_HIGH}", "no parameter"),
        ("package.tcl", "    remove_inferred $core\n", "", "bus_type_vlnv"),
    ],
)
def test_a_wrong_script_is_noticed(folder: Path, script: str, old: str, new: str, message: str) -> None:
    path = folder / script
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    build = run_build(TINY, folder)
    assert message in build.error if message else not build.error and loose_ends(build.design)


def test_stubs_refuse_what_vivado_does_not_have(tmp_path: Path) -> None:
    wrong = {
        "set_property top": "takes 1 to 3|takes name, value",
        "set_property -dict {top x}": "takes 1 to 3",
        "launch_runs synth_2": "no such run",
        "launch_runs -jobs": "no option -jobs",
        "get_property top fileset:x": "no such object",
        "create_bd_cell -type ip -vlnv xilinx.com:ip:clk_wiz:7.0 c": "no IP",
        "create_project -part xczu9eg-ffvb1156-2-e": "takes 1 to 2",
        "write_hw_platform -fixed -include_bit x.xsa": "no bitstream",
        "open_run impl_1": "no such object",
        "connect_bd_net bd_pin:a": "takes 2 to 2",
        "make_wrapper -top -files": "needs a value",
    }
    out = tmp_path / "out"
    lines = [f"source {tcl_word(str(stub))}" for stub in STUBS] + [f"set file [open {tcl_word(str(out))} w]"]
    lines += [f"catch {tcl_word(command)} message\nputs $file $message" for command in wrong]
    run_tcl("\n".join([*lines, "close $file"]) + "\n")
    for (command, expected), message in zip(wrong.items(), out.read_text().splitlines(), strict=True):
        assert any(part in message for part in expected.split("|")), (command, message)


def test_block_design_is_reusable() -> None:
    design = block_design(replace(TINY, axi_ports=2))
    assert design.links[f"{CORE}/m_axi_gmem1"] == "smartconnect_gmem1/S00_AXI"


@pytest.mark.parametrize("clock_mhz", [0, -250, 6.2, 333.5, float("nan"), float("inf")])
def test_a_wrong_clock_is_refused(tmp_path: Path, clock_mhz: float) -> None:
    with pytest.raises(ValueError, match=r"clock_mhz must be in 6\.25\.\.333"):
        project.write_project(TINY, tmp_path / "project", clock_mhz)
    assert not (tmp_path / "project").exists()
