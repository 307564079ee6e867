"""Thresholds of the integer selectors, set so that pictures keep what the float selectors keep of them.

Rounding moves keep scores by a code or two, and many of them lie close to the threshold. A selector that ranks tokens
as before may so keep more or fewer of them; its threshold is a number of the network file and costs nothing to move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quant.fast_golden import FastGolden
from quant.network import U8, IntegerNetwork
from quant.reference import PACKAGE_TOKEN

BATCH = 20


def fit_thresholds(network: IntegerNetwork, pictures_u8: U8, keep_ratios: Sequence[float]) -> tuple[int, ...]:
    """Return a threshold for each selector, 0..65535, that leaves its share 0..1 of the patches of all pictures.

    pictures_u8 (n, C, S, S). The threshold of a selector is found with the earlier ones set. Shares are met up to ties:
    a threshold is one of the scores, and patches of equal scores stay or go together. Where fewer patches reach a
    selector than it may keep, it keeps all; at least the best ones stay. Raises ValueError if there is not one ratio
    for each selector.
    """
    if len(keep_ratios) != len(network.selectors):
        raise ValueError(f"keep_ratios must have {len(network.selectors)} entries, not {keep_ratios!r}")
    for stage, ratio in enumerate(keep_ratios):
        scores = patch_scores(network, pictures_u8, stage)
        threshold = _threshold(scores, round(ratio * len(pictures_u8) * network.config.num_patches))
        selectors = list(network.selectors)
        selectors[stage] = replace(selectors[stage], threshold_u16=threshold)
        network = replace(network, selectors=tuple(selectors))
    return tuple(selector.threshold_u16 for selector in network.selectors)


def patch_scores(network: IntegerNetwork, pictures_u8: U8, stage: int) -> NDArray[np.int64]:
    """Return the keep scores (n,), 0..65535, of all patches that reach a selector, over all pictures."""
    golden, found = FastGolden(network), []
    for batch in torch.split(torch.from_numpy(pictures_u8), BATCH):
        taps: dict[str, Tensor] = {}

        def record(name: str, codes: Tensor, count: Tensor, taps: dict[str, Tensor] = taps) -> None:
            if name == f"selectors.{stage - 1}.tokens":
                taps["is_package"] = codes == PACKAGE_TOKEN
            if name == f"selectors.{stage}.keep_score":
                is_patch = torch.arange(codes.shape[1]) < count[:, None]
                is_patch[:, 0] = False  # CLS
                taps["score"] = codes[is_patch & ~taps.get("is_package", torch.zeros_like(is_patch))].clone()

        golden.run(batch, record)
        found.append(taps["score"].numpy())
    return np.concatenate(found)


def _threshold(scores: NDArray[np.int64], count: int) -> int:
    """Return the score that most nearly `count` of the scores reach."""
    values, numbers = np.unique(scores, return_counts=True)
    reaching = np.cumsum(numbers[::-1])[::-1]
    return int(values[np.abs(reaching - count).argmin()])
