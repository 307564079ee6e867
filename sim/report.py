"""Results of a cosimulation as plain JSON types, for the HTML report."""

from __future__ import annotations

from typing import Any

from hw.isa import Unit
from sim.cosim import CosimReport


def summarise(report: CosimReport) -> dict[str, Any]:
    """Return the counts, the first divergence or failure as a sentence, and what the core's counters say.

    kept_tokens is [picture][selector] live tokens and cycles one count a picture; unit_busy and unit_wait are the
    fractions of all cycles in which a unit had a descriptor, and in which it waited for another unit.
    """
    outcomes = [picture.outcome for picture in report.pictures]
    cycles = sum(outcome.cycles for outcome in outcomes)
    divergence = report.first_divergence
    problem = next(iter(report.failures), None) if divergence is None else str(divergence)
    units = [unit.name.lower() for unit in Unit]
    return {
        "images": report.images,
        "mismatches": report.mismatches,
        "layers_compared": report.layers_compared,
        "first_divergence": problem,
        "kept_tokens": [list(picture.kept_tokens) for picture in report.pictures],
        "cycles": [outcome.cycles for outcome in outcomes],
        "unit_busy": {
            unit: round(sum(outcome.busy_cycles.get(unit, 0) for outcome in outcomes) / max(cycles, 1), 4)
            for unit in units
        },
        "unit_wait": {
            unit: round(sum(outcome.wait_cycles.get(unit, 0) for outcome in outcomes) / max(cycles, 1), 4)
            for unit in units
        },
    }
