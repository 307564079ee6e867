"""A Vivado project of an accelerator, as a plain function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hw import overlay
from hw.config import load_config
from hw.vivado.project import OLDEST_VIVADO, write_project

NOT_RUN = "not run here: what Vivado makes of it, timing included, only its own reports can say"


def write_bitstream_project(config_name: str, out: Path, clock_mhz: float = overlay.CLOCK_MHZ) -> dict[str, Any]:
    """Write the project of an overlay for the ZCU102; return what it builds and how to run it.

    Raises ValueError for a wrong config or clock, OSError if the folder cannot be written.
    """
    config = load_config(config_name)
    project = write_project(config, out, clock_mhz)
    return {
        "config": config.to_dict(),
        "config_hash": f"0x{config.hash32:08x}",
        "board": overlay.BOARD_PART,
        "vlnv": overlay.VLNV,
        "clock_mhz": clock_mhz,
        "verilog": [str(path) for path in project.verilog.sources],
        "verilog_sha256": project.verilog.sha256,
        "scripts": [str(path) for path in project.scripts],
        "vivado": f"{OLDEST_VIVADO} or newer, with the board files of the ZCU102",
        "command": f"vivado -mode batch -source {out / 'build.tcl'}",
        "makes": str(out / "overlay"),
        "status": NOT_RUN,
    }
