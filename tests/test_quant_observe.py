"""Range observation.

Testpoints: the peak and the histogram do not depend on how values are batched; growth keeps counts exact; the
search clips a lone outlier and keeps a uniform range; the peak with headroom; zeros, nothing, not finite and other
widths.
"""

from __future__ import annotations

import numpy as np
import pytest

from quant.observe import RATIOS, RangeObserver


def observe(*batches: np.ndarray) -> RangeObserver:
    observer = RangeObserver()
    for batch in batches:
        observer.add(batch.astype(np.float32))
    return observer


def test_scale_does_not_depend_on_batches_or_order() -> None:
    values = np.random.default_rng(0).standard_t(3, 20000).astype(np.float32)
    ordered = np.sort(np.abs(values))
    whole = observe(values)
    assert whole.searched_scale(8) == observe(*np.array_split(values, 7)).searched_scale(8)
    assert whole.searched_scale(8) == observe(*np.array_split(ordered, 50)).searched_scale(8)  # grows again and again
    assert whole.searched_scale(8) == observe(*np.array_split(ordered[::-1], 50)).searched_scale(8)
    assert whole.peak == float(np.abs(values).max())


def test_search_finds_the_least_squared_error_of_the_values_themselves() -> None:
    values = np.random.default_rng(1).standard_t(3, 50000).astype(np.float32)
    peak = float(np.abs(values).max())
    candidates = [peak * ratio / 127 for ratio in RATIOS]
    errors = [float(((values - np.clip(np.round(values / s), -127, 127) * s) ** 2).sum()) for s in candidates]
    chosen = observe(values).searched_scale(8)
    assert chosen in candidates
    assert errors[candidates.index(chosen)] <= 1.01 * min(errors)


def test_a_lone_outlier_is_clipped_and_a_full_range_is_not() -> None:
    rng = np.random.default_rng(2)
    uniform = rng.uniform(-3, 3, 100000)
    assert observe(uniform).searched_scale(8) == pytest.approx(3 / 127, rel=1e-3)
    assert observe(np.append(rng.normal(0, 1, 1000000), 8.0)).searched_scale(8) < 8 / 127


def test_peak_scale_holds_the_peak_and_the_headroom() -> None:
    observer = observe(np.array([1.0, -4.0]))
    assert observer.peak_scale(16, 1.25) == 4.0 * 1.25 / 32767
    assert observer.peak_scale(8) == 4.0 / 127


def test_zeros_and_nothing_give_one() -> None:
    zeros = observe(np.zeros(10), np.zeros(0))
    assert zeros.searched_scale(8) == zeros.peak_scale(8) == zeros.peak_scale(16, 2.0) == 1.0
    assert observe(np.zeros(10), np.ones(3)).searched_scale(8) == pytest.approx(1 / 127)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_must_be_finite(value: float) -> None:
    with pytest.raises(ValueError, match=r"^observed values must be finite, not "):
        observe(np.array([1.0, value]))


@pytest.mark.parametrize("bits", [1, 10, 16])
def test_search_refuses_widths_finer_than_its_histogram(bits: int) -> None:
    with pytest.raises(ValueError, match=rf"^bits must be in 2..9, the resolution of the histogram, not {bits}"):
        observe(np.ones(3)).searched_scale(bits)
