"""The files of an overlay whose core is simulated: what lies beside a real bitstream, without a bitstream."""

from __future__ import annotations

from pathlib import Path

from bitstreams.manifest import MANIFEST_NAME, SIMULATED_TOOL, Manifest
from hw.config import AccelConfig
from hw.overlay import CLOCK_MHZ, DESIGN, VLNV
from sim.hwh import hardware_handoff

NO_VERILOG = "0" * 64
"""The digest in a manifest whose core is not executed from Verilog."""


def write_overlay(folder: Path, config: AccelConfig, verilog_sha256: str = NO_VERILOG) -> Path:
    """Write .bit, .hwh and manifest of a simulated core to a folder, and return the path of the .bit.

    The .bit holds words for who finds it; a board refuses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    bitstream = folder / f"{DESIGN}.bit"
    bitstream.write_text("This core is simulated: there is no bitstream in this file.\n")
    hardware_handoff(config).write(bitstream.with_suffix(".hwh"), encoding="utf-8", xml_declaration=True)
    Manifest(config, verilog_sha256, VLNV, SIMULATED_TOOL, CLOCK_MHZ).save(folder / MANIFEST_NAME)
    return bitstream
