"""A network of any size with random weights: whether it fits an accelerator and is exact, and the cycles it takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from heatvit.frame_rates import frame_rates
from heatvit.golden import with_token_counts
from heatvit.model_error import model_errors
from heatvit.progress import Report
from heatvit.subject import without_selectors
from hw.account import ZCU102_BLOCKS, Use, block_rams, ddr_bytes, memory_account
from hw.config import AccelConfig, load_config
from hw.cycles import estimate
from hw.memory_model import MemoryModel
from hw.program import Program, compile_network
from model.config import load_network_config
from quant.network import U8, IntegerNetwork
from quant.synthetic import random_network
from sim.cosim import PictureComparison, build_process_core
from sim.machine_check import compare_on_machine
from sim.measure import Measurement, measure
from sim.process import DdrModel

TABLED = ("memory", "bram36", "dense", "cycles_per_picture", "ddr_bytes", "utilisation", "fps_at_an_assumed_clock")
"""Values of the result that the printed tables show."""

PARTS = ("weight_operands", "weight_ring")
"""Rows of the account that are parts of the WEIGHT memory."""


@dataclass(frozen=True)
class Trial:
    """A network and an accelerator by name, and what is drawn for them.

    keep: mean live tokens after each selector, reached by thresholds for the pictures drawn; none: no selectors.
    batch pictures share a run.
    """

    network: str
    config: str
    keep: tuple[int, ...]
    batch: int
    seed: int

    def draw(self) -> tuple[IntegerNetwork, U8]:
        """Return a random network, and noise for pictures (batch, in_chans, image_size, image_size)."""
        topology = load_network_config(self.network)
        rng = np.random.default_rng(self.seed)
        network = random_network(rng, topology if self.keep else replace(topology, selectors=()))
        shape = (self.batch, topology.in_chans, topology.image_size, topology.image_size)
        pictures_u8 = rng.integers(0, 256, shape, dtype=np.uint8)
        return with_token_counts(network, pictures_u8, self.keep) if self.keep else network, pictures_u8


def bench_size(trial: Trial, work: Path | None, report: Report) -> dict[str, Any]:
    """Account for the memories, compare every layer on the machine with the golden model, and estimate the cycles.

    With a folder for its build, the pictures also run on the RTL. Cycles and bytes are per picture; those of the cycle
    model are for the token counts that the pictures have and, in dense, for the same network without selectors.
    Raises ValueError if the network does not fit.
    """
    start, config, ddr = time.monotonic(), load_config(trial.config), DdrModel()
    report("draw", 0, 1)
    network, pictures_u8 = trial.draw()
    report("draw", 1, 1)
    program = compile_network(network, config, pictures=trial.batch)
    blocks = block_rams(config)
    result = {
        **asdict(trial),
        "config": config.to_dict(),
        "memory": {name: asdict(use) for name, use in memory_account(program).items()},
        "bram36": {**blocks, "used": sum(blocks.values()), "available": ZCU102_BLOCKS},
        "descriptors": len(program.descriptors),
        "ddr": asdict(ddr),
    }
    report("machine", 0, 1)
    machine_start = time.monotonic()
    comparisons = compare_on_machine(
        network, pictures_u8, compile_network(network, config, True, trial.batch), np.random.default_rng(trial.seed)
    )
    result |= {**_summarise(network, comparisons), "machine_s": round(time.monotonic() - machine_start, 3)}
    report("machine", 1, 1)
    if not any(comparison.failure for comparison in comparisons):
        counts = [count for comparison in comparisons for count in comparison.kept_tokens]
        result |= _estimate(program, counts, ddr)
        result["dense"] = _estimate(compile_network(without_selectors(network), config, pictures=trial.batch), (), ddr)
    if work is not None:
        measured = _simulate(network, pictures_u8, config, trial.batch, ddr, work, report)
        result |= _summarise_rtl(measured, ddr)
        result["mismatches"] += measured.mismatches
        result["first_problem"] = result["first_problem"] or measured.problem or None
    return {**result, "wall_s": round(time.monotonic() - start, 3)}


def _summarise(network: IntegerNetwork, comparisons: Sequence[PictureComparison]) -> dict[str, Any]:
    """Return what the machine computed, as JSON types; a run that failed counts as a mismatch of each picture."""
    problems = [comparison.failure or str(comparison.divergence or "") for comparison in comparisons]
    return {
        "mismatches": sum(comparison.mismatches + bool(comparison.failure) for comparison in comparisons),
        "layers_compared": sum(comparison.layers for comparison in comparisons),
        "first_problem": next(filter(None, problems), None),
        "tokens": [[network.config.num_tokens, *comparison.kept_tokens] for comparison in comparisons],
    }


def _estimate(program: Program, token_counts: Sequence[int], ddr: DdrModel) -> dict[str, Any]:
    """Return the cycle model's figures of a run."""
    model = estimate(program, token_counts, MemoryModel(ddr.bytes_per_cycle, ddr.latency_cycles))
    cycles = model.cycles / program.pictures
    return {
        "cycles_per_picture": cycles,
        "ddr_bytes": ddr_bytes(program) / program.pictures,
        "gmac": model.macs / 1e9 / program.pictures,
        "utilisation": model.macs / program.config.macs / model.cycles,
        "fps_at_an_assumed_clock": frame_rates(cycles),
    }


def _simulate(
    network: IntegerNetwork, pictures_u8: U8, config: AccelConfig, batch: int, ddr: DdrModel, work: Path, report: Report
) -> Measurement:
    """Run the pictures on the RTL: once with every layer stored and compared, and once timed."""
    report("build", 0, 1)
    model = build_process_core(config, work.resolve())
    report("build", 1, 1)
    return measure(network, pictures_u8, config, model, ddr, lambda done, total: report("simulate", done, total), batch)


def _summarise_rtl(measured: Measurement, ddr: DdrModel) -> dict[str, Any]:
    """Return the RTL's figures; only a run that ended has cycles."""
    layers = sum(comparison.layers for run in measured.checked for comparison in run.comparisons)
    result: dict[str, Any] = {"rtl_layers_compared": layers, "rtl_mismatches": measured.mismatches}
    if any(run.failure for run in measured.timed):
        return result
    pictures = sum(len(run.comparisons) for run in measured.timed)
    return {
        **result,
        **model_errors(measured, ddr),
        "rtl_cycles": sum(run.outcome.cycles for run in measured.timed) / pictures,
        "rtl_ddr_bytes": sum(run.ddr_read + run.ddr_written for run in measured.timed) / pictures,
        "rtl_wall_s": round(sum(run.wall_s for run in measured.timed) / pictures, 3),
    }


def memory_table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of a printed table: memory, words used and available, share, block RAMs."""
    bram36 = result["bram36"]
    rows = [
        (name, *_cells(Use(**use)), "" if name in PARTS else f"{bram36[name]:,}")
        for name, use in result["memory"].items()
    ]
    used, available = bram36["used"], bram36["available"]
    return [*rows, ("all", "", "", f"{used / available:.1%}", f"{used:,} of {available:,}")]


def _cells(use: Use) -> tuple[str, str, str]:
    return f"{use.used:,}", f"{use.available:,}", f"{use.used / use.available:.1%}"


def cycle_table(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the rows of a printed table: source, cycles a picture, utilisation, DDR bytes, frames per second."""
    sources = [("cycle model", result)] if "cycles_per_picture" in result else []
    if result["keep"] and "dense" in result:
        sources.append(("cycle model, without selectors", result["dense"]))
    rows: list[tuple[str, ...]] = [
        (
            name,
            f"{values['cycles_per_picture']:,.0f}",
            f"{values['utilisation']:.1%}",
            f"{values['ddr_bytes']:,.0f}",
            " / ".join(f"{fps:,}" for fps in values["fps_at_an_assumed_clock"].values()),
        )
        for name, values in sources
    ]
    if "rtl_cycles" in result:
        rows.append(("RTL", f"{result['rtl_cycles']:,.0f}", "", f"{result['rtl_ddr_bytes']:,.0f}", ""))
    return rows
