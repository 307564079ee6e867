"""Runs the Vivado scripts in a real Tcl interpreter against stubs of Vivado's commands, and returns what they built.

`block_design(config)` is the block design that hw/vivado describes: what any other description of it must agree with.
"""

import shutil
import subprocess
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hw.config import AccelConfig
from hw.generate import VerilogFiles
from hw.overlay import CLOCK_MHZ
from hw.rtl.modules import TOP_MODULE
from hw.rtl.top import top_signature
from hw.vivado.project import VERILOG_FOLDER, write_scripts
from hw.vivado.tcl import tcl_value, tcl_word

STUBS = tuple(Path(__file__).parent / f"vivado_{name}.tcl" for name in ("stubs", "ip", "block"))
DIGEST = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Interface:
    """A bus interface of the packaged core: type such as interface:aximm, pins by their logical name."""

    mode: str
    type: str
    memory_map: str
    address_space: str
    pins: dict[str, str]
    parameters: dict[str, str]


@dataclass(frozen=True)
class BlockDesign:
    """Cells and what joins them; pins and interfaces are named cell/pin.

    cells: VLNVs. config: parameters of each cell, without CONFIG. pins: direction and role (clock, resetn, ...).
    interfaces: mode. nets: driver by sink. links: slave by master. segments: slave interface by address segment.
    addresses: base and size by space and segment, None if the segment is excluded.
    """

    cells: dict[str, str]
    config: dict[str, dict[str, str]]
    pins: dict[str, tuple[str, str]]
    interfaces: dict[str, str]
    nets: dict[str, str]
    links: dict[str, str]
    segments: dict[str, str]
    addresses: dict[tuple[str, str], tuple[int, int] | None]


@dataclass(frozen=True)
class Build:
    """What build.tcl did: error is its message, or empty; blocks are address blocks as (map, name): (base, range)."""

    folder: Path
    error: str
    interfaces: dict[str, Interface]
    blocks: dict[tuple[str, str], tuple[int, int]]
    spaces: dict[str, int]
    design: BlockDesign


def core_ports(config: AccelConfig) -> dict[str, str]:
    """Return the direction, in or out, of every pin of the core's top module."""
    return {name: member.flow.name.lower() for name, member in top_signature(config).members.items()}


def run_tcl(script: str) -> None:
    """Run a script in tclsh, or in Python's Tcl where there is none; skip without either. Raises its error."""
    if program := shutil.which("tclsh"):
        result = subprocess.run([program], input=script, capture_output=True, text=True, timeout=60)
        if result.returncode or result.stderr:
            raise RuntimeError(f"tclsh: {result.stderr}")
        return
    tkinter = pytest.importorskip("tkinter", reason="needs tclsh, or Python's tkinter")
    tkinter.Tcl().eval(script)


def write_project(config: AccelConfig, folder: Path, clock_mhz: float = CLOCK_MHZ) -> None:
    """Write the project of an accelerator with empty Verilog files, which take no time."""
    sources = [folder / VERILOG_FOLDER / f"{name}.v" for name in ("heatvit_ram", TOP_MODULE)]
    sources[0].parent.mkdir(parents=True)
    for source in sources:
        source.touch()
    write_scripts(config, VerilogFiles(TOP_MODULE, tuple(sources), (), DIGEST), folder, clock_mhz)


def run_build(config: AccelConfig, folder: Path, **variables: object) -> Build:
    """Run build.tcl of a project folder; variables set the stubs' own, such as progress or statistics."""
    report = folder / "report.txt"
    lines = [f"source {tcl_word(str(stub))}" for stub in STUBS]
    variables["ports"] = list(core_ports(config).items())
    for name, value in variables.items():
        command = "array set" if isinstance(value, dict) else "set"
        lines.append(f"{command} vivado::{name} {tcl_word(tcl_value(value))}")
    lines += [
        f"set failed [catch {{source {tcl_word(str(folder / 'build.tcl'))}}} message]",
        f"set file [open {tcl_word(str(folder / 'error.txt'))} w]",
        'if {$failed} {puts -nonewline $file "error: $message"}',
        "close $file",
        f"if {{[catch {{vivado::report {tcl_word(str(report))}}} message] && !$failed}} {{error $message}}",
    ]
    report.unlink(missing_ok=True)
    run_tcl("\n".join(lines) + "\n")
    records = defaultdict(list)
    for line in report.read_text().splitlines() if report.exists() else []:
        kind, *fields = line.split("\t")
        records[kind].append(fields)
    return _read(folder, (folder / "error.txt").read_text(), records)


def block_design(config: AccelConfig) -> BlockDesign:
    """Return the block design around an accelerator."""
    with TemporaryDirectory() as folder:
        write_project(config, Path(folder))
        build = run_build(config, Path(folder))
    assert not build.error, build.error
    return build.design


def _read(folder: Path, error: str, records: dict[str, list[list[str]]]) -> Build:
    interfaces = {
        name: Interface(mode, kind, memory_map, space, {}, {})
        for name, mode, kind, memory_map, space in records["interface"]
    }
    for name, logical, physical in records["ipx_port_map"]:
        interfaces[name].pins[logical] = physical
    for name, parameter, value in records["ipx_parameter"]:
        interfaces[name].parameters[parameter] = value
    blocks = {(owner, name): (int(base, 0), int(size, 0)) for owner, name, base, size in records["ipx_block"]}
    spaces = {name: int(size, 0) for name, size in records["ipx_space"]}
    return Build(folder, error, interfaces, blocks, spaces, _read_design(records))


def _read_design(records: dict[str, list[list[str]]]) -> BlockDesign:
    config: dict[str, dict[str, str]] = defaultdict(dict)
    for cell, name, value in records["config"]:
        config[cell][name] = value
    return BlockDesign(
        cells={name: vlnv for name, vlnv in records["cell"]},
        config=dict(config),
        pins={f"{cell}/{pin}": (direction, role) for cell, pin, direction, role in records["pin"]},
        interfaces={f"{cell}/{name}": mode for cell, name, mode in records["interface_pin"]},
        nets={sink: driver for driver, sink in records["net"]},
        links={master: slave for master, slave in records["interface_net"]},
        segments={segment: slave for segment, slave in records["segment"]},
        addresses={
            (space, segment): None if value == ["excluded"] else (int(value[0], 0), int(value[1], 0))
            for space, segment, *value in records["address"]
        },
    )
