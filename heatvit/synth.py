"""Resource estimates of named accelerators as plain results, and their table: what fits, and what selection costs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from heatvit.progress import Report
from hw.config import load_config
from hw.synth_resources import Resources
from hw.synth_yosys import FLATTENED, MAPPING, tool_version
from hw.synthesis import ZCU102, add_up, estimate_units

SOURCE = "synthesis estimate by Yosys: no Vivado run, nothing placed or routed, no clock closed"

LABELS = {"dsp": "DSP48E2", "lut": "LUT", "ff": "FF", "bram36": "BRAM36"}
"""How the table calls a resource."""

SELECTOR_MARK = "*"
DEEPEST = 10


def estimate_synthesis(config_name: str, work: Path, report: Report) -> dict[str, Any]:
    """Synthesize the units of an accelerator; return each, the sum, and the sum without token selection.

    selector_cost is the share by which token selection enlarges the accelerator that has none; None where that has
    none of a resource. Raises hw.synth_resources.SynthesisError.
    """
    config = load_config(config_name)
    units = estimate_units(config, work, report)
    total = add_up(units)
    selector = add_up([unit for unit in units if unit.is_selector])
    without = total - selector
    exceeded = ZCU102.exceeded(total)
    return {
        "source": SOURCE,
        "tool": tool_version(),
        "script": "; ".join((FLATTENED, *MAPPING)),
        "config": config_name,
        "config_hash": f"0x{config.hash32:08x}",
        "device": ZCU102.name,
        "available": asdict(ZCU102.available),
        "units": [
            {
                "name": unit.name,
                "count": unit.count,
                "is_selector": unit.is_selector,
                "one": asdict(unit.one),
                "all": asdict(unit.all),
                "cells_of_one": dict(unit.cells),
                "logic_levels": unit.depth.levels,
                "deepest_path": asdict(unit.depth),
            }
            for unit in units
        ],
        "total": asdict(total),
        "share": _ratio(total, ZCU102.available),
        "fits": not exceeded,
        "exceeded": exceeded,
        "selector": asdict(selector),
        "without_selector": asdict(without),
        "selector_cost": _ratio(selector, without),
    }


def _ratio(part: Resources, whole: Resources) -> dict[str, float | None]:
    wholes = asdict(whole)
    return {name: round(value / wholes[name], 4) if wholes[name] else None for name, value in asdict(part).items()}


def synthesis_table(result: dict[str, Any]) -> Table:
    """Return the table of estimate_synthesis: units, sums and the chip; what the chip lacks is red and says so."""
    title = escape(f"{result['config']}: {result['source']}")
    caption = f"each row without the rows of the units inside it; {SELECTOR_MARK} token selection only"
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("unit")
    for name in ("count", *LABELS.values()):
        table.add_column(name, justify="right")
    for unit in result["units"]:
        mark = f" {SELECTOR_MARK}" if unit["is_selector"] else ""
        table.add_row(escape(unit["name"]) + mark, str(unit["count"]), *_numbers(unit["all"]))
    table.add_section()
    missing = ", ".join(LABELS[name] for name in result["exceeded"])
    title, style = (f"total: NOT ENOUGH {missing}", "bold red") if missing else ("total", "bold")
    table.add_row(title, "", *_numbers(result["total"]), style=style)
    table.add_row(result["device"], "", *_numbers(result["available"]))
    table.add_row("share of it", "", *_shares(result["share"]), style=style)
    table.add_section()
    table.add_row(f"token selection {SELECTOR_MARK}", "", *_numbers(result["selector"]))
    table.add_row("total without it", "", *_numbers(result["without_selector"]))
    table.add_row("its cost on top of that", "", *_shares(result["selector_cost"]))
    return table


def depth_table(result: dict[str, Any]) -> Table:
    """Return the deepest units of estimate_synthesis, deepest first: a ranking, not a clock."""
    title = f"{result['config']}: deepest units by cells between registers, wires not counted; no clock closed"
    table = Table(title=escape(title), title_justify="left")
    table.add_column("unit", no_wrap=True)
    table.add_column("levels", justify="right")
    for name in ("of which", "from"):
        table.add_column(name, no_wrap=True)
    ranked = sorted(result["units"], key=lambda unit: -int(unit["logic_levels"]))
    for unit in ranked[:DEEPEST]:
        path = unit["deepest_path"]
        parts = ", ".join(f"{count} {kind}" for kind, count in path["cells"].items() if count)
        table.add_row(*map(escape, (unit["name"], str(unit["logic_levels"]), parts, path["start"])))
    return table


def _numbers(resources: dict[str, float]) -> list[str]:
    return [f"{resources[name]:,g}" if name == "bram36" else f"{resources[name]:,}" for name in LABELS]


def _shares(shares: dict[str, float | None]) -> list[str]:
    return ["" if shares[name] is None else f"{shares[name]:.1%}" for name in LABELS]
