"""The cycle model against the RTL over settings of the live token counts, on one picture of a full-size network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from heatvit.golden import with_token_counts
from heatvit.model_error import MIN_SHARE, model_error
from heatvit.progress import Report
from heatvit.subject import Subject, without_selectors
from hw.memory_model import MemoryModel
from hw.program import Program, compile_network
from model.config import load_network_config
from quant.config import NetworkConfig
from quant.network import U8, IntegerNetwork
from sim.measure import time_pictures
from sim.process import DdrModel
from sim.verilator import SimulationModel

SHARES = (
    *((0.9, 0.9), (0.9, 0.6), (0.7, 0.9), (0.7, 0.7), (0.7, 0.5), (0.45, 0.8)),
    *((0.45, 0.5), (0.3, 0.9), (0.3, 0.5), (0.15, 0.7), (0.05, 0.7)),
)
"""Of all tokens: the share that is live after the first selector, and that of those after each later one."""

FEWEST_TOKENS = 3
"""CLS, one patch and the package."""


def default_settings(topology: NetworkConfig) -> list[list[int]]:
    """Return settings of the live tokens after each selector: twelve, or fewer if a small network has no more.

    The first, an empty one, has no selectors.
    """
    stages = range(len(topology.selectors))
    settings = [
        tuple(max(round(topology.num_tokens * first * later**stage), FEWEST_TOKENS) for stage in stages)
        for first, later in SHARES
    ]
    return [list(setting) for setting in dict.fromkeys([(), *settings])]


def bench_model(subject: Subject, settings: Sequence[Sequence[int]], report: Report) -> dict[str, Any]:
    """Run the first picture on the RTL in every setting and compare its cycles with the cycle model's.

    A setting holds the live tokens after each selector, reached by thresholds for that picture, or nothing: no
    selectors; without settings, default_settings. The errors are those of heatvit.model_error.ModelError, over all
    settings the largest.
    """
    settings = settings or default_settings(load_network_config(subject.network))
    network = subject.quantize(True, report)
    picture_u8, config = subject.load_pictures(network.config, 1), subject.load_config()
    variants = []
    for done, keep in enumerate(settings):
        report("set thresholds", done, len(settings))
        variants.append(with_token_counts(network, picture_u8, keep) if keep else without_selectors(network))
    report("set thresholds", len(settings), len(settings))
    programs = [compile_network(variant, config) for variant in variants]
    model = subject.build(report)
    rows = []
    for done, (keep, variant, program) in enumerate(zip(settings, variants, programs, strict=True)):
        report("simulate", done, len(settings))
        rows.append(_measure(variant, picture_u8, program, keep, model))
    report("simulate", len(settings), len(settings))
    return {
        **subject.to_dict(),
        "ddr": asdict(DdrModel()),
        "min_layer_share": MIN_SHARE,
        "mismatches": sum(row["mismatches"] for row in rows),
        "model_error_total": max((row["model_error_total"] for row in rows), key=abs),
        "model_error_worst_layer": max(row["model_error_worst_layer"] for row in rows),
        "settings": rows,
    }


def _measure(
    network: IntegerNetwork, picture_u8: U8, program: Program, keep: Sequence[int], model: SimulationModel
) -> dict[str, Any]:
    """Return one setting's row. Raises ValueError if the picture did not run to its end."""
    ddr = DdrModel()
    (run,) = time_pictures(network, picture_u8, program, model, ddr)
    if run.failure:
        raise ValueError(f"setting {list(keep)} failed: {run.failure}")
    error = model_error(program, run, MemoryModel(ddr.bytes_per_cycle, ddr.latency_cycles))
    return {
        "keep": list(keep),
        "tokens": [network.config.num_tokens, *run.comparisons[0].kept_tokens],
        "mismatches": run.mismatches,
        "cycles": error.measured,
        "model_cycles": error.predicted,
        "model_error_total": error.total,
        "model_error_worst_layer": error.worst,
        "worst_layer": error.worst_layer,
    }


def model_table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of the printed table: tokens, cycles of the RTL and of the model, errors, worst layer."""
    return [
        (
            " / ".join(map(str, row["tokens"])),
            f"{row['cycles']:,}",
            f"{row['model_cycles']:,}",
            f"{row['model_error_total']:+.2%}",
            f"{row['model_error_worst_layer']:.2%}",
            row["worst_layer"],
        )
        for row in result["settings"]
    ]
