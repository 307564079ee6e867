"""Statistics over a few seeds: mean and spread, and paired comparisons with what so few can carry."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TypedDict

T_QUANTILES = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Student's t at 97.5 % by degrees of freedom: half the width of a 95 % interval in standard errors."""
MAX_SEEDS = max(T_QUANTILES) + 1


class Spread(TypedDict):
    """Mean and sample standard deviation of a measurement over the seeds."""

    mean: float
    std: float


class Comparison(TypedDict):
    """A measurement against its baseline, seed by seed.

    per_seed holds the differences or ratios; mean is their mean, or geometric mean; low and high limit a 95 %
    interval of it by Student's t; is_resolved says that the interval excludes "no change".
    """

    per_seed: list[float]
    mean: float
    low: float
    high: float
    is_resolved: bool


def spread(values: Sequence[float]) -> Spread:
    """Return mean and sample standard deviation of at least two values."""
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values)}


def difference(values: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """Compare by differences value - baseline, one a seed; both in the same order of 2 to MAX_SEEDS seeds."""
    changes = [value - base for value, base in zip(values, baseline, strict=True)]
    mean, margin = _interval(changes)
    return {
        "per_seed": changes,
        "mean": mean,
        "low": mean - margin,
        "high": mean + margin,
        "is_resolved": abs(mean) > margin,
    }


def ratio(values: Sequence[float], baseline: Sequence[float]) -> Comparison:
    """Compare positive values by ratios value / baseline: `difference` of their logarithms."""
    logs = difference([math.log(value) for value in values], [math.log(base) for base in baseline])
    return {
        "per_seed": [math.exp(change) for change in logs["per_seed"]],
        "mean": math.exp(logs["mean"]),
        "low": math.exp(logs["low"]),
        "high": math.exp(logs["high"]),
        "is_resolved": logs["is_resolved"],
    }


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and half the width of its 95 % interval."""
    quantile = T_QUANTILES[len(values) - 1]
    return statistics.fmean(values), quantile * statistics.stdev(values) / math.sqrt(len(values))
