"""The layers of a cycle measurement as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.table import Table

COUNTS = ("ideal_cycles", "array_cycles", "cycles")


def layer_table(layers: Sequence[dict[str, Any]]) -> Table:
    """Return a table of the rows that heatvit.bench.summarise gives; who has no GEMM has no utilisation."""
    table = Table(title="layers, in the order in which they end", title_justify="left")
    table.add_column("layer", min_width=max((len(row["layer"]) for row in layers), default=0))
    for name in ("GMAC", "ideal cycles", "array cycles", "cycles", "utilisation"):
        table.add_column(name, justify="right")
    table.add_column("main stall")
    for row in layers:
        share = "" if row["utilisation"] is None else f"{100 * row['utilisation']:.1f} %"
        numbers = (f"{row['macs'] / 1e9:.4f}", *(f"{row[name]:.0f}" for name in COUNTS), share)
        table.add_row(row["layer"], *numbers, row["stall"])
    return table
