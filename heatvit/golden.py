"""The golden model on a set of pictures: accuracy, live tokens and work, and the same with other keep shares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.data import Pictures, batches
from model.evaluate import Evaluation, macs
from quant.fast_golden import FastGolden
from quant.network import U8, U16, IntegerNetwork
from quant.reference import PACKAGE_TOKEN, run

BATCH = 8
"""Pictures at once; on CPUs larger batches leave the caches and are slower."""


def evaluate_golden(
    network: IntegerNetwork, pictures: Pictures, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Run the golden model, by its fast twin, on all pictures; progress(done, total) is called after each batch."""
    config, total = network.config, len(pictures.labels)
    golden = FastGolden(network)
    predictions = np.zeros(total, np.int64)
    num_tokens = np.zeros((total, len(config.selectors)), np.int64)
    done = 0
    for pictures_u8, labels in batches(pictures, BATCH):
        batch, result = slice(done, done + len(labels)), golden.run(torch.from_numpy(pictures_u8))
        predictions[batch] = result.logits_i16.numpy().argmax(axis=1)  # of equal logits the first, as everywhere
        num_tokens[batch] = result.num_tokens.numpy()
        done += len(labels)
        if progress is not None:
            progress(done, total)
    picture_macs = np.array([macs(config, row) for row in num_tokens.tolist()], np.int64)
    dense_macs = macs(replace(config, selectors=()), ())
    return Evaluation(pictures.labels, predictions, num_tokens, picture_macs, dense_macs)


def with_keep_share(network: IntegerNetwork, pictures: Pictures, share: float) -> IntegerNetwork:
    """Return the network with thresholds at which every selector keeps about `share` (0..1) of the patches it sees.

    A threshold is the quantile of the selector's keep scores on the given pictures, the earlier selectors being set.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in 0..1, not {share!r}")
    pictures_u8 = pictures.load(np.arange(len(pictures.labels)))
    for stage in range(len(network.selectors)):
        taps = [run(network, picture_u8).taps for picture_u8 in pictures_u8]
        scores_u16 = np.concatenate([tap[f"selectors.{stage}.keep_score"][1:] for tap in taps])  # not that of CLS
        selectors = list(network.selectors)
        selectors[stage] = replace(selectors[stage], threshold_u16=int(np.quantile(scores_u16, 1 - share)))
        network = replace(network, selectors=tuple(selectors))
    return network


def with_token_counts(network: IntegerNetwork, pictures_u8: U8, counts: Sequence[int]) -> IntegerNetwork:
    """Return the network with thresholds at which about counts[s] tokens are live after selector s, on average.

    The counts include CLS and a package token; pictures_u8 (B, C, S, S). Each threshold is chosen with the earlier
    selectors set. Raises ValueError if the counts are not one per selector, not falling, or below 3.
    """
    limits = [network.config.num_tokens, *counts]
    if len(counts) != len(network.selectors) or limits != sorted(limits, reverse=True) or limits[-1] < 3:
        raise ValueError(
            f"token counts must be {len(network.selectors)} falling numbers in 3..{limits[0]}, not {list(counts)}"
        )
    for stage, count in enumerate(counts):
        scores = [_patch_scores(run(network, picture_u8).taps, stage) for picture_u8 in pictures_u8]
        falling_u16 = np.sort(np.concatenate(scores))[::-1]
        kept = min((count - 2) * len(pictures_u8), len(falling_u16))
        selectors = list(network.selectors)
        selectors[stage] = replace(selectors[stage], threshold_u16=int(falling_u16[kept - 1]))
        network = replace(network, selectors=tuple(selectors))
    return network


def _patch_scores(taps: Mapping[str, NDArray[Any]], stage: int) -> U16:
    """Return the keep scores of the patch tokens that a selector sees: neither CLS nor an earlier package."""
    scores_u16: U16 = taps[f"selectors.{stage}.keep_score"][1:]
    has_package = stage > 0 and taps[f"selectors.{stage - 1}.tokens"][-1] == PACKAGE_TOKEN
    return scores_u16[:-1] if has_package else scores_u16


def token_histogram(evaluation: Evaluation, num_tokens: int) -> list[list[int]]:
    """Return [selector][live tokens 0..num_tokens] pictures."""
    return [np.bincount(counts, minlength=num_tokens + 1).tolist() for counts in evaluation.num_tokens.T]
