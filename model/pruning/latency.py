"""Latency of a pruned network from a table of the accelerator's own cycles, and keep ratios that meet a limit.

Source: HeatViT (HPCA 2023) section VI: the sum of the blocks' latencies at their keep ratios stays under a limit. Here
the table comes from the cycle model of the accelerator and counts the selectors, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quant.config import NetworkConfig

KeepRatios = Mapping[int, float]
"""Block -> share of the picture's patches, 0..1, that the selector before this block leaves; falling with the block."""

BISECTIONS = 40


class LimitError(ValueError):
    """A latency limit that a plan's selectors cannot meet."""


@dataclass(frozen=True)
class LatencyTable:
    """Cycles of one block and of one selector at some token counts, and of everything else in a picture.

    tokens ascending, CLS and package included; between them cycles are interpolated.
    """

    tokens: tuple[int, ...]
    block_cycles: tuple[int, ...]
    selector_cycles: tuple[int, ...]
    other_cycles: int

    def __post_init__(self) -> None:
        if list(self.tokens) != sorted(set(self.tokens)) or not self.tokens:
            raise ValueError(f"tokens must ascend, not {self.tokens!r}")
        if not len(self.tokens) == len(self.block_cycles) == len(self.selector_cycles):
            raise ValueError("tokens, block_cycles and selector_cycles must have one length")

    def cycles(self, config: NetworkConfig, keep: KeepRatios) -> float:
        """Predict a picture of a topology with selectors before the blocks of `keep`."""
        tokens, total = float(config.num_tokens), float(self.other_cycles)
        for block in range(config.depth):
            if block in keep:
                total += float(np.interp(tokens, self.tokens, self.selector_cycles))
                tokens = mean_tokens(config, keep[block])
            total += float(np.interp(tokens, self.tokens, self.block_cycles))
        return total


def mean_tokens(config: NetworkConfig, keep_ratio: float) -> float:
    """Live tokens after a selector: CLS, the kept patches and the package token."""
    return min(2 + keep_ratio * config.num_patches, config.num_tokens)


def merge_stages(keep: KeepRatios, difference: float) -> dict[int, float]:
    """Merge neighbouring selectors whose ratios are closer than `difference` into the first of them.

    The merged selector keeps the mean ratio of its members. Source: HeatViT section VI (about 8.5 %).
    """
    groups: list[list[int]] = []
    for block in sorted(keep):
        if groups and keep[groups[-1][0]] - keep[block] < difference:
            groups[-1].append(block)
        else:
            groups.append([block])
    return {group[0]: float(np.mean([keep[block] for block in group])) for group in groups}


def fit_to_limit(table: LatencyTable, config: NetworkConfig, keep: KeepRatios, limit: float) -> dict[int, float]:
    """Raise all keep ratios to one power, so that the predicted cycles are the limit.

    Raises LimitError if no power does it: the limit is below what the selectors reach, or above the dense network.
    """
    low, high = 0.0, 16.0  # every ratio 1, every ratio nearly 0

    def cycles(power: float) -> float:
        return table.cycles(config, {block: ratio**power for block, ratio in keep.items()})

    if not cycles(high) <= limit <= cycles(low):
        raise LimitError(f"limit must be in {cycles(high):.0f}..{cycles(low):.0f} cycles, not {limit!r}")
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if cycles(middle) > limit else (low, middle)
    return {block: ratio**high for block, ratio in keep.items()}
