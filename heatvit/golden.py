"""The golden model on a set of pictures: accuracy, live tokens and work, and the same at other keep thresholds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from model.data import Pictures
from model.evaluate import Evaluation, macs
from quant.network import IntegerNetwork
from quant.reference import run

THRESHOLD_ONE = 1 << 16
"""A keep threshold of 1 in u16 codes; the largest code is one less."""


def evaluate_golden(
    network: IntegerNetwork, pictures: Pictures, progress: Callable[[int, int], None] | None = None
) -> Evaluation:
    """Run the golden model on all pictures; progress(done, total) is called after each."""
    config, total = network.config, len(pictures.labels)
    predictions = np.zeros(total, np.int64)
    num_tokens = np.zeros((total, len(config.selectors)), np.int64)
    for index in range(total):
        inference = run(network, pictures.load(np.array([index]))[0], taps=False)
        predictions[index] = inference.logits_i16.argmax()
        num_tokens[index] = inference.num_tokens
        if progress is not None:
            progress(index + 1, total)
    picture_macs = np.array([macs(config, row) for row in num_tokens.tolist()], np.int64)
    dense_macs = macs(replace(config, selectors=()), ())
    return Evaluation(pictures.labels, predictions, num_tokens, picture_macs, dense_macs)


def with_threshold(network: IntegerNetwork, threshold: float) -> IntegerNetwork:
    """Return the network with every selector's keep threshold set to a fraction in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], not {threshold!r}")
    code = min(round(threshold * THRESHOLD_ONE), THRESHOLD_ONE - 1)
    selectors = tuple(replace(selector, threshold_u16=code) for selector in network.selectors)
    return replace(network, selectors=selectors)


def token_histogram(evaluation: Evaluation, num_tokens: int) -> list[list[int]]:
    """Return [selector][live tokens 0..num_tokens] pictures."""
    return [np.bincount(counts, minlength=num_tokens + 1).tolist() for counts in evaluation.num_tokens.T]
