"""Tiling, column splits and allocation.

Testpoints: transfer sizes below and above a 64-byte word; channel positions of padded heads; selector groups that fill
words, that need several heads, and that fall back to one padded group; feature rows interleave local and pooled;
column runs cover a layer once, at tile boundaries, inside both rings, halves where they can, about equal; a column
tile that fits only the whole ring; one that does not fit; first-fit reuse and peak; ring order, wrap and refusal.
"""

import pytest

from hw.allocate import Allocator, Ring
from hw.tiling import Channels, SelectorTiling, ceil_div, head_channels, round_up, split_columns, transfer_words
from quant.config import NetworkConfig
from tests.programs import array


def topology(heads, dim):
    """Return a network of `heads` heads of `dim` channels."""
    return NetworkConfig(8, 4, 1, 10, heads * dim, 1, heads, 16)


def test_rounding():
    assert [ceil_div(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
    assert [round_up(n, 4) for n in (0, 1, 4, 5)] == [0, 4, 4, 8]


@pytest.mark.parametrize(
    ("words", "word_bytes", "expected"), [(1, 8, 8), (9, 8, 16), (3, 64, 3), (3, 256, 3), (0, 8, 0)]
)
def test_transfers_are_whole_blocks(words, word_bytes, expected):
    assert transfer_words(words, word_bytes) == expected


def test_heads_start_words():
    assert head_channels(topology(2, 12), 8) == Channels((*range(12), *range(16, 28)), 32)
    assert head_channels(topology(2, 12), 8).words(8) == 4
    assert head_channels(topology(2, 12), 4) == Channels.dense(24)


@pytest.mark.parametrize(
    ("heads", "dim", "depth", "groups", "half_words", "quarter_words"),
    [
        (3, 64, 8, 3, 4, 2),  # DeiT-Tiny: every head by itself
        (4, 16, 8, 2, 2, 1),  # pairs of heads make whole words
        (6, 4, 2, 3, 2, 1),
        (3, 12, 4, 1, 5, 3),  # nothing fits: one group, padded
        (1, 8, 8, 1, 1, 1),
    ],
)
def test_selector_groups(heads, dim, depth, groups, half_words, quarter_words):
    tiling = SelectorTiling.of(topology(heads, dim), depth)
    assert (tiling.groups, tiling.half_words, tiling.quarter_words) == (groups, half_words, quarter_words)
    assert tiling.groups * tiling.heads == heads


def test_feature_rows_interleave_local_and_pooled():
    tiling = SelectorTiling.of(topology(4, 16), 8)  # two groups of two heads, 8 channels a head
    assert tiling.local == Channels((*range(16), *range(32, 48)), 64)
    assert tiling.pooled.positions == (*range(16, 32), *range(48, 64))
    assert tiling.joined == Channels((*range(8), *range(16, 24), *range(8, 16), *range(24, 32)), 32)
    assert tiling.token1.positions == tuple(range(32))
    assert tiling.token2.positions == tuple(range(16))


def test_padded_group_keeps_its_heads_dense():
    tiling = SelectorTiling.of(topology(3, 12), 4)
    assert tiling.local.positions == tuple(range(18)) and tiling.local.width == 40
    assert tiling.pooled.positions == tuple(range(20, 38))
    assert tiling.token2 == Channels(tuple(range(9)), 12)


@pytest.mark.parametrize(
    ("columns", "depth_words", "weight_words", "param_words", "expected"),
    [
        (40, 4, 1000, 512, [(0, 40)]),
        (40, 4, 24, 512, [(0, 24), (24, 16)]),  # three column tiles in half of the ring
        (56, 4, 40, 512, [(0, 32), (32, 24)]),  # five of seven fit in half: two runs of about the same size
        (20, 4, 6, 512, [(0, 8), (8, 8), (16, 4)]),  # one column tile fits the ring, not half of it
        (64, 1, 1000, 16, [(0, 32), (32, 32)]),  # parameters decide: four column tiles in half of the ring
    ],
)
def test_columns_are_split_to_fit(columns, depth_words, weight_words, param_words, expected):
    config = array((2, 8, 4), param_words=param_words)
    runs = split_columns("fc", columns, depth_words, config, weight_words)
    assert [(run.first, run.count) for run in runs] == expected


def test_column_tile_beyond_the_ring_is_refused():
    config = array((2, 8, 4), weight_words=100)
    message = "weight_words must be at least 107: one column tile of fc takes 27 words and 20 of 100 are left"
    with pytest.raises(ValueError, match=message):
        split_columns("fc", 8, 27, config, 20)


def test_allocator_takes_the_first_gap():
    allocator = Allocator()
    first, second, third = allocator.take(4), allocator.take(6), allocator.take(2)
    assert (first, second, third, allocator.peak) == (0, 4, 10, 12)
    allocator.release(second)
    assert allocator.take(7) == 12
    assert allocator.take(6) == 4
    assert allocator.peak == 19
    allocator.release(first)
    assert allocator.take(3) == 0


def test_ring_is_first_in_first_out():
    ring = Ring(100, 10)
    assert (ring.take(4), ring.take(4)) == (100, 104)
    assert not ring.fits(4)  # two words at the end, none at the start
    ring.release()
    assert ring.fits(4) and not ring.fits(5)
    assert ring.take(4) == 100
    ring.release()
    assert ring.take(2) == 104  # behind the last run, not at the lowest address
    assert not ring.fits(11)
