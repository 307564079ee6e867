"""The pipeline's second half as plain functions: Verilog from a config, and the RTL against the golden model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from heatvit.files import file_digest
from heatvit.pictures import load_all, open_pictures
from heatvit.progress import Report
from hw.config import AccelConfig, load_config
from hw.generate import generate
from quant.network import U8, IntegerNetwork
from quant.network_file import load_network
from sim.cosim import cosimulate
from sim.report import summarise


def generate_verilog(config_name: str, out: Path, dsp: str = "behavioural") -> dict[str, Any]:
    """Write the Verilog of an accelerator to a folder; return its sources and one SHA-256 over all of them."""
    config = load_config(config_name)
    verilog = generate(config, out, dsp)
    return {
        "config": config.to_dict(),
        "config_hash": f"0x{config.hash32:08x}",
        "top": verilog.top,
        "sources": [str(path) for path in verilog.sources],
        "verilog_sha256": verilog.sha256,
    }


def simulate_network(
    network_file: Path, images: str, count: int, config_name: str, work: Path, report: Report, stall_seed: int | None
) -> dict[str, Any]:
    """Run the first `count` pictures on the RTL and compare every layer with the golden model."""
    network, config = load_network(network_file), load_config(config_name)
    pictures, _ = open_pictures(images, network.config, count)
    return {
        "network": str(network_file),
        "network_sha256": file_digest(network_file),
        **simulate_pictures(network, load_all(pictures), config, work, report, stall_seed),
    }


def simulate_pictures(
    network: IntegerNetwork, pictures_u8: U8, config: AccelConfig, work: Path, report: Report, stall_seed: int | None
) -> dict[str, Any]:
    """Return sim.report.summarise of a cosimulation of pictures (B, C, S, S), and what it ran on."""
    # The simulation runs in a folder of its own: a relative path would mean another place there.
    result = cosimulate(network, pictures_u8, config, work.resolve(), stall_seed=stall_seed, progress=report)
    return {"config": config.to_dict(), "stall_seed": stall_seed, **summarise(result)}
