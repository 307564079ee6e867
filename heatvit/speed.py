"""How much faster pruned inference is in software: images a second of the dense and of the pruned network, same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from heatvit.progress import Report
from model.approx import Kernels
from model.config import load_network_config
from model.evaluate import macs
from model.inference import infer
from model.vit import Normalisation, VisionTransformer

BATCHES = (1, 32)
REPEATS = 9
"""Timed calls of each network, of which the median counts."""


def bench_torch(network: str, token_counts: Sequence[int], report: Report) -> dict[str, Any]:
    """Measure a topology with and without its selectors on the CPU, with torch's fused kernels for both.

    Weights and pictures are random: no time depends on their values, because every selector leaves token_counts[s]
    tokens of every picture. The two networks run in turn and the median call counts, so that other work on the
    machine hits both.
    """
    config = load_network_config(network)
    limits = [config.num_tokens, *token_counts]
    if len(token_counts) != len(config.selectors) or any(
        not 2 <= after <= before for before, after in pairwise(limits)
    ):
        raise ValueError(
            f"tokens must be {len(config.selectors)} counts in 2..{config.num_tokens}, none above the one before, "
            f"not {list(token_counts)}"
        )
    dense_config = replace(config, selectors=())
    normalisation = Normalisation((0.5,) * config.in_chans, (0.25,) * config.in_chans)
    torch.manual_seed(0)
    dense, pruned = (VisionTransformer(each, normalisation).eval() for each in (dense_config, config))
    result: dict[str, Any] = {
        "network": network,
        "tokens": [config.num_tokens, *token_counts],
        "gmac_dense": macs(dense_config, ()) / 1e9,
        "gmac_pruned": macs(config, token_counts) / 1e9,
        "threads": torch.get_num_threads(),
    }
    for batch in BATCHES:
        shape = (batch, config.in_chans, config.image_size, config.image_size)
        pictures_u8 = torch.randint(0, 256, shape, dtype=torch.uint8)
        seconds = _alternate(
            partial(infer, dense, pictures_u8, Kernels.FUSED),
            partial(infer, pruned, pictures_u8, Kernels.FUSED, token_counts),
            partial(report, f"batch {batch}"),
        )
        speeds = [batch / each for each in seconds]
        result[f"batch_{batch}"] = {
            "dense_images_per_s": speeds[0],
            "pruned_images_per_s": speeds[1],
            "speedup": speeds[1] / speeds[0],
        }
    return result


def _alternate(
    first: Callable[[], object], second: Callable[[], object], progress: Callable[[int, int], None]
) -> list[float]:
    """Return the median seconds of each function, called in turn after one call that is not timed."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(REPEATS + 1):
        for function, seconds in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            if repeat > 0:
                seconds.append(time.perf_counter() - start)
        progress(repeat, REPEATS)
    return [statistics.median(seconds) for seconds in times]
