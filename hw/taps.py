"""Taps: where a STORE left a layer's result in the OUTPUT region, and how to read it back as an array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AccelConfig
from hw.isa import Memory
from hw.tiling import ceil_div
from hw.weights import unpack_tokens


@dataclass(frozen=True)
class Tap:
    """One layer result in the OUTPUT region, as the golden model names and shapes it.

    offset is that of its first byte. stage counts the picture's COMPACTs before it, so that the live token count is
    known. heads
    is 0 for (rows, channels), else the result is (heads, live, live) and head h is stored head_bytes after head h - 1.
    rows is 0 for the live tokens. row_words is the stored length of a row, positions its channels (empty: the live
    tokens). A result from TOKEN is the list of live tokens and uses none of these.
    """

    name: str
    picture: int
    stage: int
    memory: Memory
    dtype: str
    offset: int
    row_words: int = 0
    positions: tuple[int, ...] = ()
    rows: int = 0
    heads: int = 0
    head_bytes: int = 0

    def read(self, output: bytes, live: int, config: AccelConfig) -> NDArray[Any]:
        """Return the array of docs/architecture.md section 2: valid rows and channels only. live is that of `stage`."""
        if self.memory is Memory.TOKEN:
            return np.frombuffer(output, "<u2", live, self.offset).astype(np.uint16)
        if self.heads:
            return np.stack([self._matrix(output, live, config, head) for head in range(self.heads)])
        return self._matrix(output, live, config, 0)

    def _matrix(self, output: bytes, live: int, config: AccelConfig, head: int) -> NDArray[Any]:
        rows, start = self.rows or live, self.offset + head * self.head_bytes
        word_bytes = config.wide_bytes if self.memory is Memory.WIDE else config.act_bytes
        length = ceil_div(rows, config.rows) * self.row_words * word_bytes
        values = unpack_tokens(output[start : start + length], self.row_words, np.dtype(self.dtype), config)
        return values[:rows, list(self.positions or range(live))]
