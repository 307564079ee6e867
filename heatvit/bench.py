"""Benchmarks as plain functions: cycles of a network on the simulated accelerator, with its DDR model."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from heatvit.cycle_report import write_cycle_report
from heatvit.frame_rates import frame_rates
from heatvit.golden import with_token_counts
from heatvit.model_error import model_errors
from heatvit.progress import Report
from heatvit.subject import Subject, without_selectors
from hw.config import AccelConfig
from hw.isa import Unit
from hw.program import compile_network
from model.evaluate import layer_macs, macs
from quant.config import NetworkConfig
from quant.network import U8, IntegerNetwork
from quant.network_file import load_network
from sim.measure import Measurement, TimedRun, measure, time_pictures
from sim.process import DdrModel
from sim.profile import profile_run
from sim.verilator import SimulationModel

THRESHOLD_PICTURES = 4
"""Of the calibration pictures; each runs through the golden model once a selector."""
PER_PICTURE = ("macs", "ideal_cycles", "ddr_bytes", "array_cycles", "cycles")
"""Fields of sim.profile.LayerProfile that the report divides by the pictures of the runs."""


def bench_cycles(
    subject: Subject,
    count: int,
    batch: int,
    keep: Sequence[int],
    scale_gmac: float | None,
    folder: Path | None,
    report: Report,
) -> dict[str, Any]:
    """Run `count` pictures of a network on the RTL, compare every layer, count cycles; float weights are quantized.

    batch pictures share a run, and the weights that are loaded for it; cycles, bytes and layers are per picture.
    keep holds the mean live tokens after each selector, none: no selectors, or those of an integer network; the
    thresholds are set on calibration pictures. With selectors, the first run is also made without them, and the cycles
    are scaled from the work that the pictures happened to need to scale_gmac, by default that of the counts in keep.
    folder, if given, gets the files of heatvit.cycle_report, provided that every run ended.
    """
    config = subject.load_config()
    if keep and subject.is_integer:
        raise ValueError(f"--keep needs float weights; the thresholds of {subject.weights} are its own")
    network = load_network(subject.weights) if subject.is_integer else subject.quantize(bool(keep), report)
    if keep:
        network = with_token_counts(network, subject.calibration_pictures()[:THRESHOLD_PICTURES], keep)
    pictures_u8 = subject.load_pictures(network.config, count)
    if len(pictures_u8) % batch:
        raise ValueError(f"pictures must be a multiple of the {batch} that share a run, not {len(pictures_u8)}")
    compile_network(network, config, pictures=batch)  # what does not fit is told before the long build
    start = time.monotonic()
    model = subject.build(report)
    built = time.monotonic()
    ddr = DdrModel()
    simulated = partial(report, "simulate")
    measured = measure(network, pictures_u8, config, model, ddr, simulated, batch)
    result = {
        **subject.to_dict(),
        "count": len(pictures_u8),
        "batch": batch,
        "keep": list(keep),
        "ddr": asdict(ddr),
        "build_s": round(built - start, 3),
        "is_build_cached": model.is_cached,
        **summarise(measured, network.config, config, ddr),
    }
    has_cycles = "layers" in result
    if has_cycles and network.config.selectors:
        dense = _run_dense(network, pictures_u8[:batch], config, model, ddr, report)
        result["mismatches"] += dense.mismatches
        result["first_problem"] = result["first_problem"] or dense.problem or None
        target = scale_gmac or (macs(network.config, keep) / 1e9 if keep else result["gmac"])
        if not dense.failure:
            result |= _pruning(result, network.config, dense.outcome.cycles / batch, target)
    if has_cycles and folder is not None:
        write_cycle_report(folder, f"{subject.network} on {subject.config}", result, measured)
    return result


def _run_dense(
    network: IntegerNetwork, pictures_u8: U8, config: AccelConfig, model: SimulationModel, ddr: DdrModel, report: Report
) -> TimedRun:
    """Run the pictures together, without selectors."""
    report("simulate without selectors", 0, 1)
    dense = without_selectors(network)
    program = compile_network(dense, config, pictures=len(pictures_u8))
    (run,) = time_pictures(dense, pictures_u8, program, model, ddr)
    report("simulate without selectors", 1, 1)
    return run


def _pruning(result: dict[str, Any], topology: NetworkConfig, dense_cycles: float, scale_gmac: float) -> dict[str, Any]:
    """Return what the selectors cost and save.

    selector_cost: share of the cycles that are the selectors' layers. pruning_efficiency: 1 if the cycles fall as much
    as the multiply-accumulates do; the selectors' own count among those of the pruned network.
    """
    cycles, gmac = result["cycles_per_picture"], result["gmac"]
    dense_gmac = macs(replace(topology, selectors=()), ()) / 1e9
    selectors = sum(row["cycles"] for row in result["layers"] if row["layer"].startswith("selectors."))
    return {
        "selector_cost": selectors / cycles,
        "dense_cycles": dense_cycles,
        "dense_gmac": dense_gmac,
        "pruning_efficiency": dense_cycles * (gmac / dense_gmac) / cycles,
        "scale_gmac": scale_gmac,
        "scaled_cycles": cycles * scale_gmac / gmac,
    }


def summarise(result: Measurement, topology: NetworkConfig, config: AccelConfig, ddr: DdrModel) -> dict[str, Any]:
    """Return a measurement as plain JSON types; cycles, bytes and layers are means over the pictures.

    Only what ran to its end has cycles: after a failure the figures that need them are missing.
    """
    comparisons = [comparison for run in result.checked for comparison in run.comparisons]
    summary: dict[str, Any] = {
        "mismatches": result.mismatches,
        "layers_compared": sum(comparison.layers for comparison in comparisons),
        "first_problem": result.problem or None,
        "tokens": [[topology.num_tokens, *comparison.kept_tokens] for comparison in comparisons],
    }
    if any(run.failure for run in result.timed):
        return summary
    layers, pictures = _layers(result, topology, config), len(comparisons)
    macs = sum(layer["macs"] for layer in layers)
    cycles = sum(run.outcome.cycles for run in result.timed) / pictures
    wall_s = sum(run.wall_s for run in result.timed)
    return {
        **summary,
        **model_errors(result, ddr),
        "gmac": macs / 1e9,
        "cycles_per_picture": cycles,
        "ideal_cycles": sum(layer["ideal_cycles"] for layer in layers),
        "utilisation": macs / config.macs / cycles,
        "fps_at_an_assumed_clock": frame_rates(cycles),
        "ddr_bytes": sum(run.ddr_read + run.ddr_written for run in result.timed) / pictures,
        "unit_busy": _share(result.timed, "busy_cycles"),
        "unit_wait": _share(result.timed, "wait_cycles"),
        "unit_stall": _stall_shares(result.timed),
        "wall_s": wall_s / pictures,
        "us_per_simulated_cycle": 1e6 * wall_s / sum(run.simulated_cycles for run in result.timed),
        "layers": layers,
    }


def _layers(result: Measurement, topology: NetworkConfig, config: AccelConfig) -> list[dict[str, Any]]:
    """Return one row per layer, in the order of the first run; the stalls are those of the first run.

    utilisation is that of the layer's array cycles (sim.profile), which hold no other layer's; None without GEMMs.
    """
    program, pictures = result.program, result.program.pictures * len(result.timed)
    profiles = []
    for run in result.timed:
        macs: Counter[str] = Counter()
        for comparison in run.comparisons:
            macs.update(layer_macs(topology, comparison.kept_tokens))
        profiles.append(profile_run(program, run.times, run.outcome.cycles, run.outcome.token_counts, macs))
    by_name = [{layer.name: layer for layer in layers} for layers in profiles]
    rows = []
    for first in profiles[0]:
        same = [layers[first.name] for layers in by_name]
        row = {name: sum(getattr(layer, name) for layer in same) / pictures for name in PER_PICTURE}
        utilisation = row["macs"] / config.macs / row["array_cycles"] if row["array_cycles"] else None
        lost = {reason: count / program.pictures for reason, count in first.stalls.items()}
        stalls = {"stalls": lost, "stall": first.stall}
        rows.append({"layer": first.name, **row, "utilisation": utilisation, **stalls})
    return rows


def _share(runs: Sequence[TimedRun], counter: str) -> dict[str, float]:
    """Return the share of all cycles that each unit spent so."""
    outcomes = [run.outcome for run in runs]
    cycles = sum(outcome.cycles for outcome in outcomes)
    return {
        unit.name.lower(): sum(getattr(outcome, counter)[unit.name.lower()] for outcome in outcomes) / cycles
        for unit in Unit
    }


def _stall_shares(runs: Sequence[TimedRun]) -> dict[str, dict[str, float]]:
    """Return the share of all cycles that each unit lost to each reason that the core counts."""
    outcomes = [run.outcome for run in runs]
    cycles = sum(outcome.cycles for outcome in outcomes)
    return {
        unit: {stall: sum(outcome.stall_cycles[unit][stall] for outcome in outcomes) / cycles for stall in stalls}
        for unit, stalls in outcomes[0].stall_cycles.items()
    }
