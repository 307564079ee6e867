"""Ranges of activations: histograms over calibration pictures and the search for the scale with the least error."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 4096
RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
"""Candidates for the largest representable magnitude, relative to the largest observed. Ties go to the largest."""


class RangeObserver:
    """Histogram of magnitudes that grows with what it sees: exact counts, bounded memory, any order of batches."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._limit = 0.0
        self._counts: NDArray[np.int64] = np.zeros(NUM_BINS, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values of any shape. Raises ValueError if one is not finite."""
        if values.size == 0:
            return
        magnitude = np.abs(values).ravel()
        peak = float(magnitude.max())
        if not np.isfinite(peak):
            raise ValueError(f"observed values must be finite, not {peak!r}")
        self.peak = max(self.peak, peak)
        if self._limit == 0.0:
            if peak == 0.0:
                return  # zeros carry no range, and every scale represents them
            self._limit = 2.0 ** np.ceil(np.log2(peak))
        while peak > self._limit:
            self._limit *= 2
            self._counts = np.pad(self._counts.reshape(-1, 2).sum(axis=1), (0, NUM_BINS // 2))
        bins = np.minimum((magnitude * (NUM_BINS / self._limit)).astype(np.int64), NUM_BINS - 1)
        self._counts += np.bincount(bins, minlength=NUM_BINS)

    def peak_scale(self, bits: int, headroom: float = 1.0) -> float:
        """Value of one code of a tensor of `bits` bits that holds headroom * peak; 1.0 if only zeros were seen."""
        return self.peak * headroom / _top(bits) if self.peak > 0 else 1.0

    def searched_scale(self, bits: int) -> float:
        """The candidate of RATIOS with the least squared error of rounding and clipping to `bits` <= 9 bits."""
        if not 2 <= bits <= 9:
            raise ValueError(f"bits must be in 2..9, the resolution of the histogram, not {bits!r}")
        if self.peak == 0.0:
            return 1.0
        centre = (np.arange(NUM_BINS) + 0.5) * (self._limit / NUM_BINS)

        def error(scale: float) -> float:
            restored = np.minimum(np.round(centre / scale), _top(bits)) * scale
            return float((self._counts * (centre - restored) ** 2).sum())

        return min((self.peak_scale(bits, ratio) for ratio in RATIOS), key=error)


def _top(bits: int) -> int:
    """Largest signed code."""
    return (1 << (bits - 1)) - 1
