"""Accuracy against work: the networks of a latency-aware training, in float and integers, and what they must beat.

Everything runs on the same pictures, so differences are paired. A baseline gets the multiply-accumulates that the
trained network took on average, those of its selectors included, and spends them in the same blocks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from heatvit.files import file_digest
from heatvit.golden import BATCH
from heatvit.integers import reconstruct
from heatvit.paired import mcnemar_p
from heatvit.pictures import open_pictures
from heatvit.progress import Report, reporter
from heatvit.report.drawing import Drawing
from heatvit.report.line_chart import Line, line_chart
from model.checkpoint import load_dense, load_network
from model.config import load_network_config
from model.data import I64, Pictures, batches
from model.evaluate import layer_macs, macs
from model.inference import infer
from model.pruning.baselines import Ranking, infer_ranked
from model.pruning.plan import PruningPlan
from model.vit import IMAGENET, VisionTransformer
from quant.config import NetworkConfig
from quant.fast_golden import FastGolden
from quant.network_file import load_network as load_integer_network

Forward: TypeAlias = Callable[[Tensor], tuple[Tensor, list[Tensor]]]
"""A batch of pictures -> logits (B, classes) and, for each selector, live tokens (B,) after it."""

BISECTIONS = 30


@dataclass(frozen=True)
class Row:
    """What one network did: predictions (N,), multiply-accumulates a picture, mean live tokens after each selector."""

    name: str
    predictions: I64
    macs: float
    num_tokens: tuple[float, ...]


@dataclass(frozen=True)
class PruningStudy:
    """The pictures and the folders of a study.

    runs is the folder of `heatvit train --config`; without_package that of the same training with has_package = false.
    """

    runs: Path
    without_package: Path | None
    images: str
    count: int | None
    progress: Progress

    @cached_property
    def _report(self) -> Report:
        return reporter(self.progress)

    def run(self) -> dict[str, Any]:
        """Measure every network on labelled pictures. Raises ValueError if they have no labels."""
        plan = read_plan(self.runs)
        dense = load_dense(Path(plan.weights), load_network_config(plan.network), IMAGENET).eval()
        config = dense.config
        pictures, is_labelled = open_pictures(self.images, config, self.count)
        if not is_labelled:
            raise ValueError(f"images must have labels: one sub-folder a class, or a pack, not {self.images!r}")
        training, _ = open_pictures(plan.images, config)
        golden = FastGolden(reconstruct(dense, training, self.progress).integers)
        rows = [
            self._measure("dense, float", config, pictures, _float_forward(dense)),
            self._measure("dense, integer", config, pictures, _golden_forward(golden)),
        ]
        points: list[dict[str, Any]] = [{"limit": None, "rows": [_compare(row, rows[0], pictures) for row in rows]}]
        for limit in plan.limits:
            rows = self._point(limit, dense, pictures)
            points.append({"limit": limit, "rows": [_compare(row, rows[0], pictures) for row in rows]})
        return {
            "images": self.images,
            "n": len(pictures.labels),
            "runs": str(self.runs),
            "weights_sha256": file_digest(Path(plan.weights)),
            "seed": plan.recipe.seed,
            "points": points,
        }

    def _point(self, limit: float, dense: VisionTransformer, pictures: Pictures) -> list[Row]:
        """Measure the networks of one latency limit, the trained float network first."""
        network = load_network(self.runs / f"limit_{limit:.0f}.safetensors").eval()
        golden = FastGolden(load_integer_network(self.runs / f"network_{limit:.0f}.safetensors"))
        config = network.config
        rows = [
            self._measure("ours, float", config, pictures, _float_forward(network)),
            self._measure("ours, integer", config, pictures, _golden_forward(golden)),
        ]
        network.has_package = False
        rows.append(self._measure("ours, package token left out", config, pictures, _float_forward(network)))
        if self.without_package is not None:
            other = load_network(self.without_package / f"limit_{limit:.0f}.safetensors").eval()
            rows.append(
                self._measure("ours, trained without package token", other.config, pictures, _float_forward(other))
            )
        kept = equal_work(config, rows[0])
        for ranking in Ranking:
            row = self._measure(ranking.value, config, pictures, _ranked_forward(dense, ranking, kept))
            rows.append(replace(row, macs=ranked_macs(config, kept)))
        return rows

    def _measure(self, name: str, config: NetworkConfig, pictures: Pictures, forward: Forward) -> Row:
        """Run all pictures through a network."""
        predictions, counts, done = [], [], 0
        for pictures_u8, labels in batches(pictures, BATCH):
            logits, num_tokens = forward(torch.from_numpy(pictures_u8))
            predictions.append(logits.argmax(dim=1).cpu().numpy())
            counts += list(zip(*(stage.tolist() for stage in num_tokens), strict=True)) or [()] * len(labels)
            done += len(labels)
            self._report(name, done, len(pictures.labels))
        work = float(np.mean([macs(config, picture) for picture in counts]))
        return Row(name, np.concatenate(predictions), work, tuple(np.mean(counts, axis=0).tolist()))


def read_plan(runs: Path) -> PruningPlan:
    """Return the plan of a training's folder. Raises ValueError if it is none."""
    path = runs / "training.json"
    try:
        return PruningPlan.from_dict(json.loads(path.read_text())["description"]["plan"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must be the record of heatvit train --config: {error}") from error


def _float_forward(network: VisionTransformer) -> Forward:
    def forward(batch_u8: Tensor) -> tuple[Tensor, list[Tensor]]:
        result = infer(network, batch_u8, network.kernels)
        return result.logits, result.num_tokens

    return forward


def _golden_forward(golden: FastGolden) -> Forward:
    def forward(batch_u8: Tensor) -> tuple[Tensor, list[Tensor]]:
        result = golden.run(batch_u8)
        return result.logits_i16, list(result.num_tokens.T)

    return forward


def _ranked_forward(dense: VisionTransformer, ranking: Ranking, kept: Mapping[int, int]) -> Forward:
    generator = torch.Generator().manual_seed(0)

    def forward(batch_u8: Tensor) -> tuple[Tensor, list[Tensor]]:
        logits = infer_ranked(dense, batch_u8, ranking, kept, generator)
        return logits, [torch.full((len(batch_u8),), 1 + count) for count in kept.values()]

    return forward


def ranked_macs(config: NetworkConfig, kept: Mapping[int, int]) -> float:
    """Multiply-accumulates of a ranking, which has no selector layers, for block -> kept patches."""
    layers = layer_macs(config, [1 + count for count in kept.values()])
    return float(sum(work for name, work in layers.items() if not name.startswith("selectors.")))


def equal_work(config: NetworkConfig, row: Row) -> dict[int, int]:
    """Return block -> patches for a ranking: those of the row, all scaled so that the work is the row's, too."""

    def kept(factor: float) -> dict[int, int]:
        patches = [min(config.num_patches, round(factor * (tokens - 2))) for tokens in row.num_tokens]
        return dict(zip(config.selectors, (max(1, count) for count in patches), strict=True))

    low, high = 0.0, 4.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if ranked_macs(config, kept(middle)) > row.macs else (middle, high)
    return min((kept(low), kept(high)), key=lambda counts: abs(ranked_macs(config, counts) - row.macs))


def _compare(row: Row, reference: Row, pictures: Pictures) -> dict[str, Any]:
    """Return the accuracy of a row, and how it differs from the reference on the same pictures."""
    is_right, is_expected = (each.predictions == pictures.labels for each in (row, reference))
    worse, better = int((is_expected & ~is_right).sum()), int((is_right & ~is_expected).sum())
    return {
        "name": row.name,
        "gmac": row.macs / 1e9,
        "num_tokens": [round(tokens, 2) for tokens in row.num_tokens],
        "top1": float(is_right.mean()),
        "difference": (better - worse) / len(is_right),
        "p": mcnemar_p(worse, better),
        "agreement": float((row.predictions == reference.predictions).mean()),
    }


HEADER = ("network", "GMAC", "top-1", "points above", "p", "agreement")
"""Of the printed table; the last three are against the first row of the same limit."""


def table_rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the lines of the printed table."""
    return [
        (
            row["name"],
            f"{row['gmac']:.3f}",
            f"{row['top1']:.1%}",
            f"{100 * row['difference']:+.1f}",
            f"{row['p']:.2g}",
            f"{row['agreement']:.1%}",
        )
        for point in result["points"]
        for row in point["rows"]
    ]


def study_drawing(result: dict[str, Any]) -> Drawing:
    """Draw top-1 against multiply-accumulates, one line a method, each from the dense network down."""
    dense, *points = (point["rows"] for point in result["points"])
    lines = []
    for number, row in enumerate(points[0]):
        start = dense[1] if row["name"] == "ours, integer" else dense[0]
        found = [start, *(rows[number] for rows in points)]
        lines.append(Line(row["name"], [(each["gmac"], 100 * each["top1"]) for each in found]))
    return line_chart(f"Token pruning, {result['n']} pictures", lines, "GMAC a picture", "top-1, %")
