"""Fuzzing: what is drawn, how results are compared and added up, and a few whole runs on the RTL.

Testpoints: the same seed draws the same cases, another seed others; drawn accelerators are legal, varied and bounded;
every drawn network fits; thresholds keep all, prune all and tie as asked; the machine agrees on drawn cases; a machine
that differs is counted and named; a hang is told from a mismatch; sums; finished runs are reused; RTL runs agree.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heatvit import fuzz
from heatvit.fuzz import Thresholds, draw_case, draw_config, draw_pool
from hw.config import CONFIGS, AccelConfig
from hw.isa import ErrorCode
from model.config import NETWORKS
from quant.network import IntegerNetwork
from quant.reference import run as run_golden
from quant.synthetic import random_network, random_picture
from sim.job import Outcome
from sim.machine import Machine

SEED = 11


@pytest.fixture(scope="module")
def network() -> IntegerNetwork:
    return random_network(np.random.default_rng(4), NETWORKS["test_tiny"])


def same_network(one: IntegerNetwork, other: IntegerNetwork) -> bool:
    return one.config == other.config and np.array_equal(one.patch_embed.weight_i8, other.patch_embed.weight_i8)


def test_pool_is_varied_bounded_and_repeatable() -> None:
    pool = draw_pool(SEED, 300)
    assert pool == draw_pool(SEED, 295) and len(pool) == 30 and pool != draw_pool(SEED + 1, 300)
    assert max(config.macs for config in pool) <= fuzz.MAX_MACS
    for name in (
        "rows",
        "columns",
        "depth",
        "axi_bytes",
        "axi_ports",
        "act_words",
        "weight_words",
        "max_tokens",
        "pictures",
    ):
        assert len({getattr(config, name) for config in pool}) >= 2, name


def test_cases_are_repeatable_and_differ() -> None:
    config = draw_config(np.random.default_rng(2))
    first, again, second = draw_case(SEED, 0, config), draw_case(SEED, 0, config), draw_case(SEED, 1, config)
    assert same_network(first.network, again.network) and not same_network(first.network, second.network)
    assert np.array_equal(first.pictures_u8, again.pictures_u8) and first.stall_seed == again.stall_seed
    assert [draw_case(SEED, run, config).thresholds for run in range(4)] == list(Thresholds)
    batches = {draw_case(SEED, run, replace(config, pictures=4)).batch for run in range(8)}
    assert 1 in batches and max(batches) > 1


def test_thresholds_do_what_they_say(network: IntegerNetwork) -> None:
    rng = np.random.default_rng(0)
    picture_u8 = random_picture(rng, network.config)
    tokens = network.config.num_tokens

    def counts(thresholds: Thresholds) -> list[int]:
        return run_golden(fuzz.with_thresholds(network, thresholds, picture_u8, rng), picture_u8).num_tokens

    assert counts(Thresholds.KEEP_ALL) == [tokens, tokens]
    assert counts(Thresholds.PRUNE_ALL) == [2, 2]
    tied = fuzz.with_thresholds(network, Thresholds.TIE, picture_u8, rng)
    taps = run_golden(tied, picture_u8).taps
    for stage, selector in enumerate(tied.selectors):
        assert selector.threshold_u16 in taps[f"selectors.{stage}.keep_score"][1:]
    assert fuzz.with_thresholds(network, Thresholds.RANDOM, picture_u8, rng) is network


def test_network_that_never_fits_is_an_error() -> None:
    small = replace(CONFIGS["tiny"], act_words=16, wide_words=16)
    with pytest.raises(ValueError, match="no random network of"):
        draw_case(SEED, 0, small)


def test_compiler_errors_are_not_taken_for_misfits(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(network: IntegerNetwork, config: AccelConfig, taps: bool, pictures: int) -> None:
        raise ValueError("descriptor 3 (GEMM) must wait for descriptor 2")

    monkeypatch.setattr(fuzz, "compile_network", broken)
    with pytest.raises(ValueError, match="descriptor 3"):
        draw_case(SEED, 0, CONFIGS["tiny"])


@pytest.mark.parametrize("run", range(8))
def test_machine_agrees_on_drawn_cases(run: int) -> None:
    case = draw_case(SEED, run, draw_config(np.random.default_rng([SEED, run])))
    comparisons = fuzz.compare_machine(case)
    assert len(comparisons) == len(case.pictures_u8)
    assert all(comparison.layers > 10 and not comparison.failure for comparison in comparisons)
    assert sum(comparison.mismatches for comparison in comparisons) == 0


def test_wrong_machine_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    case = draw_case(SEED, 1, CONFIGS["tiny"])
    right = Machine.run_pictures

    def wrong(self: Machine, *arguments: Any, **options: Any) -> Any:
        result, output = right(self, *arguments, **options)
        return result, bytes([output[0] ^ 1]) + output[1:]  # the first logit

    monkeypatch.setattr(Machine, "run_pictures", wrong)
    comparisons = fuzz.compare_machine(case)
    assert comparisons[0].mismatches > 0
    assert "head" in str(comparisons[0].divergence) or "logits" in str(comparisons[0].divergence)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome(), False),
        (Outcome(error="stopped", is_hang=True), True),
        (Outcome(error="watchdog", error_code=ErrorCode.WATCHDOG), True),
        (Outcome(error="address", error_code=ErrorCode.BAD_ADDRESS), False),
    ],
)
def test_hangs_are_told_from_errors(outcome: Outcome, expected: bool) -> None:
    assert fuzz._is_hang(outcome) is expected


def fake_result(**changes: Any) -> dict[str, Any]:
    """A run of run_case in which everything agreed."""
    return {
        "thresholds": "tie",
        "stall_seed": None,
        "batch": 2,
        "pictures": 2,
        "token_counts": [[17, 9], [17, 12]],
        "layers_compared": 100,
        "rtl_mismatches": 0,
        "machine_mismatches": 0,
        "hangs": 0,
        **changes,
    }


def test_finished_runs_are_reused_and_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []

    def run_case(case: fuzz.Case, work: Path, core_of: Any) -> dict[str, Any]:
        ran.append(case)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return fake_result(hangs=int(len(ran) == 2), stall_seed=case.stall_seed)

    monkeypatch.setattr(fuzz, "run_case", run_case)
    monkeypatch.setattr(fuzz, "source_digest", lambda packages: "the sources of this test")
    reports: list[tuple[str, int, int]] = []
    with pytest.raises(KeyboardInterrupt):
        fuzz.fuzz(SEED, 4, tmp_path, lambda *values: reports.append(values))
    result = fuzz.fuzz(SEED, 4, tmp_path, lambda *values: reports.append(values))
    assert len(ran) == 5 and reports[-1] == ("fuzz", 4, 4)
    assert (result["runs"], result["mismatches"], result["hangs"], result["pictures"]) == (4, 0, 1, 8)
    assert result["shared_runs"] == 4
    assert result["token_counts_seen"] == [9, 12, 17] and result["layers_compared"] == 400
    assert [failed["run"] for failed in result["failed"]] == [1]
    assert json.loads(json.dumps(result)) == result


def test_mismatches_of_machine_and_rtl_are_added() -> None:
    results = [fake_result(rtl_mismatches=2), fake_result(machine_mismatches=3), fake_result()]
    summary = fuzz.summarise_runs(SEED, [CONFIGS["tiny"]], results)
    assert summary["mismatches"] == 5 and len(summary["failed"]) == 2


@pytest.mark.slow
@pytest.mark.verilator
def test_rtl_agrees_on_random_networks(tmp_path: Path) -> None:
    result = fuzz.fuzz(SEED, 4, tmp_path, lambda *values: None)
    assert result["failed"] == [] and (result["runs"], result["mismatches"], result["hangs"]) == (4, 0, 0)
    assert len(result["token_counts_seen"]) >= 3 and result["layers_compared"] > 100
    assert all(count == 1 for count in result["thresholds"].values())
