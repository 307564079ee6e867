"""FPGA or processor? Latency, throughput and energy of a picture on both, labelled measured, modelled or assumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from heatvit.platforms import Platforms
from heatvit.progress import Report
from heatvit.rapl import PackagePower
from heatvit.report.drawing import Drawing
from heatvit.report.line_chart import Line, line_chart
from heatvit.speed import BATCHES, bench_torch
from hw.config import load_config
from hw.latency import estimate_network
from hw.memory_model import MemoryModel
from model.config import load_network_config

SOURCE = (
    "processor time measured in this run; FPGA cycles by the cycle model, its clock and power assumed: no board ran"
)
HEADER = ("platform", "ms a picture", "pictures/s", "W", "mJ a picture", "time", "power")
SWEEP_HEADER = ("FPGA", "MHz", "mJ a picture at power x", "less than the best processor row")


def compare_platforms(network: str, tokens: Sequence[int], platforms: Platforms, report: Report) -> dict[str, Any]:
    """Return a row for each platform and a sweep of clock and power; random weights, one picture after the other.

    tokens: live count after each selector of the pruned rows. Energy is power times time: a mean over the run for a
    processor whose counters can be read (whole package), else the assumed one. Raises ValueError.
    """
    power = PackagePower()
    speed = bench_torch(network, tokens, report)
    measured_w = power.mean_w()
    package_w, power_label = (platforms.cpu_package_w, "assumed") if measured_w is None else (measured_w, "measured")
    rows = []
    for batch in BATCHES:
        for kind in ("dense", "pruned"):
            rate = speed[f"batch_{batch}"][f"{kind}_images_per_s"]
            name = f"processor, float32, {kind}, batch {batch}"
            rows.append(_row(name, batch / rate, rate, package_w, "measured", power_label))
    best_mj = min(row["energy_mj"] for row in rows)
    topology, memory = load_network_config(network), MemoryModel()
    cycles = {}
    for config in platforms.resources:
        for kind, counts in (("dense", ()), ("pruned", tokens)):
            name = f"{config}, W8A8, {kind}"
            cycles[name] = (config, estimate_network(topology, load_config(config), memory, counts).cycles)
    sweep = []
    for name, (config, count) in cycles.items():
        seconds = count / platforms.clock_mhz * 1e-6
        watts = platforms.fpga_w(config, platforms.clock_mhz)
        rows.append(_row(name, seconds, 1 / seconds, watts, "modelled, clock assumed", "modelled, assumed"))
        for clock in platforms.clocks_mhz:
            for factor in platforms.power_factors:
                energy = platforms.fpga_w(config, clock) * factor * count / clock * 1e-3
                sweep.append(
                    {
                        "platform": name,
                        "clock_mhz": clock,
                        "power_factor": factor,
                        "energy_mj": energy,
                        "is_below_processor": energy < best_mj,
                    }
                )
    return {
        "source": SOURCE,
        "network": network,
        "tokens": speed["tokens"],
        "threads": speed["threads"],
        "clock_mhz": platforms.clock_mhz,
        "rows": rows,
        "cycles": {name: count for name, (_, count) in cycles.items()},
        "sweep": sweep,
        "assumptions": asdict(platforms),
    }


def _row(name: str, seconds: float, rate: float, watts: float, time_label: str, power_label: str) -> dict[str, Any]:
    return {
        "platform": name,
        "latency_ms": seconds * 1e3,
        "pictures_per_s": rate,
        "power_w": watts,
        "energy_mj": watts / rate * 1e3,
        "time": time_label,
        "power": power_label,
    }


def platform_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the printed table, under HEADER."""
    keys = ("latency_ms", "pictures_per_s", "power_w", "energy_mj")
    return [
        (row["platform"], *(f"{row[key]:,.2f}" for key in keys), row["time"], row["power"]) for row in result["rows"]
    ]


def sweep_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the printed sweep, under SWEEP_HEADER."""
    cases: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for case in result["sweep"]:
        cases.setdefault((case["platform"], case["clock_mhz"]), []).append(case)
    return [
        (
            platform,
            f"{clock:g}",
            ", ".join(f"{case['power_factor']:g}: {case['energy_mj']:.2f}" for case in powers),
            f"at {sum(case['is_below_processor'] for case in powers)} of {len(powers)} powers",
        )
        for (platform, clock), powers in cases.items()
    ]


def platform_drawing(result: dict[str, Any]) -> Drawing:
    """Draw energy against the clock at the lowest and highest power of the sweep, and the best processor row."""
    factors = sorted({case["power_factor"] for case in result["sweep"]})
    pruned = [name for name in result["cycles"] if name.endswith("pruned")]
    lines = [
        Line(
            f"{name.partition(',')[0]}, power x {factor:g}",
            [
                (case["clock_mhz"], case["energy_mj"])
                for case in result["sweep"]
                if case["platform"] == name and case["power_factor"] == factor
            ],
        )
        for name in pruned
        for factor in dict.fromkeys((factors[0], factors[-1]))
    ]
    processor = min((row for row in result["rows"] if row["time"] == "measured"), key=lambda row: row["energy_mj"])
    clocks = sorted({case["clock_mhz"] for case in result["sweep"]})
    label = f"processor, power {processor['power']}"
    lines.append(Line(label, [(clock, processor["energy_mj"]) for clock in clocks]))
    return line_chart("Energy of a pruned picture", lines, "assumed clock of the FPGA, MHz", "mJ a picture")
