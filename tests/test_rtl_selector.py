"""SELECT engine, bit for bit against quant.approx.keep_scores and the selection rule.

Testpoints: every decision and score, package weight sum and count; CLS always kept; a former package never kept;
importances all zero; largest scores and importances; thresholds 0, 65535, a score and the next one (ties);
live 1, not a multiple of R, full; H below, equal to, above and not a multiple of K, noise in the channels beyond H;
pauses; back-to-back commands; the cycles of hw.unit_cycles, limited by the division and by the heads.
"""

import numpy as np
import pytest

from hw.config import AccelConfig
from hw.isa import Descriptor, Opcode
from hw.memory_model import MemoryModel
from hw.rtl.selector import Select
from hw.unit_cycles import Tokens, unit_work
from quant.approx import keep_scores
from quant.layers import CLS_SCORE
from tests.rtl_vector import Harness, cycles_until, pack_rows, run_engine

CONFIGS = {
    "2x2": AccelConfig(2, 4, 2, act_words=256, wide_words=256, weight_words=16, param_words=64, max_tokens=16),
    "2x4": AccelConfig(2, 8, 4, act_words=256, wide_words=256, weight_words=16, param_words=64, max_tokens=16),
    "4x8": AccelConfig(4, 8, 8, act_words=256, wide_words=256, weight_words=16, param_words=64, max_tokens=32),
}


def expected_of(token_u8, head_u8, threshold, has_package):
    """Return (score, is_kept, pruned count, weight sum) of the selection rule."""
    score_u16 = keep_scores(token_u8, head_u8)
    score_u16[0] = CLS_SCORE
    is_kept = score_u16 >= threshold
    if has_package:
        is_kept[-1] = False
    is_kept[0] = True
    return score_u16.tolist(), is_kept.tolist(), int((~is_kept).sum()), int((score_u16[~is_kept] >> 8).sum())


def check(config, token_u8, head_u8, thresholds, *, has_package=False, pause=0.0):
    """Run one SELECT per threshold on the same scores (live, H) and compare every decision."""
    live, heads = token_u8.shape
    words = -(-heads // config.depth)
    noise = np.random.default_rng(1).integers(0, 256, (live, words * config.depth))
    act = {}
    for base, scores_u8 in ((11, token_u8), (130, head_u8)):
        padded = noise.copy()
        padded[:, :heads] = scores_u8
        act |= pack_rows(padded, config, base, words + 1, bits=8)
    commands = [
        Descriptor(
            Opcode.SELECT,
            src_base=11,
            src_stride=words + 1,
            aux_base=130,
            aux_stride=words + 1,
            heads=heads,
            threshold=threshold,
        )
        for threshold in thresholds
    ]
    engine, decisions, verdicts = Select(config), [], []

    async def watch(ctx):
        while True:
            _, _, decide, decision, done, verdict = await ctx.tick().sample(
                engine.decide, engine.decision, engine.done, engine.verdict
            )
            if decide:
                decisions.append((decision.row_tile, [(lane.score, lane.is_kept) for lane in decision.decisions]))
            if done:
                verdicts.append((verdict.pruned, verdict.weight_sum))

    inputs = {"live": live, "has_package": has_package}
    run_engine(engine, commands, inputs=inputs, watchers=[watch], act=act, pause=pause)
    tiles = -(-live // config.rows)
    assert [tile for tile, _ in decisions] == list(range(tiles)) * len(thresholds)
    for index, threshold in enumerate(thresholds):
        lanes = [lane for _, word in decisions[index * tiles : (index + 1) * tiles] for lane in word][:live]
        score_u16, is_kept, pruned, weight_sum = expected_of(token_u8, head_u8, threshold, has_package)
        assert [score for score, _ in lanes] == score_u16
        assert [bool(kept) for _, kept in lanes] == is_kept
        assert verdicts[index] == (pruned, weight_sum)


@pytest.mark.parametrize("pause", [0.0, 0.4])
@pytest.mark.parametrize("has_package", [False, True])
@pytest.mark.parametrize(("name", "live", "heads"), [("2x2", 5, 3), ("2x4", 16, 4), ("4x8", 9, 3), ("4x8", 32, 12)])
def test_random_scores_match_golden(name: str, live: int, heads: int, has_package: bool, pause: float) -> None:
    rng = np.random.default_rng(live)
    token_u8, head_u8 = rng.integers(0, 256, (2, live, heads))
    check(CONFIGS[name], token_u8, head_u8, [32768, 20000], has_package=has_package, pause=pause)


def test_thresholds_at_and_around_a_score() -> None:
    rng = np.random.default_rng(17)
    token_u8, head_u8 = rng.integers(0, 256, (2, 6, 3))
    score = int(keep_scores(token_u8, head_u8)[3])
    check(CONFIGS["2x4"], token_u8, head_u8, [score, score + 1, score - 1, 0, 65535])


def test_zero_and_full_importance() -> None:
    rng = np.random.default_rng(19)
    token_u8 = rng.integers(0, 256, (8, 6))
    head_u8 = rng.integers(0, 256, (8, 6))
    head_u8[1::2] = 0
    token_u8[2] = head_u8[2] = 255
    token_u8[4] = 0
    token_u8[5] = 255
    head_u8[6] = [0, 0, 0, 1, 0, 0]
    check(CONFIGS["2x4"], token_u8, head_u8, [0, 30000, 65281, 65280])


@pytest.mark.parametrize("has_package", [False, True])
def test_largest_sums(has_package: bool) -> None:
    token_u8 = np.full((16, 255), 255, dtype=np.int64)
    act = AccelConfig(4, 16, 16, act_words=256, wide_words=256, weight_words=16, param_words=64, max_tokens=16)
    check(act, token_u8, token_u8, [65535], has_package=has_package)


def test_single_token_is_kept() -> None:
    one = np.ones((1, 3), dtype=np.int64)
    check(CONFIGS["2x4"], one, one, [0, 65535])


@pytest.mark.parametrize(("name", "live", "heads"), [("4x8", 3, 3), ("4x8", 32, 3), ("4x8", 29, 12), ("2x2", 7, 9)])
def test_cycles_are_those_of_the_model(name: str, live: int, heads: int) -> None:
    config = CONFIGS[name]
    engine = Select(config)
    harness = Harness(engine, memories={"act": [0] * config.act_words}, written={})
    command = Descriptor(Opcode.SELECT, src_stride=5, aux_stride=5, heads=heads, threshold=1)
    work = unit_work(command, Tokens(live), config, MemoryModel())

    async def testbench(ctx):
        ctx.set(engine.live, live)
        await harness.issue(ctx, command)
        assert await cycles_until(ctx, engine.done) == work.cycles

    harness.run(testbench)
