"""Latency-aware training by a file: the accelerator's cycle table, selectors in float, then the networks in 8 bits."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import Progress

from heatvit.files import file_digest, write_json, write_text
from heatvit.flow import write_network
from heatvit.integers import CALIBRATION_PICTURES, compare_with_golden, finetune
from heatvit.pictures import first, load_all, open_pictures
from heatvit.report.drawing import Drawing
from heatvit.report.line_chart import Line, line_chart
from hw.config import load_config
from hw.latency import estimate_network, latency_table
from hw.memory_model import MemoryModel
from model.checkpoint import load_dense
from model.config import load_network_config
from model.data import SubsetPictures
from model.distributed import ALONE, Processes
from model.pruning.latency import LatencyTable
from model.pruning.plan import PruningPlan, load_plan
from model.pruning.train import LIMIT, Pruned, prune
from model.resume import Record
from model.train import Run
from model.vit import IMAGENET
from quant.config import NetworkConfig

TABLE_RATIOS = tuple(ratio / 20 for ratio in range(1, 21))
"""Shares of the patches for which the latency table has a row."""
NETWORK = "network"
"""What the record's entry about a network file begins with."""


def measure_table(config: NetworkConfig, accelerator: str) -> LatencyTable:
    """Return the latency table that the cycle model gives for a topology on an accelerator."""
    accelerator_config, memory = load_config(accelerator), MemoryModel()
    tokens = sorted({1 + round(ratio * config.num_patches) for ratio in TABLE_RATIOS} | {config.num_tokens})
    rows = latency_table(config, accelerator_config, memory, tokens)
    dense = estimate_network(config, accelerator_config, memory, ())
    return LatencyTable(
        tuple(row.tokens for row in rows),
        tuple(row.block_cycles for row in rows),
        tuple(row.selector_cycles for row in rows),
        dense.cycles - config.depth * rows[-1].block_cycles,
    )


def train_by_plan(
    plan_file: Path, no_package: bool, out: Path, progress: Progress, processes: Processes = ALONE
) -> dict[str, Any]:
    """Train networks under the latency limits of a file; goes on where an interrupted run of the same file stopped.

    `out` receives, for each limit, limit_N.safetensors (float) and, with a package token, network_N.safetensors
    (8 bits); log.csv and curves.svg after each network; latency_table.json, training.json, result.json.
    """
    plan = load_plan(plan_file)
    if no_package:
        plan = replace(plan, has_package=False)
    dense = load_dense(Path(plan.weights), load_network_config(plan.network), IMAGENET)
    config = dense.config
    pictures, _ = open_pictures(plan.images, config)
    table = measure_table(config, plan.accelerator)
    description = {
        "plan": plan.to_dict(),
        "weights_sha256": file_digest(Path(plan.weights)),
        "num_pictures": len(pictures.labels),
        "latency_table": {name: np.array(value).tolist() for name, value in asdict(table).items()},
    }
    with processes.main_first():
        record = Record.open(out / "training.json", description)
    run = Run(plan.recipe, pictures, out, progress, record, processes)
    if processes.is_main:
        write_json(out / "latency_table.json", description["latency_table"])
    results = []
    for result in prune(run, plan, dense, table):
        results.append(result)
        _write_log(run)
    points = [_summary(result) for result in results]
    if plan.has_package:
        for result, point in zip(results, points, strict=True):
            point |= _quantize(run, plan, result)
            _write_log(run)
    summary = {
        "plan": str(plan_file),
        "dense_cycles": table.cycles(config, {}),
        "points": points,
        "seed": plan.recipe.seed,
        "weights_sha256": description["weights_sha256"],
    }
    if processes.is_main:
        write_json(out / "result.json", summary)
    return summary


def _summary(result: Pruned) -> dict[str, Any]:
    return {
        "limit": result.limit,
        "predicted_cycles": round(result.predicted_cycles),
        "selectors": list(result.keep_ratios),
        "keep_ratios": [round(ratio, 4) for ratio in result.keep_ratios.values()],
        "held_out_tokens": result.num_tokens,
        "held_out_divergence": result.divergence,
        "held_out_agreement": result.agreement,
    }


def _quantize(run: Run, plan: PruningPlan, result: Pruned) -> dict[str, Any]:
    """Train a network on in 8 bits, write it, and compare training with the golden model on the held-out pictures.

    Its float self is the teacher: it keeps the same tokens, so that every block can be followed. A network of an
    earlier start is what the record says of it.
    """
    path, name = run.out_dir / f"network_{result.limit:.0f}.safetensors", f"{NETWORK} {result.limit:.0f}"
    if name in run.record.stages and path.exists():
        return run.record.stages[name][0]
    numbers = np.arange(len(run.pictures.labels))
    training = SubsetPictures(run.pictures, numbers[plan.held_out :])
    held_out_u8 = run.pictures.load(numbers[: plan.held_out])
    trained, history = finetune(
        result.network,
        result.network,
        replace(plan.recipe, keep_ratios=tuple(result.keep_ratios.values())),
        training,
        load_all(first(training, CALIBRATION_PICTURES)),
        run.out_dir / f"{LIMIT}_{result.limit:.0f}.8-bit",
        run.progress,
        run.processes,
        held_out_u8,
    )
    exported = trained.export()
    comparison = compare_with_golden(trained, exported, held_out_u8)
    if run.processes.is_main:
        write_network(exported, path)
    with run.processes.main_first():
        summary = {
            "network": str(path),
            "network_sha256": file_digest(path),
            "network_bytes": path.stat().st_size,
            "qat_pictures": comparison.pictures,
            "qat_layers": comparison.layers,
            "qat_mismatches": comparison.mismatches,
        }
    run.record.stages.update({f"8-bit {result.limit:.0f}": history, name: [summary]})
    if run.processes.is_main:
        run.record.write()
    return summary


def _write_log(run: Run) -> None:
    if run.processes.is_main:
        write_text(run.out_dir / "log.csv", _log(run.record))
        write_text(run.out_dir / "curves.svg", _curves(run.record).file())


def _log(record: Record) -> str:
    """Return one line for each epoch of each stage: the loss, its terms, and the keep ratios."""
    rows = [
        {"stage": stage, "epoch": epoch, **{name: _cell(value) for name, value in entry.items()}}
        for stage, history in record.stages.items()
        if not stage.startswith(NETWORK)
        for epoch, entry in enumerate(history)
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _curves(record: Record) -> Drawing:
    """Draw the loss of each trained step against its epochs."""
    lines = [
        Line(step, [(epoch, entry["loss"]) for epoch, entry in enumerate(history, 1)])
        for step, history in record.stages.items()
        if history and "loss" in history[0]
    ]
    return line_chart("Loss of each step", lines, "epoch", "loss")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(f"{item:.4f}" for item in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)
