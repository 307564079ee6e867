"""Memory images: tokens, weights, parameters and positions packed as docs/architecture.md section 3 lays them out.

Every function returns (or reads) bytes, little endian, lane or column major, then depth.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AccelConfig
from hw.tiling import Channels, ceil_div
from quant.network import LinearLayer, NormLayer

PARAM_DTYPE = np.dtype([("bias", "<i4"), ("mult", "<u2"), ("shift", "<u2")])
"""One PARAM entry of 64 bits; gamma of a LayerNorm channel is an i16 in the bits of mult."""


def _padded(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    return np.pad(array, [(0, size - old) for size, old in zip(shape, array.shape, strict=True)])


def pack_tokens(values: NDArray[Any], config: AccelConfig) -> bytes:
    """Pack an (N, Q) int8 or int16 tensor into ACT or WIDE words: ceil(N/R) row tiles of ceil(Q/K), zero padded."""
    tiles, words = ceil_div(values.shape[0], config.rows), ceil_div(values.shape[1], config.depth)
    padded = _padded(values, (tiles * config.rows, words * config.depth))
    tiled = padded.reshape(tiles, config.rows, words, config.depth).transpose(0, 2, 1, 3)  # (tile, word, lane, K)
    return tiled.astype(values.dtype.newbyteorder("<")).tobytes()


def unpack_tokens(data: bytes, row_words: int, dtype: np.dtype[Any], config: AccelConfig) -> NDArray[Any]:
    """Inverse of pack_tokens: (row tiles * R, row_words * K) values; data holds whole row tiles."""
    words = np.frombuffer(data, dtype.newbyteorder("<")).reshape(-1, row_words, config.rows, config.depth)
    return words.transpose(0, 2, 1, 3).reshape(-1, row_words * config.depth).astype(dtype)


def pack_weights(weight_i8: NDArray[np.int8], config: AccelConfig) -> bytes:
    """Pack (out, in) weights into ceil(out/C) column tiles of ceil(in/K) WEIGHT words, zero padded."""
    tiles, words = ceil_div(weight_i8.shape[0], config.columns), ceil_div(weight_i8.shape[1], config.depth)
    padded = _padded(weight_i8, (tiles * config.columns, words * config.depth))
    return padded.reshape(tiles, config.columns, words, config.depth).transpose(0, 2, 1, 3).astype(np.int8).tobytes()


def pack_params(layer: LinearLayer, config: AccelConfig) -> bytes:
    """Pack bias, mult and shift of (out,) columns into ceil(out/K) PARAM words."""
    entries = np.zeros(len(layer.bias_i32), PARAM_DTYPE)
    entries["bias"], entries["mult"], entries["shift"] = layer.bias_i32, layer.mult_u16, layer.shift_u8
    return _pack_entries(entries, config)


def pack_norm_params(layer: NormLayer, config: AccelConfig) -> bytes:
    """Pack beta and gamma of (D,) channels into PARAM words."""
    entries = np.zeros(len(layer.beta_i32), PARAM_DTYPE)
    entries["bias"], entries["mult"] = layer.beta_i32, layer.gamma_i16.astype(np.int16).view(np.uint16)
    return _pack_entries(entries, config)


def _pack_entries(entries: NDArray[Any], config: AccelConfig) -> bytes:
    return np.pad(entries, (0, -len(entries) % config.depth)).tobytes()


def place_layer(layer: LinearLayer, inputs: Channels, outputs: Channels) -> LinearLayer:
    """Spread an (out, in) layer over padded rows: (outputs.width, inputs.width), zero wherever no channel sits.

    A padding column has weight, bias and multiplier zero, so its result is exactly zero.
    """
    rows, columns = np.array(outputs.positions), np.array(inputs.positions)
    weight_i8 = np.zeros((outputs.width, inputs.width), np.int8)
    weight_i8[np.ix_(rows, columns)] = layer.weight_i8
    return LinearLayer(weight_i8, *(_spread(x, rows, outputs.width) for x in _per_column(layer)))


def _per_column(layer: LinearLayer) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    return layer.bias_i32, layer.mult_u16, layer.shift_u8


def _spread(values: NDArray[Any], positions: NDArray[np.intp], width: int) -> NDArray[Any]:
    spread = np.zeros(width, values.dtype)
    spread[positions] = values
    return spread


def join_heads(layer: LinearLayer, inputs: Channels) -> LinearLayer:
    """Turn an (h, out, in) layer of h heads into one block-diagonal (h * out, inputs.width) layer.

    Head i's input channels are inputs.positions[i * in : (i + 1) * in]; its outputs follow those of head i - 1.
    """
    heads, out_dim, in_dim = layer.weight_i8.shape
    weight_i8 = np.zeros((heads * out_dim, inputs.width), np.int8)
    for head in range(heads):
        columns = np.array(inputs.positions[head * in_dim : (head + 1) * in_dim])
        weight_i8[head * out_dim : (head + 1) * out_dim, columns] = layer.weight_i8[head]
    return LinearLayer(weight_i8, *(x.reshape(-1) for x in _per_column(layer)))


def pick(layer: LinearLayer, first: int, count: int) -> LinearLayer:
    """Return entries first .. first + count - 1 of the leading axis: columns of (out, in), heads of (H, out, in)."""
    return LinearLayer(layer.weight_i8[first : first + count], *(x[first : first + count] for x in _per_column(layer)))
