"""Keep ratios under a latency limit: the table, the stages, the insertion and the file that asks for them.

Testpoints: a prediction is the sum of blocks and selectors at their token counts, interpolated; neighbours of about the
same ratio merge into the first; scaled ratios meet a limit exactly, unreachable limits are refused; insertion goes from
the back, stops at the limit, at the divergence, and where latency no longer falls; of several allowances the plan that
diverges least under the limit is taken, and one that cannot meet it is left out; nothing insertable is refused; the
files of this repository load; wrong plans are refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from model.config import NETWORKS
from model.pruning.insertion import InsertionRule, insert_selectors
from model.pruning.latency import LatencyTable, fit_to_limit, mean_tokens, merge_stages
from model.pruning.plan import PruningPlan, load_plan

CONFIG = replace(NETWORKS["deit_tiny"], selectors=())
LINEAR = LatencyTable(tokens=(1, 197), block_cycles=(100, 19700), selector_cycles=(50, 50), other_cycles=1000)
"""100 cycles a token and block, 50 a selector."""
RULE = InsertionRule(first_block=3, max_divergence=(0.1,), merge_below=0.05)
CONFIGS = Path(__file__).parent.parent / "configs"


def test_prediction_is_the_sum_of_its_parts() -> None:
    assert LINEAR.cycles(CONFIG, {}) == 1000 + 12 * 19700
    tokens = mean_tokens(CONFIG, 0.5)
    assert tokens == 2 + 98
    assert LINEAR.cycles(CONFIG, {4: 0.5}) == pytest.approx(1000 + 4 * 19700 + 50 + 8 * 100 * tokens)
    assert mean_tokens(CONFIG, 1.0) == 197


@pytest.mark.parametrize(
    "fields", [{"tokens": (197, 1)}, {"tokens": ()}, {"block_cycles": (1,)}, {"selector_cycles": ()}]
)
def test_wrong_tables_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        replace(LINEAR, **fields)


def test_neighbours_merge_into_the_first() -> None:
    keep = {3: 0.8, 5: 0.75, 6: 0.72, 8: 0.4, 9: 0.3}
    assert merge_stages(keep, 0.085) == {3: pytest.approx((0.8 + 0.75 + 0.72) / 3), 8: 0.4, 9: 0.3}
    assert merge_stages({9: 0.3, 3: 0.3}, 1e-9) == {3: 0.3}
    assert list(merge_stages({3: 0.5, 4: 0.45, 5: 0.4}, 0.08)) == [3, 5]  # compared with the first, not the last


def test_ratios_are_scaled_to_the_limit() -> None:
    keep = {3: 0.7, 6: 0.5, 9: 0.2}
    fitted = fit_to_limit(LINEAR, CONFIG, keep, 150_000)
    assert LINEAR.cycles(CONFIG, fitted) == pytest.approx(150_000, abs=0.5)
    assert list(fitted) == [3, 6, 9] and 1 > fitted[3] > fitted[6] > fitted[9] > 0


@pytest.mark.parametrize("limit", [10_000, 300_000])
def test_unreachable_limits_are_refused(limit: float) -> None:
    with pytest.raises(ValueError, match=rf"limit must be in \d+\.\.\d+ cycles, not {limit}"):
        fit_to_limit(LINEAR, CONFIG, {3: 0.5}, limit)


def insert(cost: float, limit: float, table: LatencyTable = LINEAR) -> tuple[dict[int, float], list[int]]:
    """Insert where each block costs `cost` nats for all of its tokens; returns the ratios and the blocks tried."""
    seen: list[int] = []

    def divergence(keep: Mapping[int, float]) -> float:
        return sum(cost * (1 - ratio) for ratio in keep.values())

    return insert_selectors(divergence, table, CONFIG, RULE, limit, seen.append), seen


def test_insertion_stops_at_the_limit() -> None:
    keep, seen = insert(cost=0.01, limit=200_000)
    assert LINEAR.cycles(CONFIG, keep) == pytest.approx(200_000, abs=0.5)
    assert seen == [11, 10, 9] and set(keep) <= {9, 10, 11}


def test_insertion_stops_at_the_divergence() -> None:
    keep, seen = insert(cost=0.3, limit=150_000)
    assert seen == list(range(11, 2, -1)) and min(keep) == 3
    ratios = list(keep.values())
    assert ratios == sorted(ratios, reverse=True) and LINEAR.cycles(CONFIG, keep) == pytest.approx(150_000, abs=0.5)


def test_insertion_leaves_out_what_saves_no_cycles() -> None:
    """Below 100 tokens this accelerator waits for weights; a selector costs as much as a fifth of a block."""
    table = LatencyTable((1, 100, 197), (10_000, 10_000, 19_700), (2000, 2000, 2000), 1000)
    keep, _ = insert(cost=0.0, limit=190_000, table=table)
    assert all(ratio >= 0.4 for ratio in keep.values())


def test_only_what_saves_cycles_is_measured_and_no_token_returns() -> None:
    """All but the last block may be pruned freely; below 100 tokens nothing is saved."""
    table = LatencyTable((1, 100, 197), (10_000, 10_000, 19_700), (2000, 2000, 2000), 1000)
    tried: list[Mapping[int, float]] = []

    def divergence(keep: Mapping[int, float]) -> float:
        tried.append(keep)
        return 0.3 * (1 - keep[11]) if set(keep) == {11} else 0.0

    insert_selectors(divergence, table, CONFIG, RULE, 160_000, lambda block: None)
    cycles = [table.cycles(CONFIG, keep) for keep in tried if set(keep) != {11}]
    assert len(cycles) > 3 and all(later < earlier for earlier, later in pairwise(cycles))
    for keep in tried:
        ratios = [keep[block] for block in sorted(keep)]
        assert ratios == sorted(ratios, reverse=True)


def test_the_plan_that_diverges_least_is_taken() -> None:
    """A small allowance reaches further to the front, a large one prunes hard behind, which this network likes less."""

    def divergence(keep: Mapping[int, float]) -> float:
        return max(1 - ratio for ratio in keep.values()) ** 4

    def plan(*allowances: float) -> dict[int, float]:
        rule = replace(RULE, max_divergence=allowances)
        return insert_selectors(divergence, LINEAR, CONFIG, rule, 180_000, lambda block: None)

    plans = [plan(0.02), plan(0.5)]
    assert min(plans[0]) < min(plans[1]) and divergence(plans[0]) < divergence(plans[1])
    assert plan(0.02, 0.5) == plan(0.5, 0.02) == plans[0]


def test_a_plan_that_cannot_meet_the_limit_is_left_out() -> None:
    """Only the last block may be pruned for nothing, and its tokens are too few."""

    def divergence(keep: Mapping[int, float]) -> float:
        return 0.0 if set(keep) == {11} else 0.1

    def plan(*allowances: float) -> dict[int, float]:
        rule = replace(RULE, max_divergence=allowances)
        return insert_selectors(divergence, LINEAR, CONFIG, rule, 180_000, lambda block: None)

    with pytest.raises(ValueError, match=r"limit must be in \d+\.\.\d+ cycles"):
        plan(0.05)
    assert plan(0.05, 0.5) == plan(0.5)


def test_nothing_to_insert_is_refused() -> None:
    with pytest.raises(ValueError, match="max_divergence must allow a selector"):
        insert(cost=9.0, limit=150_000)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("deit_*.toml")), ids=lambda path: path.stem)
def test_plans_of_the_repository_load(path: Path) -> None:
    plan = load_plan(path)
    assert PruningPlan.from_dict(plan.to_dict()) == plan


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"speed": 1}, "unknown training field 'speed'"),
        ({"limits": [1, 2]}, "limits must be falling positive numbers of cycles"),
        ({"held_out": 0}, "held_out must be"),
        ({"insertion": {"first_block": 0, "max_divergence": [0.1], "merge_below": 0.1}}, "first_block must be"),
        ({"insertion": {"first_block": 3, "max_divergence": [2], "merge_below": 0.1}}, "max_divergence must be"),
        ({"warm_start": {"epochs": 1}}, "incomplete"),
        ({"recipe": {"batch": 1}}, "unknown recipe field 'batch'"),
    ],
)
def test_wrong_plans_are_refused(fields: dict[str, Any], message: str) -> None:
    values = load_plan(CONFIGS / "deit_tiny_heatvit.toml").to_dict()
    with pytest.raises(ValueError, match=message):
        PruningPlan.from_dict(values | fields)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(ValueError, match=r"settings must be a .json or .toml file that exists, not 'none.toml'"):
        load_plan(Path("none.toml"))
