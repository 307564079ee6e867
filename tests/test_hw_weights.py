"""Memory images against docs/architecture.md section 3, value by value.

Testpoints: every token value at its lane, word and depth position, int8 and int16; padding zero; unpack inverts; every
weight at its column and word; parameter fields, negative bias and gamma; placed, joined, picked layers.
"""

import numpy as np
import pytest

from hw.tiling import Channels
from hw.weights import (
    join_heads,
    pack_norm_params,
    pack_params,
    pack_tokens,
    pack_weights,
    pick,
    place_layer,
    unpack_tokens,
)
from quant.network import LinearLayer, NormLayer
from tests.programs import SHAPES, array


def linear(rng, *shape):
    """Draw a layer of the weight shape given."""
    return LinearLayer(
        rng.integers(-127, 128, shape, dtype=np.int8),
        rng.integers(-(1 << 31), 1 << 31, shape[:-1], dtype=np.int32),
        rng.integers(0, 1 << 16, shape[:-1], dtype=np.uint16),
        rng.integers(0, 48, shape[:-1], dtype=np.uint8),
    )


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
@pytest.mark.parametrize("shape", SHAPES)
def test_tokens_lie_in_lanes(shape, dtype):
    config, rng = array(shape), np.random.default_rng(1)
    info = np.iinfo(dtype)
    values = rng.integers(info.min, info.max + 1, (11, 37)).astype(dtype)
    packed = np.frombuffer(pack_tokens(values, config), dtype)
    words = -(-37 // config.depth)
    image = packed.reshape(-1, config.rows, config.depth)
    assert len(image) == -(-11 // config.rows) * words
    for (t, c), value in np.ndenumerate(values):
        assert image[t // config.rows * words + c // config.depth, t % config.rows, c % config.depth] == value
    unpacked = unpack_tokens(pack_tokens(values, config), words, np.dtype(dtype), config)
    assert unpacked.dtype == dtype
    assert (unpacked[:11, :37] == values).all()
    assert not unpacked[11:].any() and not unpacked[:, 37:].any()


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_lie_in_column_tiles(shape):
    config = array(shape)
    weight_i8 = linear(np.random.default_rng(2), 41, 21).weight_i8
    words = -(-21 // config.depth)
    image = np.frombuffer(pack_weights(weight_i8, config), np.int8).reshape(-1, config.columns, config.depth)
    assert len(image) == -(-41 // config.columns) * words
    for (column, position), value in np.ndenumerate(weight_i8):
        tile, word = column // config.columns, position // config.depth
        assert image[tile * words + word, column % config.columns, position % config.depth] == value
    assert np.abs(image.astype(int)).sum() == np.abs(weight_i8.astype(int)).sum()


def test_param_entries():
    config = array((2, 8, 4))
    layer = linear(np.random.default_rng(3), 6, 1)
    data = pack_params(layer, config)
    assert len(data) == 2 * config.param_bytes
    for column in range(6):
        entry = int.from_bytes(data[8 * column : 8 * column + 8], "little")
        expected = (int(layer.bias_i32[column]) & 0xFFFFFFFF) | int(layer.mult_u16[column]) << 32
        assert entry == expected | int(layer.shift_u8[column]) << 48
    assert not any(data[48:])


def test_norm_entries_hold_beta_and_gamma():
    gamma_i16, beta_i32 = np.array([-1, 32767, -32768, 5], np.int16), np.array([-2, 7, -(1 << 31), 0], np.int32)
    data = pack_norm_params(NormLayer(gamma_i16, beta_i32, 3, 1), array((2, 8, 4)))
    entries = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
    assert entries == [0xFFFF_FFFFFFFE, 0x7FFF_00000007, 0x8000_80000000, 0x0005_00000000]


def test_placed_layer_is_zero_between_its_channels():
    layer = linear(np.random.default_rng(4), 4, 6)
    placed = place_layer(layer, Channels((0, 1, 2, 4, 5, 6), 8), Channels((1, 2, 5, 6), 8))
    assert placed.weight_i8.shape == (8, 8)
    assert (placed.weight_i8[np.ix_([1, 2, 5, 6], [0, 1, 2, 4, 5, 6])] == layer.weight_i8).all()
    assert np.abs(placed.weight_i8.astype(int)).sum() == np.abs(layer.weight_i8.astype(int)).sum()
    for spread, values in ((placed.bias_i32, layer.bias_i32), (placed.mult_u16, layer.mult_u16)):
        assert (spread[[1, 2, 5, 6]] == values).all() and not spread[[0, 3, 4, 7]].any()
    assert (placed.shift_u8[[1, 2, 5, 6]] == layer.shift_u8).all()


def test_joined_heads_are_block_diagonal():
    layer = linear(np.random.default_rng(5), 2, 3, 4)
    joined = join_heads(layer, Channels((0, 1, 4, 5, 2, 3, 6, 7), 8))
    assert (joined.weight_i8[:3, [0, 1, 4, 5]] == layer.weight_i8[0]).all()
    assert (joined.weight_i8[3:, [2, 3, 6, 7]] == layer.weight_i8[1]).all()
    assert not joined.weight_i8[:3, [2, 3, 6, 7]].any() and not joined.weight_i8[3:, [0, 1, 4, 5]].any()
    assert (joined.bias_i32 == layer.bias_i32.reshape(-1)).all()
    assert (joined.mult_u16 == layer.mult_u16.reshape(-1)).all()
    assert (joined.shift_u8 == layer.shift_u8.reshape(-1)).all()


def test_picked_parts():
    layer = linear(np.random.default_rng(6), 4, 3, 2)
    heads = pick(layer, 1, 2)
    assert (heads.weight_i8 == layer.weight_i8[1:3]).all() and (heads.shift_u8 == layer.shift_u8[1:3]).all()
    columns = pick(linear(np.random.default_rng(6), 8, 2), 6, 2)
    assert columns.weight_i8.shape == (2, 2) and columns.bias_i32.shape == (2,)
