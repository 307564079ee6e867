"""Thresholds of integer selectors that keep a share of the patches.

Testpoints: over random networks with several selectors the golden model keeps, of all pictures, what the ratios say up
to ties, packages not counted; a higher threshold keeps too few and a lower one too many; a selector that fewer patches
reach than it may keep keeps all of them; ratios that do not fit the network are refused.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quant.config import NetworkConfig
from quant.keep_thresholds import BATCH, fit_thresholds
from quant.network import U8, IntegerNetwork
from quant.reference import PACKAGE_TOKEN, run
from quant.synthetic import random_network, random_picture

CONFIG = NetworkConfig(12, 2, 3, 5, 24, 3, 3, 20, selectors=(0, 1, 2))


def with_thresholds(network: IntegerNetwork, thresholds: tuple[int, ...]) -> IntegerNetwork:
    selectors = zip(network.selectors, thresholds, strict=True)
    return replace(network, selectors=tuple(replace(selector, threshold_u16=value) for selector, value in selectors))


def reached_and_kept(network: IntegerNetwork, pictures_u8: U8) -> list[tuple[list[int], int]]:
    """Of each selector: the scores of the patches that reach it, and how many it keeps, over all pictures."""
    found: list[tuple[list[int], int]] = []
    results = [run(network, picture_u8) for picture_u8 in pictures_u8]
    for stage in range(len(network.selectors)):
        scores, kept = [], 0
        for result in results:
            entering = result.tokens[stage - 1] if stage else np.arange(network.config.num_tokens)
            is_patch = (entering != 0) & (entering != PACKAGE_TOKEN)
            scores += result.taps[f"selectors.{stage}.keep_score"][is_patch].tolist()
            kept += int(((result.tokens[stage] != 0) & (result.tokens[stage] != PACKAGE_TOKEN)).sum())
        found.append((scores, kept))
    return found


@pytest.mark.parametrize("seed", range(6))
def test_pictures_keep_their_share(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = random_network(rng, CONFIG)
    pictures_u8 = np.stack([random_picture(rng, CONFIG) for _ in range(BATCH + 3)])
    ratios = sorted(rng.uniform(0.05, 0.95, 3), reverse=True)
    thresholds = fit_thresholds(network, pictures_u8, ratios)
    stages = reached_and_kept(with_thresholds(network, thresholds), pictures_u8)
    for (scores, kept), ratio, threshold in zip(stages, ratios, thresholds, strict=True):
        target = round(ratio * len(pictures_u8) * CONFIG.num_patches)
        assert kept == sum(score >= threshold for score in scores)
        others = [sum(score >= other for score in scores) for other in set(scores)]
        assert abs(kept - target) == min(abs(number - target) for number in others)
        assert scores.count(threshold) > 0


def test_nothing_more_than_what_reaches_a_selector() -> None:
    rng = np.random.default_rng(0)
    network = random_network(rng, CONFIG)
    pictures_u8 = np.stack([random_picture(rng, CONFIG) for _ in range(5)])
    thresholds = fit_thresholds(network, pictures_u8, (0.2, 0.9, 0.9))
    (_, first), (_, second), (_, third) = reached_and_kept(with_thresholds(network, thresholds), pictures_u8)
    assert 0 < first == second == third < 5 * CONFIG.num_patches


def test_ratios_must_fit() -> None:
    network = random_network(np.random.default_rng(0), CONFIG)
    with pytest.raises(ValueError, match="keep_ratios must have 3 entries"):
        fit_thresholds(network, np.zeros((1, 3, 12, 12), np.uint8), (0.5, 0.4))
