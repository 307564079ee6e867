"""Two networks on the same pictures: ranks, agreement, and whether a difference in accuracy could be chance."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data import I64


def label_ranks(logits: NDArray[Any], labels: I64) -> I64:
    """Return how many classes come before the label of each picture, 0 for top-1.

    logits (N, classes); of equal logits the class of the lower number comes first, as in argmax.
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    is_lower = np.arange(logits.shape[1]) < labels[:, None]
    ranks: I64 = ((logits > own) | ((logits == own) & is_lower)).sum(axis=1)
    return ranks


def mcnemar_p(first_only: int, second_only: int) -> float:
    """Return the two-sided exact p-value of McNemar's test.

    Of the pictures that only one of two networks gets right, each is a fair coin if they are equally good; the
    p-value is the chance of a split at least as uneven as first_only : second_only.
    """
    total = first_only + second_only
    tail = sum(math.comb(total, k) for k in range(min(first_only, second_only) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**total)))


def rms_within_pictures(logits: NDArray[Any]) -> float:
    """Root mean square of logits less their mean over the classes of each picture."""
    return float(np.sqrt(np.square(logits - logits.mean(axis=1, keepdims=True)).mean()))
