"""Waits: which descriptors must be complete before each one starts.

Derived from the memory words that each descriptor reads and writes, at the largest live count that it can meet. The
live count and the decision of SELECT are memory too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from hw.config import AccelConfig
from hw.isa import UNIT_OF, Descriptor, Drain, Memory, Opcode, Unit
from hw.tiling import ceil_div

MAX_UNIT_DESCRIPTORS = (1 << 15) - 1
"""Waits count modulo 2**16 and compare by half that range, and 0 means no wait."""

WAIT_FIELDS = tuple(f"wait_{unit.name.lower()}" for unit in Unit)


class Space(IntEnum):
    """Everything that descriptors share: the on-chip memories of `Memory`, and state that no LOAD names."""

    ACT = Memory.ACT
    WIDE = Memory.WIDE
    WEIGHT = Memory.WEIGHT
    PARAM = Memory.PARAM
    TOKEN = Memory.TOKEN
    ROW_SCALE = 5
    LIVE = 6
    DECISION = 7


@dataclass(frozen=True)
class Span:
    """Words of a space: `count` runs of `words` words, `stride` apart, from base."""

    space: Space
    base: int
    words: int = 1
    count: int = 1
    stride: int = 0

    @property
    def end(self) -> int:
        """The address after the highest one; 0 if the span is empty."""
        return self.base + (self.count - 1) * self.stride + self.words if self.words and self.count else 0

    def addresses(self) -> NDArray[np.intp]:
        """Return every address, some perhaps twice."""
        runs = self.base + self.stride * np.arange(self.count)
        return (runs[:, None] + np.arange(self.words)).reshape(-1)


@dataclass(frozen=True)
class Footprint:
    """All that a descriptor may read and write."""

    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()


DECISION = Span(Space.DECISION, 0)


def space_words(config: AccelConfig) -> dict[Space, int]:
    """Return the size of each space."""
    return {
        Space.ACT: config.act_words,
        Space.WIDE: config.wide_words,
        Space.WEIGHT: config.weight_words,
        Space.PARAM: config.param_words,
        Space.TOKEN: config.token_words,
        Space.ROW_SCALE: config.row_scale_words,
        Space.LIVE: config.pictures,
        Space.DECISION: 1,
    }


def memory_word_bytes(memory: int, config: AccelConfig) -> int:
    """Bytes of a word of a memory that LOAD or STORE names."""
    sizes = (config.act_bytes, config.wide_bytes, config.weight_bytes, config.param_bytes, 2)
    return sizes[memory]


def footprint(descriptor: Descriptor, config: AccelConfig, tokens: int) -> Footprint:
    """Return what a descriptor may read and write while at most `tokens` tokens are live."""
    d, opcode = descriptor, Opcode(descriptor.opcode)
    tiles, token_words = ceil_div(tokens, config.rows), ceil_div(tokens, config.depth)
    live, token_list = Span(Space.LIVE, d.picture), d.picture * config.token_stride
    if opcode is Opcode.END:
        return Footprint()
    if opcode is Opcode.LOAD:
        return Footprint(writes=(Span(Space(d.memory), d.dst_base, d.length // memory_word_bytes(d.memory, config)),))
    if opcode is Opcode.STORE:
        return Footprint(reads=(Span(Space(d.memory), d.src_base, d.length // memory_word_bytes(d.memory, config)),))
    if opcode is Opcode.BEGIN:
        return Footprint(writes=(live, Span(Space.TOKEN, token_list, d.rows)))
    if opcode is Opcode.GEMM:
        return _gemm_footprint(d, config, tokens)
    if opcode is Opcode.LAYER_NORM:
        covered = ceil_div(d.covered_rows(tokens, config.rows), config.rows)
        rows, params = _source(d, Space.WIDE, d.src_words, covered), Span(Space.PARAM, d.param_base, d.src_words)
        return Footprint((rows, params, live), (_target(d, Space.ACT, d.src_words, covered),))
    source = _source(d, Space.ACT, d.src_words, tiles)
    if opcode is Opcode.KEYS:
        runs = ceil_div(tiles * config.rows, config.columns)
        return Footprint((source, live), (_target(d, Space.WEIGHT, d.src_words, runs),))
    if opcode is Opcode.VALUES:
        runs = ceil_div(d.src_words * config.depth, config.columns)
        return Footprint((source, live), (_target(d, Space.WEIGHT, token_words, runs),))
    if opcode is Opcode.SOFTMAX:
        scales = Span(Space.ROW_SCALE, d.row_base, tiles)
        reads = (_source(d, Space.WIDE, token_words, tiles), live)
        return Footprint(reads, (_target(d, Space.ACT, token_words, tiles), scales))
    if opcode is Opcode.UNIFORM:
        scales = Span(Space.ROW_SCALE, d.row_base, tiles)
        return Footprint((live,), (_target(d, Space.ACT, token_words, 1), scales))
    if opcode is Opcode.SELECT:
        words = ceil_div(d.heads, config.depth)
        scores = (Span(Space.ACT, d.src_base, words, tiles, d.src_stride),)
        heads = (Span(Space.ACT, d.aux_base, words, tiles, d.aux_stride),)
        return Footprint((*scores, *heads, live), (DECISION,))
    moved = (_source(d, Space.WIDE, d.src_words, tiles), Span(Space.TOKEN, token_list, tokens), live)
    return Footprint((*moved, DECISION), moved)  # COMPACT


def _source(d: Descriptor, space: Space, words: int, tiles: int) -> Span:
    return Span(space, d.src_base, words, tiles, d.src_stride)


def _target(d: Descriptor, space: Space, words: int, runs: int) -> Span:
    return Span(space, d.dst_base, words, runs, d.dst_stride)


def _gemm_footprint(d: Descriptor, config: AccelConfig, tokens: int) -> Footprint:
    mode = Drain(d.mode)
    tiles, columns = ceil_div(d.covered_rows(tokens, config.rows), config.rows), d.cols or tokens
    depth_words, out_words = d.src_words or ceil_div(tokens, config.depth), ceil_div(columns, config.depth)
    reads = [
        _source(d, Space.ACT, depth_words, tiles),
        Span(Space.WEIGHT, d.aux_base, depth_words, ceil_div(columns, config.columns), d.aux_stride),
        Span(Space.LIVE, d.picture),
    ]
    target = _target(
        d, Space.WIDE if mode in (Drain.SCORE, Drain.RESIDUAL, Drain.WIDE) else Space.ACT, out_words, tiles
    )
    if mode is Drain.ROW_SCALE:
        reads.append(Span(Space.ROW_SCALE, d.row_base, tiles))
    elif mode is not Drain.SCORE:
        reads.append(Span(Space.PARAM, d.param_base, out_words))
    if mode is Drain.RESIDUAL:
        reads.append(target)
    return Footprint(tuple(reads), (target,))


def footprints(descriptors: Sequence[Descriptor], config: AccelConfig) -> Iterator[Footprint]:
    """Yield the footprint of each descriptor; the largest live count is that of the picture's last BEGIN."""
    tokens = dict.fromkeys(range(config.pictures), 0)
    for descriptor in descriptors:
        if descriptor.opcode == Opcode.BEGIN:
            tokens[descriptor.picture] = descriptor.rows
        yield footprint(descriptor, config, tokens[descriptor.picture])


def add_waits(descriptors: Sequence[Descriptor], config: AccelConfig) -> list[Descriptor]:
    """Return the descriptors with their waits: for each unit, its last descriptor that touches a common word.

    A unit completes its descriptors in order, so waiting for the last one is waiting for all. Two reads never conflict.
    A unit orders its own descriptors, but GEMM reads the operands of one while it still writes the results of others.
    Raises ValueError if a unit gets more descriptors than its counter can tell apart.
    """
    # For each space, unit and word: how many descriptors the unit had once it had last read or written the word.
    shape = {space: (len(Unit), words) for space, words in space_words(config).items()}
    last_read = {space: np.zeros(size, np.int64) for space, size in shape.items()}
    last_write = {space: np.zeros(size, np.int64) for space, size in shape.items()}
    issued, result = dict.fromkeys(Unit, 0), []
    for descriptor, access in zip(descriptors, footprints(descriptors, config), strict=True):
        if descriptor.opcode == Opcode.END:
            result.append(descriptor)
            continue
        unit = UNIT_OF[Opcode(descriptor.opcode)]
        needed = np.zeros(len(Unit), np.int64)
        reads = [(span.space, span.addresses()) for span in access.reads]
        writes = [(span.space, span.addresses()) for span in access.writes]
        for space, words in reads:
            np.maximum(needed, last_write[space][:, words].max(axis=1, initial=0), out=needed)
        read_after_write = needed[unit]
        for space, words in writes:
            np.maximum(needed, last_write[space][:, words].max(axis=1, initial=0), out=needed)
            np.maximum(needed, last_read[space][:, words].max(axis=1, initial=0), out=needed)
        needed[unit] = read_after_write if unit is Unit.GEMM else 0
        issued[unit] += 1
        if issued[unit] > MAX_UNIT_DESCRIPTORS:
            raise ValueError(f"a program must have at most {MAX_UNIT_DESCRIPTORS} descriptors of unit {unit.name}")
        for space, words in reads:
            last_read[space][unit, words] = issued[unit]
        for space, words in writes:
            last_write[space][unit, words] = issued[unit]
        result.append(replace(descriptor, **dict(zip(WAIT_FIELDS, needed.tolist(), strict=True))))
    return result
