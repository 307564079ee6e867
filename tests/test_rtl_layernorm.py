"""LAYER_NORM engine, bit for bit against quant.approx.layer_norm.

Testpoints: one row, rows not a multiple of R, rows field and live count; zero variance, smallest eps, all-minimum and
all-maximum rows, alternating extremes; gamma, beta and shift extremes; D from one word to 1024; pauses on every port;
back-to-back commands; one to many row tiles in flight; the stated period; strided tensors; nothing written outside the
rows' words.
"""

import numpy as np
import pytest

from hw.config import AccelConfig
from hw.isa import Descriptor, Opcode
from hw.rtl.layernorm import LayerNorm
from quant.approx import layer_norm
from tests.rtl_streams import pack_word, unpack_word
from tests.rtl_vector import pack_rows, run_engine

CONFIGS = {
    "2x2": AccelConfig(2, 4, 2, act_words=256, wide_words=256, weight_words=16, param_words=64, max_tokens=32),
    "2x4": AccelConfig(2, 8, 4, act_words=512, wide_words=512, weight_words=16, param_words=256, max_tokens=16),
    "4x8": AccelConfig(4, 8, 8, act_words=256, wide_words=256, weight_words=16, param_words=64, max_tokens=16),
}


def param_words(config, gamma_i16, beta_i32):
    """Return the PARAM words of gamma and beta (D,)."""
    entries = [(int(b) & 0xFFFFFFFF) | (int(g) & 0xFFFF) << 32 for g, b in zip(gamma_i16, beta_i32, strict=True)]
    return [pack_word(entries[i : i + config.depth], 64) for i in range(0, len(entries), config.depth)]


def check(config, cases, *, pause=0.0, live=None):
    """Run one command per case (x, gamma, beta, shift, eps, uses_live) back to back and compare each result."""
    wide, param, commands, results = {}, {}, [], []
    for index, (x_i16, gamma_i16, beta_i32, shift, eps, uses_live) in enumerate(cases):
        num_rows, dim = x_i16.shape
        words, tiles = dim // config.depth, -(-num_rows // config.rows)
        wide_base, wide_stride = index * 40 + 3, words + 1
        act_base, act_stride, param_base = index * 50 + 1, words + 2, index * words
        wide |= pack_rows(x_i16, config, wide_base, wide_stride, bits=16)
        param |= {param_base + w: word for w, word in enumerate(param_words(config, gamma_i16, beta_i32))}
        commands.append(
            Descriptor(
                Opcode.LAYER_NORM,
                src_base=wide_base,
                src_stride=wide_stride,
                src_words=words,
                dst_base=act_base,
                dst_stride=act_stride,
                param_base=param_base,
                dim=dim,
                shift=shift,
                addend=eps,
                rows=0 if uses_live else num_rows,
            )
        )
        results.append((act_base, act_stride, tiles, words, layer_norm(x_i16, gamma_i16, beta_i32, shift, eps)))
    live = config.max_tokens if live is None else live
    act = run_engine(LayerNorm(config), commands, inputs={"live": live}, wide=wide, param=param, pause=pause)["act"]
    for act_base, act_stride, tiles, words, expected_i8 in results:
        for i in range(tiles):
            lanes = [
                unpack_word(act.pop(act_base + i * act_stride + w), 8, config.rows * config.depth, is_signed=True)
                for w in range(words)
            ]
            rows_i8 = np.concatenate([lane.reshape(config.rows, config.depth) for lane in lanes], axis=1)
            first = i * config.rows
            used = min(config.rows, len(expected_i8) - first)
            assert rows_i8[:used].tolist() == expected_i8[first : first + used].tolist()
    assert not act


def random_case(rng, num_rows, dim, *, spread=32767, uses_live=False):
    return (
        rng.integers(-spread, spread + 1, (num_rows, dim)),
        rng.integers(-32768, 32768, dim),
        rng.integers(-(1 << 20), 1 << 20, dim),
        int(rng.integers(8, 20)),
        int(rng.integers(1, 1 << 32)),
        uses_live,
    )


@pytest.mark.parametrize("pause", [0.0, 0.4])
@pytest.mark.parametrize("name", CONFIGS)
def test_random_rows_match_golden(name: str, pause: float) -> None:
    config, rng = CONFIGS[name], np.random.default_rng(11)
    dim = 3 * config.depth
    cases = [random_case(rng, 1, dim), random_case(rng, config.rows + 1, dim, spread=300, uses_live=True)]
    check(config, cases, pause=pause, live=config.rows + 1)


@pytest.mark.parametrize("tiles", [1, 2, 3, 5, 12])
def test_overlapped_row_tiles_match_golden(tiles: int) -> None:
    config, rng = CONFIGS["2x2"], np.random.default_rng(tiles)
    cases = [random_case(rng, tiles * config.rows, 4, spread=spread) for spread in (30000, 30)]
    check(config, cases, pause=0.2)


@pytest.mark.parametrize(("words", "period"), [(1, 16), (3, 16), (12, 24), (24, 48)])
def test_period_of_a_row_tile_is_as_stated(words: int, period: int) -> None:
    config = CONFIGS["2x2"]
    memory = dict.fromkeys(range(words), 0)
    cycles = []
    for rows in (10, 18):
        engine, done_at = LayerNorm(config), []

        async def count(ctx, engine=engine, done_at=done_at):
            cycle = 0
            while True:
                _, _, done = await ctx.tick().sample(engine.done)
                cycle += 1
                if done:
                    done_at.append(cycle)

        command = Descriptor(Opcode.LAYER_NORM, src_words=words, dim=2 * words, addend=1, rows=rows)
        run_engine(engine, [command], inputs={"live": rows}, watchers=[count], wide=memory, param=memory)
        cycles += done_at
    assert cycles[1] - cycles[0] == 4 * period


def test_corner_rows_match_golden() -> None:
    config, dim = CONFIGS["2x4"], 16
    alternating = np.where(np.arange(dim) % 2, 32767, -32768)
    x_i16 = np.stack(
        [
            np.zeros(dim),
            np.full(dim, -32768),
            np.full(dim, 32767),
            alternating,
            np.arange(dim) == 3,
            (np.arange(dim) == 5) * -32768,
        ]
    ).astype(np.int64)
    extremes = np.where(np.arange(dim) % 3, 32767, -32768)
    beta_i32 = np.where(np.arange(dim) % 5, 2147483647, -2147483648)
    for_each_shift = [(x_i16, extremes, np.zeros(dim, dtype=np.int64), shift, 1, False) for shift in (0, 1, 20, 31)]
    check(config, [*for_each_shift[:2], (x_i16, extremes, beta_i32, 31, (1 << 32) - 1, False)])
    check(config, for_each_shift[2:])


def test_widest_row_matches_golden() -> None:
    config, dim = CONFIGS["2x4"], 1024
    rng = np.random.default_rng(13)
    x_i16 = np.stack([np.full(dim, -32768), np.where(np.arange(dim) < 512, -32768, 32767)]).astype(np.int64)
    check(config, [(x_i16, rng.integers(-2048, 2048, dim), rng.integers(-9999, 9999, dim), 11, 1, False)])
