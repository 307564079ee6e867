"""BEGIN and COMPACT engine, bit for bit against the selection rule and quant.approx.package_token.

Testpoints: residual rows, package row, token list, live, package flag, token-count registers; nothing pruned (no write
at all), all pruned, only the last or only the first patch pruned, a package merged alone; weights all zero, one,
largest; rows of largest magnitude, with both forms of multipliers; live 1, 2, not a multiple of R, full; one and
several channel words; stride; pauses on reads and writes; a chain of selections; BEGIN clears; BEGIN beyond max_tokens
and COMPACT beyond the last register fault; reset state; the cycles of hw.unit_cycles, whichever tokens leave: limited
by the rows, the package, its division and the token list.
"""

import numpy as np
import pytest

from hw.config import AccelConfig
from hw.isa import Descriptor, Opcode
from hw.memory_model import MemoryModel
from hw.regmap import NUM_TOKEN_REGISTERS
from hw.rtl import dsp48e2
from hw.rtl.compact import Compact
from hw.rtl.packed_dot import Multiplier
from hw.unit_cycles import Tokens, unit_work
from quant.approx import package_token
from quant.reference import PACKAGE_TOKEN
from tests.rtl_dsp48e2 import Dsp48e2Model
from tests.rtl_streams import unpack_word
from tests.rtl_vector import Harness, cycles_until, pack_rows

CONFIGS = {
    "2x2": AccelConfig(2, 4, 2, act_words=16, wide_words=256, weight_words=16, param_words=16, max_tokens=16),
    "2x4": AccelConfig(2, 8, 4, act_words=16, wide_words=256, weight_words=16, param_words=16, max_tokens=15),
    "4x8": AccelConfig(4, 8, 8, act_words=16, wide_words=256, weight_words=16, param_words=16, max_tokens=32),
    "8x16": AccelConfig(8, 16, 16, act_words=16, wide_words=256, weight_words=16, param_words=16, max_tokens=64),
}
BASE = 5


def compact_golden(x_i16, tokens_u16, score_u16, is_kept):
    """Return (residual, token list) after the selection: kept rows in order, then the package of the others."""
    if is_kept.all():
        return x_i16, tokens_u16
    package_i16 = package_token(x_i16, score_u16, ~is_kept)
    return np.vstack([x_i16[is_kept], package_i16]), [*np.array(tokens_u16)[is_kept].tolist(), PACKAGE_TOKEN]


def rows_of(memory, config, num_rows, channels, stride):
    """Return the first rows of the tensor at BASE as (num_rows, channels)."""
    rows = np.zeros((num_rows, channels), dtype=np.int64)
    for t in range(num_rows):
        for w in range(channels // config.depth):
            word = memory[BASE + t // config.rows * stride + w]
            values = unpack_word(word, 16, config.rows * config.depth, is_signed=True).reshape(config.rows, -1)
            rows[t, w * config.depth : (w + 1) * config.depth] = values[t % config.rows]
    return rows


def check(config, x_i16, selections, *, pause=0.0, multiplier=Multiplier.BEHAVIOURAL):
    """BEGIN, then one COMPACT per selection (score, is_kept), comparing the whole state after each."""
    live, channels = x_i16.shape
    words = channels // config.depth
    stride = words + 2
    engine = Compact(config, multiplier)
    memory = pack_rows(x_i16, config, BASE, stride, bits=16)
    harness = Harness(engine, memories={"wide": memory}, written={"wide": memory}, pause=pause)

    async def testbench(ctx):
        expected_i16, tokens, counts = x_i16, list(range(live)), [0] * NUM_TOKEN_REGISTERS
        assert ctx.get(engine.live) == 0
        await harness.execute(ctx, Descriptor(Opcode.BEGIN, rows=live))
        assert ctx.get(engine.live) == live and not ctx.get(engine.has_package)
        for index, (score_u16, is_kept) in enumerate(selections):
            await decide(ctx, engine, config, score_u16, is_kept)
            command = Descriptor(Opcode.COMPACT, src_base=BASE, src_stride=stride, src_words=words, index=index)
            await harness.execute(ctx, command)
            expected_i16, tokens = compact_golden(expected_i16, tokens, score_u16, is_kept)
            counts[index] = len(tokens)
            assert rows_of(memory, config, len(tokens), channels, stride).tolist() == expected_i16.tolist()
            assert await read_tokens(ctx, engine, len(tokens)) == tokens
            assert ctx.get(engine.live) == len(tokens)
            assert ctx.get(engine.has_package) == (not is_kept.all())
            assert list(ctx.get(engine.token_counts)) == counts
        await harness.execute(ctx, Descriptor(Opcode.BEGIN, rows=2))
        assert await read_tokens(ctx, engine, 2) == [0, 1]
        assert ctx.get(engine.live) == 2 and not ctx.get(engine.has_package)
        assert list(ctx.get(engine.token_counts)) == counts

    harness.run(testbench)


async def decide(ctx, engine, config, score_u16, is_kept):
    """Hand the engine what SELECT decided about each live token; lanes beyond are kept."""
    for tile in range(-(-len(is_kept) // config.rows)):
        lanes = [
            {"is_kept": bool(is_kept[t]), "score": int(score_u16[t])} if t < len(is_kept) else {"is_kept": 1}
            for t in range(tile * config.rows, (tile + 1) * config.rows)
        ]
        ctx.set(engine.decision, {"row_tile": tile, "decisions": lanes})
        ctx.set(engine.decide, 1)
        await ctx.tick()
    ctx.set(engine.decide, 0)
    weight_sum = int((score_u16[~is_kept] >> 8).sum())
    ctx.set(engine.verdict, {"pruned": int((~is_kept).sum()), "weight_sum": weight_sum})


async def read_tokens(ctx, engine, count):
    """Read the token list through its port, one request per cycle."""
    tokens = []
    for index in range(count + 3):
        ctx.set(engine.token.request.valid, index < count)
        ctx.set(engine.token.request.payload, index % count)
        _, _, valid, token = await ctx.tick().sample(engine.token.response_valid, engine.token.response)
        if valid:
            tokens.append(token)
    return tokens


def selection(rng, live, keep_probability, *, has_package=False, top=65281):
    score_u16 = rng.integers(0, top, live)
    is_kept = rng.random(live) < keep_probability
    is_kept[0] = True
    score_u16[0] = 65535
    if has_package:
        is_kept[-1] = False
    return score_u16, is_kept


def rows_i16(rng, live, channels):
    return rng.integers(-32768, 32768, (live, channels))


@pytest.mark.parametrize("pause", [0.0, 0.4])
@pytest.mark.parametrize(
    ("name", "live", "words"),
    [("2x2", 16, 3), ("2x2", 2, 1), ("2x4", 15, 2), ("4x8", 32, 2), ("4x8", 9, 1), ("8x16", 61, 3)],
)
def test_chain_of_selections_matches_golden(name: str, live: int, words: int, pause: float) -> None:
    config, rng = CONFIGS[name], np.random.default_rng(live)
    selections, count = [], live
    for index in range(3):
        score_u16, is_kept = selection(rng, count, 0.7, has_package=index > 0 and not selections[-1][1].all())
        selections.append((score_u16, is_kept))
        count = count if is_kept.all() else int(is_kept.sum()) + 1
    check(config, rows_i16(rng, live, words * config.depth), selections, pause=pause)


@pytest.mark.parametrize("top", [1, 256, 512, 65281])
@pytest.mark.parametrize("keep", ["none", "all", "but last", "but first"])
def test_corner_decisions(keep: str, top: int) -> None:
    config, live = CONFIGS["2x4"], 7
    rng = np.random.default_rng(top)
    score_u16, is_kept = selection(rng, live, {"none": 0.0}.get(keep, 1.0), top=top)
    if keep == "but last":
        is_kept[-1] = False
    if keep == "but first":
        is_kept[1] = False
    check(config, rows_i16(rng, live, 8), [(score_u16, is_kept)])


@pytest.mark.parametrize("multiplier", list(Multiplier))
def test_largest_rows_and_weights(multiplier: Multiplier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dsp48e2, "Instance", Dsp48e2Model)
    config = AccelConfig(4, 8, 8, act_words=16, wide_words=256, weight_words=16, param_words=16, max_tokens=256)
    x_i16 = np.full((256, 8), -32768, dtype=np.int64)
    x_i16[:, 1] = 32767
    is_kept = np.arange(256) == 0
    check(config, x_i16, [(np.where(is_kept, 65535, 65280), is_kept)], multiplier=multiplier)


def test_single_token() -> None:
    check(CONFIGS["2x4"], np.arange(8)[None, :], [(np.array([65535]), np.array([True]))])


@pytest.mark.parametrize(
    "command",
    [Descriptor(Opcode.BEGIN, rows=16), Descriptor(Opcode.COMPACT, src_words=1, index=NUM_TOKEN_REGISTERS)],
)
def test_list_or_register_that_does_not_exist_faults(command: Descriptor) -> None:
    engine = Compact(CONFIGS["2x4"])
    harness = Harness(engine, memories={"wide": {}}, written={"wide": {}})

    async def testbench(ctx):
        await harness.execute(ctx, Descriptor(Opcode.BEGIN, rows=15))
        assert not ctx.get(engine.fault)
        ctx.set(engine.verdict, {"pruned": 1})
        await harness.issue(ctx, command)
        for _ in range(30):
            _, _, done, valid = await ctx.tick().sample(engine.done, engine.wide_addresses.valid)
            assert not done and not valid
        assert ctx.get(engine.fault)

    harness.run(testbench)


@pytest.mark.parametrize("keep", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("name", "live", "words"),
    [("2x2", 16, 3), ("2x4", 2, 1), ("2x4", 13, 2), ("4x8", 32, 4), ("4x8", 32, 2), ("8x16", 64, 1), ("8x16", 64, 4)],
)
def test_cycles_are_those_of_the_model(name: str, live: int, words: int, keep: float) -> None:
    config, rng = CONFIGS[name], np.random.default_rng(live)
    score_u16, is_kept = selection(rng, live, keep)
    is_kept[-1] = False
    memory = pack_rows(rows_i16(rng, live, words * config.depth), config, BASE, words, bits=16)
    engine = Compact(config)
    harness = Harness(engine, memories={"wide": memory}, written={"wide": memory})
    command = Descriptor(Opcode.COMPACT, src_base=BASE, src_stride=words, src_words=words)
    work = unit_work(command, Tokens(live, is_merging=True), config, MemoryModel())

    async def testbench(ctx):
        await harness.execute(ctx, Descriptor(Opcode.BEGIN, rows=live))
        await decide(ctx, engine, config, score_u16, is_kept)
        await harness.issue(ctx, command)
        assert await cycles_until(ctx, engine.done) == work.cycles

    harness.run(testbench)
