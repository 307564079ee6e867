"""A Vivado project folder: the core's Verilog, the scripts of this folder, and settings.tcl with all that they read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hw import overlay
from hw.config import AccelConfig
from hw.generate import VerilogFiles, generate
from hw.rtl.axi import AXI_ADDRESS_WIDTH, BLOCK_BYTES, axi4_signature, axi_lite_signature
from hw.rtl.burst import MAX_WRITES
from hw.timing import BURST_BLOCKS, READ_BLOCKS
from hw.vivado.tcl import TclValue, set_array

SCRIPTS = ("build.tcl", "package.tcl", "design.tcl", "results.tcl")
"""What every project has as it is here; build.tcl runs the others."""

SETTINGS_NAME, SETTINGS_ARRAY, VERILOG_FOLDER = "settings.tcl", "settings", "verilog"
OLDEST_VIVADO = "2022.1"
MULTIPLIER = "dsp48"
"""Vivado has the DSP48E2 primitive, and infers fewer of its registers from plain arithmetic."""


@dataclass(frozen=True)
class Project:
    """What write_project wrote: Verilog, and the scripts with their settings last."""

    verilog: VerilogFiles
    scripts: tuple[Path, ...]


def check_clock(clock_mhz: float) -> float:
    """Return a clock in MHz. Raises ValueError outside overlay.CLOCK_RANGE_MHZ."""
    low, high = overlay.CLOCK_RANGE_MHZ
    if not low <= clock_mhz <= high:
        raise ValueError(f"clock_mhz must be in {low:g}..{high:g}, not {clock_mhz!r}")
    return clock_mhz


def write_project(config: AccelConfig, folder: Path, clock_mhz: float = overlay.CLOCK_MHZ) -> Project:
    """Write the project of an accelerator. Raises ValueError for a wrong clock, OSError."""
    check_clock(clock_mhz)
    verilog = generate(config, folder / VERILOG_FOLDER, MULTIPLIER)
    return Project(verilog, write_scripts(config, verilog, folder, clock_mhz))


def write_scripts(config: AccelConfig, verilog: VerilogFiles, folder: Path, clock_mhz: float) -> tuple[Path, ...]:
    """Write the scripts and their settings beside Verilog that is there already; return their paths."""
    here = Path(__file__).parent
    texts = {name: (here / name).read_text(encoding="utf-8") for name in SCRIPTS}
    texts[SETTINGS_NAME] = "# Written by heatvit bitstream: what the scripts beside it read.\n" + set_array(
        SETTINGS_ARRAY, project_settings(config, verilog, clock_mhz)
    )
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return tuple(folder / name for name in texts)


def project_settings(config: AccelConfig, verilog: VerilogFiles, clock_mhz: float) -> dict[str, TclValue]:
    """Return every value that the scripts read, by its name in settings.tcl. Raises ValueError for a wrong clock."""
    return {
        "oldest_vivado": OLDEST_VIVADO,
        "part": overlay.PART,
        "board_part": overlay.BOARD_PART,
        "sources": [f"{VERILOG_FOLDER}/{path.name}" for path in verilog.sources],
        "top": verilog.top,
        "vlnv": overlay.VLNV,
        "clock_pin": overlay.CLOCK_PIN,
        "reset_pin": overlay.RESET_PIN,
        "interrupt_pin": overlay.INTERRUPT_PIN,
        "interfaces": _interfaces(config),
        "control_interface": overlay.CONTROL_INTERFACE,
        "control_block": overlay.CONTROL_BLOCK,
        "control_base": overlay.CONTROL_BASE,
        "control_range": overlay.CONTROL_RANGE,
        "design": overlay.DESIGN,
        "instance": overlay.INSTANCE,
        "processing_system": overlay.PROCESSING_SYSTEM,
        "clock_wizard": overlay.CLOCK_WIZARD,
        "system_reset": overlay.SYSTEM_RESET,
        "control_interconnect": overlay.CONTROL_INTERCONNECT,
        "memory_ports": [_memory_port(port) for port in range(config.axi_ports)],
        "control_data_bits": overlay.CONTROL_DATA_BITS,
        "hp_data_bits": overlay.HP_DATA_BITS,
        "pl_clock_mhz": overlay.PL_CLOCK_MHZ,
        "clock_mhz": check_clock(clock_mhz),
        "manifest": _manifest_fields(config, verilog),
    }


def _interfaces(config: AccelConfig) -> list[Mapping[str, TclValue]]:
    """Describe the core's AXI interfaces: name, mode, pins without prefix, and IP-XACT bus parameters."""
    control: dict[str, TclValue] = {
        "name": overlay.CONTROL_INTERFACE,
        "mode": "slave",
        "pins": _pins(axi_lite_signature()),
        "parameters": {"PROTOCOL": "AXI4LITE"},
    }
    # What SmartConnect sizes its queues by; without it, it allows one transaction at a time.
    parameters: dict[str, TclValue] = {
        "PROTOCOL": "AXI4",
        "SUPPORTS_NARROW_BURST": 0,
        "MAX_BURST_LENGTH": BURST_BLOCKS * BLOCK_BYTES // config.axi_bytes,
        "NUM_READ_OUTSTANDING": READ_BLOCKS,  # if each burst is one block
        "NUM_WRITE_OUTSTANDING": MAX_WRITES,
    }
    memory: list[Mapping[str, TclValue]] = [
        {
            "name": overlay.memory_interface(port),
            "mode": "master",
            "pins": _pins(axi4_signature(config.axi_bytes)),
            "parameters": parameters,
            "data_bits": 8 * config.axi_bytes,
            "address_bits": AXI_ADDRESS_WIDTH,
        }
        for port in range(config.axi_ports)
    ]
    return [control, *memory]


def _memory_port(port: int) -> dict[str, TclValue]:
    """Describe what a memory port of the core is connected to."""
    return {
        "interface": overlay.memory_interface(port),
        "interconnect": overlay.memory_interconnect(port),
        "hp_interface": overlay.hp_interface(port),
        "hp_clock": f"saxihp{port}_fpd_aclk",
        "hp_parameter": overlay.hp_parameter(port),
        "windows": [
            {"segment": overlay.hp_segment(port, window), "base": window.base, "size": window.size}
            for window in overlay.DDR_WINDOWS
        ],
    }


def _manifest_fields(config: AccelConfig, verilog: VerilogFiles) -> dict[str, str]:
    """Return the fields of bitstreams.manifest that are known before the build, as JSON; results.tcl adds the rest."""
    fields: dict[str, Any] = {
        "config": config.to_dict(),
        "config_hash": f"0x{config.hash32:08x}",
        "verilog_sha256": verilog.sha256,
        "vlnv": overlay.VLNV,
    }
    return {name: json.dumps(value) for name, value in fields.items()}


def _pins(signature: Any) -> Sequence[str]:
    return list(signature.members)
