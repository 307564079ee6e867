"""Cycle-model estimates of named networks as plain results: nothing here runs RTL."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from heatvit.frame_rates import frame_rates
from hw.config import load_config
from hw.cycles import CycleEstimate
from hw.isa import Unit
from hw.latency import estimate_network, latency_table
from hw.memory_model import MemoryModel
from model.config import load_network_config

LOSSES = {"starved": "empty queue", "contention": "shared ports"}
"""How the table calls cycles that a unit loses other than by waiting for another unit."""

SOURCE = "cycle model estimate, no RTL was run"


def estimate_cycles(network_name: str, config_name: str, tokens: list[int], table: list[int]) -> dict[str, Any]:
    """Estimate one picture, and optionally a block and a selector at each count of `table`, with the default memory.

    tokens: live count after each of the network's selectors; none makes the network dense, without selectors.
    """
    network, config, memory = load_network_config(network_name), load_config(config_name), MemoryModel()
    result = estimate_network(network, config, memory, tokens)
    return {
        "source": SOURCE,
        "network": network_name,
        "config": config_name,
        "memory": asdict(memory),
        "tokens": [network.num_tokens, *tokens],
        "cycles": result.cycles,
        "gmac": round(result.macs / 1e9, 4),
        "utilisation": round(result.macs / config.macs / result.cycles, 4),
        "fps_at_an_assumed_clock": frame_rates(result.cycles),
        "parts": _parts(result),
        "layers": result.layers,
        "units": _units(result),
        "latency_table": [asdict(row) for row in latency_table(network, config, memory, table)] if table else [],
    }


def _parts(result: CycleEstimate) -> dict[str, int]:
    """Add up the layers of each block and selector, in program order."""
    parts: dict[str, int] = {}
    for layer, cycles in result.layers.items():
        name, _, rest = layer.partition(".")
        part = f"{name}.{rest.partition('.')[0]}" if rest else name
        parts[part] = parts.get(part, 0) + cycles
    return parts


def _units(result: CycleEstimate) -> dict[str, Any]:
    """Return busy, starved, contention and wait cycles of each unit, waits by the unit that was waited for."""
    return {
        unit.name.lower(): {
            "busy": cycles.busy,
            "starved": cycles.starved,
            "contention": cycles.contention,
            "waits": {other.name.lower(): count for other, count in cycles.waits.items() if count},
        }
        for unit, cycles in result.units.items()
    }


def table_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the printed table: part or unit, cycles, share of all cycles, and what it waited for."""
    total = result["cycles"]
    rows: list[tuple[str, ...]] = [
        (name, f"{cycles:,}", f"{cycles / total:.1%}", "") for name, cycles in result["parts"].items() if cycles
    ]
    for unit in Unit:
        name = unit.name.lower()
        cycles = result["units"][name]
        waits = [f"{other} {count:,}" for other, count in cycles["waits"].items()]
        waits += [f"{label} {cycles[key]:,}" for key, label in LOSSES.items() if cycles[key]]
        rows.append((f"{name} busy", f"{cycles['busy']:,}", f"{cycles['busy'] / total:.1%}", ", ".join(waits)))
    return rows
