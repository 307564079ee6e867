"""Ranges of activations: histograms over calibration pictures and the search for the scale with the least error."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 4096
RATIOS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
"""Candidates for the largest representable magnitude, relative to the largest observed. Ties go to the largest."""
WIDE_HEADROOM = 1.25
"""int16 tensors have resolution to spare: leave room for what calibration did not see."""


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

    def scale(self, bits: int) -> float:
        """Value of one code of a signed tensor of `bits` bits; 1.0 if only zeros were seen.

        8 bits: the candidate of RATIOS with the least squared error over the histogram. 16 bits: the peak with
        headroom. Raises ValueError for other widths.
        """
        if bits not in (8, 16):
            raise ValueError(f"bits must be 8 or 16, not {bits!r}")
        if self.peak == 0.0:
            return 1.0
        top = (1 << (bits - 1)) - 1
        if bits == 16:
            return self.peak * WIDE_HEADROOM / top
        return least_error_scale(
            self._counts, self._limit / NUM_BINS, [self.peak * ratio / top for ratio in RATIOS], top
        )


def least_error_scale(counts: NDArray[np.int64], bin_width: float, scales: Iterable[float], top: int) -> float:
    """The first of `scales` whose rounding and clipping at code `top` gives the least squared error on a histogram."""
    centre = (np.arange(len(counts)) + 0.5) * bin_width

    def error(scale: float) -> float:
        restored = np.minimum(np.round(centre / scale), top) * scale
        return float((counts * (centre - restored) ** 2).sum())

    return min(scales, key=error)
