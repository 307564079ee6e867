"""A whole accelerator placed and routed on a real part, as plain results and a table."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from heatvit.files import file_digest
from heatvit.progress import Report
from hw.config import load_config
from hw.place_ecp5 import PART, PLACEMENT, SYNTHESIS, TARGET_MHZ, place_accelerator, tool_versions

SOURCE = f"placed and routed on a Lattice {PART}: its clock, and no statement about another chip's"


def place_ecp5(config_name: str, work: Path, report: Report) -> dict[str, Any]:
    """Carry an accelerator to an ECP5 bitstream, work/ecp5_<config>.bit; return utilisation and maximum clock.

    Raises hw.synth_resources.SynthesisError.
    """
    config = load_config(config_name)
    placed = place_accelerator(config, work, report)
    bitstream = work / f"ecp5_{Path(config_name).stem}.bit"
    shutil.copyfile(placed.bitstream, bitstream)
    return {
        "source": SOURCE,
        "tools": list(tool_versions()),
        "script": [SYNTHESIS, " ".join(PLACEMENT)],
        "config": config_name,
        "config_hash": f"0x{config.hash32:08x}",
        "part": PART,
        "bitstream": str(bitstream),
        "bitstream_bytes": bitstream.stat().st_size,
        "bitstream_sha256": file_digest(bitstream),
        "target_mhz": TARGET_MHZ,
        "max_mhz": round(placed.max_mhz, 2),
        "macs_a_cycle": config.macs,
        "utilisation": {
            name: {"used": used, "available": available, "share": round(used / available, 4)}
            for name, (used, available) in placed.utilisation.items()
        },
        "critical_path": {
            "ns": round(placed.path_ns, 3),
            "logic_ns": round(placed.logic_ns, 3),
            "through": list(placed.path),
        },
    }


def placement_table(result: dict[str, Any]) -> Table:
    """Return the table of place_ecp5: what is used of what there is."""
    table = Table(title=escape(f"{result['config']}: {result['source']}"), title_justify="left")
    table.add_column("cell")
    for name in ("used", "available", "share"):
        table.add_column(name, justify="right")
    for name, entry in result["utilisation"].items():
        table.add_row(name, f"{entry['used']:,}", f"{entry['available']:,}", f"{entry['share']:.1%}")
    return table
