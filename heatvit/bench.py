"""Benchmarks as plain functions: cycles of a network on the simulated accelerator, with its DDR model."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from heatvit.files import file_digest
from heatvit.flow import load_all
from heatvit.golden import with_token_counts
from heatvit.model_error import model_errors
from heatvit.pictures import open_pictures
from heatvit.progress import Report
from hw.config import AccelConfig, load_config
from hw.isa import Unit
from model.checkpoint import load_timm
from model.config import load_network_config
from model.data import SubsetPictures
from model.evaluate import layer_macs
from model.vit import IMAGENET
from quant.config import NetworkConfig
from quant.convert import convert
from quant.network import IntegerNetwork
from sim.cosim import build_process_core
from sim.measure import Measurement, TimedRun, measure
from sim.process import DdrModel
from sim.profile import profile_run

CALIBRATION_PICTURES = 16
THRESHOLD_PICTURES = 4
"""Of the calibration pictures; each runs through the golden model once a selector."""
CLOCKS_MHZ = (150, 250, 300)
"""Clocks that frames per second are given at; none of them is measured."""


def bench_cycles(
    network_name: str,
    weights: Path,
    images: str,
    count: int,
    config_name: str,
    calibrate: str | None,
    keep: Sequence[int],
    work: Path,
    report: Report,
) -> dict[str, Any]:
    """Quantize a network after training, run `count` pictures on the RTL, compare every layer, count cycles.

    weights is a timm state dict. calibrate names the pictures that fix the scales; by default the last of `images`,
    which must not be among those measured. keep holds the mean live tokens after each selector of the network, whose
    thresholds are set on calibration pictures; without it the selectors are left out. Selectors that the weights do
    not hold are random: good for cycles, not for accuracy.
    """
    named, config = load_network_config(network_name), load_config(config_name)
    network = _quantize(named, weights, images if calibrate is None else calibrate, keep, report)
    topology = network.config
    pictures_u8 = load_all(open_pictures(images, topology, count)[0])
    start = time.monotonic()
    report("build", 0, 1)
    model = build_process_core(config, work.resolve())
    report("build", 1, 1)
    built = time.monotonic()
    ddr = DdrModel()
    result = measure(network, pictures_u8, config, model, ddr, lambda done, total: report("simulate", done, total))
    return {
        "network": network_name,
        "weights": str(weights),
        "weights_sha256": file_digest(weights),
        "images": images,
        "count": len(pictures_u8),
        "keep": list(keep),
        "config": config.to_dict(),
        "ddr": asdict(ddr),
        "build_s": round(built - start, 3),
        "is_build_cached": model.is_cached,
        **summarise(result, topology, config, ddr),
    }


def _quantize(
    topology: NetworkConfig, weights: Path, source: str, keep: Sequence[int], report: Report
) -> IntegerNetwork:
    """Return the integer network of float weights, calibrated on the last pictures of a source; see bench_cycles."""
    report("quantize", 0, 1)
    torch.manual_seed(0)  # of selectors that the weights do not hold
    state = load_timm(weights, topology, IMAGENET).state_dict()
    if not keep:
        topology = replace(topology, selectors=())
        state = {name: tensor for name, tensor in state.items() if not name.startswith("selectors.")}
    pictures, _ = open_pictures(source, topology)
    number = len(pictures.labels)
    chosen = SubsetPictures(pictures, np.arange(max(number - CALIBRATION_PICTURES, 0), number))
    pictures_u8 = load_all(chosen)
    network = convert(state, topology, pictures_u8, IMAGENET.mean, IMAGENET.std)
    if keep:
        network = with_token_counts(network, pictures_u8[:THRESHOLD_PICTURES], keep)
    report("quantize", 1, 1)
    return network


def summarise(result: Measurement, topology: NetworkConfig, config: AccelConfig, ddr: DdrModel) -> dict[str, Any]:
    """Return a measurement as plain JSON types; cycles, bytes and layers are means over the pictures.

    Only what ran to its end has cycles: after a failure the figures that need them are missing.
    """
    comparisons = [run.comparison for run in result.checked]
    summary: dict[str, Any] = {
        "mismatches": result.mismatches,
        "layers_compared": sum(comparison.layers for comparison in comparisons),
        "first_problem": result.problem or None,
        "tokens": [[topology.num_tokens, *comparison.kept_tokens] for comparison in comparisons],
    }
    if any(run.comparison.failure for run in result.timed):
        return summary
    layers = _layers(result, topology, config)
    macs = sum(layer["macs"] for layer in layers)
    cycles = _mean([run.comparison.outcome.cycles for run in result.timed])
    wall_s = sum(run.wall_s for run in result.timed)
    return {
        **summary,
        **model_errors(result, ddr, len(topology.selectors)),
        "gmac": macs / 1e9,
        "cycles_per_picture": cycles,
        "ideal_cycles": sum(layer["ideal_cycles"] for layer in layers),
        "utilisation": macs / config.macs / cycles,
        "fps_at_an_assumed_clock": {f"{clock} MHz": clock * 1e6 / cycles for clock in CLOCKS_MHZ},
        "ddr_bytes": _mean([run.ddr_read + run.ddr_written for run in result.timed]),
        "unit_busy": _share(result.timed, "busy_cycles"),
        "unit_wait": _share(result.timed, "wait_cycles"),
        "wall_s": wall_s / len(result.timed),
        "us_per_simulated_cycle": 1e6 * wall_s / sum(run.simulated_cycles for run in result.timed),
        "layers": layers,
    }


def _layers(result: Measurement, topology: NetworkConfig, config: AccelConfig) -> list[dict[str, Any]]:
    """Return one row per layer, in the order of the first picture's run; the stall is that of the first picture."""
    profiles = []
    for run in result.timed:
        outcome = run.comparison.outcome
        counts = outcome.token_counts[: len(topology.selectors)]
        profiles.append(profile_run(result.program, run.times, outcome.cycles, counts, layer_macs(topology, counts)))
    by_name = [{layer.name: layer for layer in layers} for layers in profiles]
    rows = []
    for first in profiles[0]:
        same = [layers[first.name] for layers in by_name]
        macs, cycles = _mean([layer.macs for layer in same]), _mean([layer.cycles for layer in same])
        rows.append(
            {
                "layer": first.name,
                "macs": macs,
                "ideal_cycles": _mean([layer.ideal_cycles for layer in same]),
                "ddr_bytes": first.ddr_bytes,
                "array_cycles": _mean([layer.array_cycles for layer in same]),
                "cycles": cycles,
                "utilisation": macs / config.macs / cycles if cycles else None,
                "stall": first.stall,
            }
        )
    return rows


def _share(runs: Sequence[TimedRun], counter: str) -> dict[str, float]:
    """Return the share of all cycles that each unit spent so."""
    outcomes = [run.comparison.outcome for run in runs]
    cycles = sum(outcome.cycles for outcome in outcomes)
    return {
        unit.name.lower(): sum(getattr(outcome, counter)[unit.name.lower()] for outcome in outcomes) / cycles
        for unit in Unit
    }


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)
