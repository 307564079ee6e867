"""What a block is fed and what it must give: samples cut from the golden model's taps of one picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.hls.block import HlsBlock, HlsLayer, Kind
from quant.reference import PACKAGE_TOKEN

Taps = Mapping[str, NDArray[Any]]

UNUSED = (32767, -32768)
"""What rows and columns beyond the live ones hold in turn: a kernel that reads them shows it."""


@dataclass(frozen=True)
class Samples:
    """Calls of a block: inputs (samples, *shape) in its order, and in how many rows or columns each is in use."""

    inputs: tuple[NDArray[np.int64], ...]
    live: NDArray[np.int64]

    def rows(self, block: HlsBlock) -> int:
        """Return how many tokens, or rows of scores, the calls hold."""
        return int(self.live.sum()) if block.is_token_set else len(self.live)


def cut_samples(block: HlsBlock, taps: Taps) -> Samples:
    """Return the calls that one picture makes: one for a token set, else one for each token or row of scores."""
    tensor = block.inputs[0]
    values = np.asarray(taps[tensor.tap], np.int64)
    if block.row is not None:
        values = values[block.row : block.row + 1]
    if block.is_token_set:
        values = values[None]  # (1, live, channels)
    else:
        values = values.reshape(-1, values.shape[-1])
    if not block.has_live:
        return Samples((values,), np.ones(len(values), np.int64))
    live = values.shape[1]
    padded = np.resize(np.array(UNUSED, np.int64), (len(values), *tensor.shape))
    padded[:, :live] = values
    state = np.full((len(values), 1), live, np.int64)
    if block.is_token_set:
        before = block.inputs[1].tap
        has_package = bool(before) and taps[before][-1] == PACKAGE_TOKEN
        state = np.array([[live, has_package]], np.int64)
    return Samples((padded, state), state[:, 0])


def expected_result(block: HlsBlock, layer: HlsLayer, taps: Taps) -> NDArray[np.int64]:
    """Return what a layer with taps must give for cut_samples: (samples, live rows or columns, ...)."""
    arrays = [np.asarray(taps[name], np.int64) for name in layer.taps]
    if layer.kind is Kind.COMPACT:
        residual, tokens = arrays
        header = np.zeros((1, residual.shape[1]), np.int64)
        header[0, :2] = len(residual), tokens[-1] == PACKAGE_TOKEN
        return np.concatenate([header, residual])[None]
    if block.is_token_set:
        columns = [array[:, None] if array.ndim == 1 else array for array in arrays]
        rows = max(len(array) for array in columns)
        return np.concatenate([np.broadcast_to(a, (rows, a.shape[1])) for a in columns], axis=1)[None]
    (array,) = arrays
    if block.row is not None:
        array = array[block.row : block.row + 1]
    return array.reshape(-1, array.shape[-1])


def in_use(result: NDArray[np.int64], expected: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the part of a result (samples, *shape) that the golden model has."""
    return result[tuple(slice(size) for size in expected.shape)]
