"""Statistics over seeds.

Testpoints: mean and sample deviation; a paired interval is Student's of the differences, whatever the seeds have in
common; ratios are differences of logarithms; an interval that excludes no change resolves it, one that does not, does
not; quantiles fall with the seeds.
"""

import math

import pytest

from heatvit.seeds import MAX_SEEDS, T_QUANTILES, difference, ratio, spread


def test_spread_is_mean_and_sample_deviation() -> None:
    assert spread([1.0, 2.0, 6.0]) == pytest.approx({"mean": 3.0, "std": math.sqrt(7.0)})


def test_difference_is_paired_by_seed() -> None:
    baseline = [10.0, 50.0, 90.0]  # seeds differ far more than settings do
    compared = difference([11.0, 52.0, 93.0], baseline)
    assert compared["per_seed"] == pytest.approx([1.0, 2.0, 3.0])
    margin = 4.303 * 1.0 / math.sqrt(3)
    assert (compared["low"], compared["mean"], compared["high"]) == pytest.approx((2 - margin, 2, 2 + margin))
    assert not compared["is_resolved"]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_steady_difference_is_resolved(sign: int) -> None:
    compared = difference([5 + sign * change for change in (1.0, 1.1, 1.2)], [5.0] * 3)
    assert compared["is_resolved"] and compared["mean"] == pytest.approx(sign * 1.1)
    assert not difference([5.0, 5.1, 4.9], [5.0] * 3)["is_resolved"]
    assert not difference([5.0] * 3, [5.0] * 3)["is_resolved"]  # an interval of the one point "no change"


def test_ratio_is_geometric() -> None:
    compared = ratio([0.5, 2.0], [1.0, 1.0])
    assert compared["per_seed"] == pytest.approx([0.5, 2.0])
    assert compared["mean"] == pytest.approx(1.0) and compared["low"] == pytest.approx(1 / compared["high"])
    steady = ratio([0.8, 1.6, 3.2], [1.0, 2.0, 4.0])
    assert steady["mean"] == pytest.approx(0.8) and steady["is_resolved"]


def test_more_seeds_have_smaller_quantiles() -> None:
    quantiles = [T_QUANTILES[freedom] for freedom in range(1, MAX_SEEDS)]
    assert quantiles == sorted(quantiles, reverse=True) and quantiles[1] == 4.303
