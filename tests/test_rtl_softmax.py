"""SOFTMAX and UNIFORM engine, bit for bit against quant.approx.softmax_rows and row_scale.

Testpoints: every distance 0..65535 class of the exponential (whole part, fraction, saturation, underflow); live = 1,
live not a multiple of R or K, a full tensor; scores beyond live above the peak; equal, smallest and largest scores;
pauses on every port; SOFTMAX and UNIFORM back to back; strides; UNIFORM with live 1, 2 and more than one word;
nothing written outside.
"""

import numpy as np
import pytest

from hw.config import AccelConfig
from hw.isa import Descriptor, Opcode
from hw.rtl.softmax import Softmax
from quant.approx import row_scale, softmax_rows
from tests.rtl_streams import unpack_word
from tests.rtl_vector import pack_rows, run_engine

CONFIGS = {
    "2x2": AccelConfig(2, 4, 2, act_words=256, wide_words=256, weight_words=16, param_words=64, max_tokens=16),
    "2x4": AccelConfig(2, 8, 4, act_words=256, wide_words=256, weight_words=16, param_words=64, max_tokens=64),
    "4x16": AccelConfig(4, 16, 16, act_words=256, wide_words=256, weight_words=16, param_words=64, max_tokens=256),
}
MULT, SHIFT = 54321, 9


def scale_entries(sums, lanes):
    """Return the row-scale word (mult u16, shift u6) of each lane for these sums."""
    mult_u16, shift = row_scale(np.asarray(sums, dtype=np.int64), MULT, SHIFT)
    return [int(mult_u16[lane]) | int(shift[lane]) << 16 for lane in range(lanes)]


def check_softmax(config, tensors_i16, live, *, pause=0.0):
    """Run one SOFTMAX per tensor (rows, columns >= live, beyond which scores are noise) and compare all results."""
    words, tiles = -(-live // config.depth), -(-live // config.rows)
    wide, commands = {}, []
    for index, scores_i16 in enumerate(tensors_i16):
        base, stride = 7 + index * tiles * (words + 1), words + 1
        wide |= pack_rows(scores_i16, config, base, stride, bits=16, words=words)
        commands.append(
            Descriptor(
                Opcode.SOFTMAX,
                src_base=base,
                src_stride=stride,
                dst_base=base + 3,
                dst_stride=stride,
                row_base=index * tiles,
                mult=MULT,
                shift=SHIFT,
            )
        )
    written = run_engine(Softmax(config), commands, inputs={"live": live}, wide=wide, pause=pause)
    for index, scores_i16 in enumerate(tensors_i16):
        valid = np.arange(scores_i16.shape[1]) < live
        expected, sums = softmax_rows(scores_i16, valid)
        for tile in range(tiles):
            rows = [
                unpack_word(
                    written["act"].pop(commands[index].dst_base + tile * (words + 1) + w),
                    8,
                    config.rows * config.depth,
                    is_signed=False,
                ).reshape(config.rows, config.depth)
                for w in range(words)
            ]
            got = np.concatenate(rows, axis=1)
            first, used = tile * config.rows, min(config.rows, live - tile * config.rows)
            assert got[:used, :live].tolist() == expected[first : first + used, :live].tolist()
            assert not got[:, live:].any()
            scales = unpack_word(written["row_scale"].pop(index * tiles + tile), 22, config.rows, is_signed=False)
            assert scales[:used].tolist() == scale_entries(sums[first : first + used], used)
    assert not written["act"] and not written["row_scale"]


@pytest.mark.parametrize("pause", [0.0, 0.4])
@pytest.mark.parametrize(
    ("name", "live"), [("2x2", 1), ("2x2", 3), ("2x2", 16), ("2x4", 5), ("2x4", 8), ("4x16", 17), ("4x16", 6)]
)
def test_softmax_matches_golden(name: str, live: int, pause: float) -> None:
    config, rng = CONFIGS[name], np.random.default_rng(live)
    columns = -(-live // config.depth) * config.depth
    narrow = rng.integers(-600, 600, (live, columns))
    widest = rng.integers(-32768, 32768, (live, columns))
    widest[:, live:] = 32767
    check_softmax(config, [narrow, widest], live, pause=pause)


def test_corner_scores_match_golden() -> None:
    config, live = CONFIGS["2x4"], 7
    column = np.arange(8)
    rows = [np.full(8, -32768), np.full(8, 32767), np.zeros(8), np.where(column == 6, 32767, -32768)]
    rows += [-256 * column, 255 - 37 * column, np.where(column < 7, -32768 + column, 32767)]
    check_softmax(config, [np.stack(rows).astype(np.int64)], live)


def test_every_fraction_and_whole_part() -> None:
    config, live = CONFIGS["4x16"], 256
    distance = np.arange(live)[None, :] + 256 * np.arange(12)[:, None]
    scores_i16 = np.zeros((live, live), dtype=np.int64)
    scores_i16[:12] = 1000 - distance
    scores_i16[:, 0] = 1000
    config = AccelConfig(4, 16, 16, act_words=4096, wide_words=4096, weight_words=16, param_words=64, max_tokens=256)
    check_softmax(config, [scores_i16], live)


@pytest.mark.parametrize("pause", [0.0, 0.5])
@pytest.mark.parametrize(("name", "live"), [("2x2", 1), ("2x2", 2), ("2x4", 9), ("4x16", 256)])
def test_uniform_matches_its_definition(name: str, live: int, pause: float) -> None:
    config, words = CONFIGS[name], -(-live // CONFIGS[name].depth)
    tiles = -(-live // config.rows)
    commands = [
        Descriptor(Opcode.UNIFORM, dst_base=base, row_base=row, mult=MULT, shift=SHIFT)
        for base, row in ((5, tiles), (90, 0))
    ]
    written = run_engine(Softmax(config), commands, inputs={"live": live}, wide={}, pause=pause)
    column = np.arange(words * config.depth)
    expected = ((column > 0) & (column < live)).astype(int)
    for command in commands:
        for w in range(words):
            lanes = unpack_word(written["act"].pop(command.dst_base + w), 8, config.act_bytes, is_signed=False)
            part = expected[w * config.depth : (w + 1) * config.depth].tolist()
            assert lanes.reshape(config.rows, config.depth).tolist() == [part] * config.rows
        for tile in range(tiles):
            scales = unpack_word(written["row_scale"].pop(command.row_base + tile), 22, config.rows, is_signed=False)
            assert scales.tolist() == scale_entries([live - 1] * config.rows, config.rows)
    assert not written["act"] and not written["row_scale"]


def test_uniform_and_softmax_alternate() -> None:
    config, live = CONFIGS["2x4"], 3
    scores_i16 = np.array([[1, 2, 3, 0], [9, 900, -900, 0], [5, 5, 5, 0]], dtype=np.int64)
    wide = pack_rows(scores_i16, config, 0, 1, bits=16)
    softmax = Descriptor(Opcode.SOFTMAX, src_stride=1, dst_stride=1, mult=MULT, shift=SHIFT)
    uniform = Descriptor(Opcode.UNIFORM, dst_base=40, row_base=9, mult=MULT, shift=SHIFT)
    written = run_engine(Softmax(config), [uniform, softmax, uniform, softmax], inputs={"live": live}, wide=wide)
    expected, sums = softmax_rows(scores_i16, np.arange(4) < live)
    got = [unpack_word(written["act"][tile], 8, 8, is_signed=False).reshape(2, 4) for tile in range(2)]
    assert np.concatenate(got)[:live].tolist() == expected.tolist()
    assert unpack_word(written["act"][40], 8, 8, is_signed=False).tolist() == [0, 1, 1, 0] * 2
    scales = {
        address: unpack_word(word, 22, 2, is_signed=False).tolist() for address, word in written["row_scale"].items()
    }
    assert scales[0] == scale_entries(sums[:2], 2) and scales[1][:1] == scale_entries(sums[2:], 1)
    assert scales[9] == scales[10] == scale_entries([live - 1] * 2, 2) and len(scales) == 4
