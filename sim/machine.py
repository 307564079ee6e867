"""The instruction-set machine: executes a program in numpy, the living definition of the ISA.

Memories, descriptors and DDR regions are those of the RTL (docs/architecture.md sections 3 to 5). A descriptor runs as
a whole, with the integer functions of quant, and touches only the words that it needs at the true live count.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.config import AccelConfig
from hw.dependency import Space, memory_word_bytes, space_words
from hw.isa import DESCRIPTOR_BYTES, UNIT_OF, Descriptor, Drain, ErrorCode, Memory, Opcode, Region, Unit
from hw.program import Program
from hw.regmap import NUM_TOKEN_REGISTERS
from hw.tiling import TRANSFER_BYTES, ceil_div
from hw.weights import PARAM_DTYPE
from quant.approx import gelu, keep_scores, layer_norm, package_token, row_scale, sigmoid, softmax_rows
from quant.fixed import requantize, saturate
from quant.layers import CLS_SCORE, as_weights, exact_matmul, select
from quant.network import I8
from quant.reference import PACKAGE_TOKEN

Values = NDArray[Any]


@dataclass(frozen=True)
class RunResult:
    """How a run ended.

    error_index is the program index of the descriptor that failed, 0 without an error. token_counts[i] is the live
    count after the COMPACT of index i, for as many as ran. executed counts the completed descriptors, END included.
    """

    error: ErrorCode
    error_index: int
    token_counts: list[int]
    executed: int


class _Fault(Exception):
    """Ends the run with an error code."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.name)
        self.code = code


class Machine:
    """One accelerator: memories that keep their contents between runs, and `run`.

    With rng, every memory starts with garbage, so that a program that relies on what it did not write is found out.
    """

    def __init__(self, config: AccelConfig, rng: np.random.Generator | None = None) -> None:
        self.config = config
        self._sizes = space_words(config)
        self.raw = {
            memory: _initial((self._sizes[Space(memory)], memory_word_bytes(memory, config)), rng) for memory in Memory
        }
        rows, depth = config.rows, config.depth
        self._act_i8 = self.raw[Memory.ACT].view("i1").reshape(-1, rows, depth)
        self._wide_i16 = self.raw[Memory.WIDE].view("<i2").reshape(-1, rows, depth)
        self._weight_i8 = self.raw[Memory.WEIGHT].view("i1").reshape(-1, config.columns, depth)
        self._param = self.raw[Memory.PARAM].view(PARAM_DTYPE)
        self._token_u16 = self.raw[Memory.TOKEN].view("<u2")[:, 0]
        # (mult, shift) of each lane; the shifts of garbage stay in the range that the hardware can hold.
        self._row_scale = _initial((config.row_scale_words, rows, 2), rng).astype(np.int64) % 48
        self._picture = 0  # of the descriptor in work
        self._lives, self._packages = [0] * config.pictures, [False] * config.pictures
        self._score_u16, self._merged = np.zeros(0, np.int64), np.zeros(0, bool)
        self._rng = rng
        self._regions: Mapping[Region, bytearray] = {}
        self._token_counts: dict[int, int] = {}

    def run_pictures(
        self, program: Program, *patches_i8: I8, shuffle: np.random.Generator | None = None
    ) -> tuple[RunResult, bytes]:
        """Run a program on its pictures, each (num_patches, patch_dim); return its end and the OUTPUT region."""
        output = bytearray(program.output_bytes if self._rng is None else self._rng.bytes(program.output_bytes))
        regions = {
            Region.WEIGHTS: bytearray(program.weights),
            Region.INPUT: bytearray(program.pack_input(*patches_i8)),
            Region.OUTPUT: output,
        }
        return self.run(program.program_bytes(), regions, shuffle), bytes(output)

    def run(
        self, program: bytes, regions: Mapping[Region, bytearray], shuffle: np.random.Generator | None = None
    ) -> RunResult:
        """Execute a program until END or an error; STORE writes into regions[Region.OUTPUT].

        Descriptors run in program order, or, with shuffle, in a random order that the waits and each unit's own order
        allow. A run in which every unit waits ends with WATCHDOG. Raises ValueError if the program is not a whole
        number of descriptors.
        """
        if len(program) % DESCRIPTOR_BYTES:
            raise ValueError(f"program must be a multiple of {DESCRIPTOR_BYTES} bytes, not {len(program)}")
        self._regions, self._token_counts = regions, {}
        self._lives, self._packages = [0] * self.config.pictures, [False] * self.config.pictures
        queues, end, end_error = _decode(program, self.config)
        completed = dict.fromkeys(Unit, 0)
        executed = 0
        while pending := [queue[0][0] for queue in queues.values() if queue]:
            ready = [queue[0][0] for queue in queues.values() if queue and _may_start(queue[0][1], completed)]
            if not ready:
                return self._result(ErrorCode.WATCHDOG, min(pending), executed)
            index = min(ready) if shuffle is None else int(shuffle.choice(ready))
            unit = next(unit for unit, queue in queues.items() if queue and queue[0][0] == index)
            try:
                self.execute(queues[unit][0][1])
            except _Fault as fault:
                return self._result(fault.code, index, executed)
            queues[unit].popleft()
            completed[unit] += 1
            executed += 1
        if end_error is not ErrorCode.NONE:
            return self._result(end_error, end, executed)
        return self._result(ErrorCode.NONE, 0, executed + 1)

    def _result(self, error: ErrorCode, index: int, executed: int) -> RunResult:
        counts = [self._token_counts[i] for i in sorted(self._token_counts)]
        return RunResult(error, index, counts, executed)

    def execute(self, d: Descriptor) -> None:
        """Run one descriptor, whatever it waits for."""
        self._picture = d.picture
        match Opcode(d.opcode):
            case Opcode.LOAD:
                self._load(d)
            case Opcode.STORE:
                self._store(d)
            case Opcode.KEYS:
                self._keys(d)
            case Opcode.VALUES:
                self._values(d)
            case Opcode.GEMM:
                self._gemm(d)
            case Opcode.BEGIN:
                self._begin(d)
            case Opcode.LAYER_NORM:
                self._layer_norm(d)
            case Opcode.SOFTMAX:
                self._softmax(d)
            case Opcode.UNIFORM:
                self._uniform(d)
            case Opcode.SELECT:
                self._select(d)
            case Opcode.COMPACT:
                self._compact(d)

    # Addresses: every access to a memory asks for its words here.

    def addresses(self, space: Space, base: int, words: int, count: int = 1, stride: int = 0) -> NDArray[np.intp]:
        """Return (count, words) addresses: runs of `words` words, `stride` apart. Faults if one is outside."""
        addresses = base + stride * np.arange(count)[:, None] + np.arange(words)
        if addresses.size and addresses.max() >= self._sizes[space]:
            raise _Fault(ErrorCode.BAD_ADDRESS)
        return addresses

    @property
    def _live(self) -> int:
        """The live tokens of the picture in work."""
        return self._lives[self._picture]

    def _tiles(self) -> int:
        return ceil_div(self._live, self.config.rows)

    def _covered_tiles(self, d: Descriptor) -> int:
        return ceil_div(d.covered_rows(self._live, self.config.rows), self.config.rows)

    def _token_base(self) -> int:
        return self._picture * self.config.token_stride

    def _read(self, memory: Values, space: Space, base: int, words: int, tiles: int, stride: int) -> Values:
        """Return (tiles * R, words * K) int64: the rows of a tensor."""
        tiled = memory[self.addresses(space, base, words, tiles, stride)]  # (tile, word, lane, K)
        return tiled.transpose(0, 2, 1, 3).reshape(tiles * self.config.rows, -1).astype(np.int64)

    def _write(self, memory: Values, space: Space, base: int, stride: int, rows: Values) -> None:
        """Write (tiles * R, words * K) rows; values keep their low bits."""
        tiled = rows.reshape(-1, self.config.rows, rows.shape[1] // self.config.depth, self.config.depth)
        tiled = tiled.transpose(0, 2, 1, 3)
        memory[self.addresses(space, base, tiled.shape[1], tiled.shape[0], stride)] = tiled.astype(memory.dtype)

    # LOAD and STORE.

    def _transfer(self, d: Descriptor, base: int) -> tuple[NDArray[np.intp], bytearray]:
        if d.memory not in list(Memory) or d.region not in list(Region):
            raise _Fault(ErrorCode.BAD_ADDRESS)
        word_bytes, region = memory_word_bytes(d.memory, self.config), self._regions[Region(d.region)]
        is_aligned = d.offset % TRANSFER_BYTES == 0 and d.length % max(TRANSFER_BYTES, word_bytes) == 0
        if not is_aligned or not d.length or d.offset + d.length > len(region):
            raise _Fault(ErrorCode.BAD_ADDRESS)
        return self.addresses(Space(d.memory), base, d.length // word_bytes)[0], region

    def _load(self, d: Descriptor) -> None:
        addresses, region = self._transfer(d, d.dst_base)
        if d.memory == Memory.TOKEN:
            raise _Fault(ErrorCode.BAD_ADDRESS)
        data = np.frombuffer(bytes(region[d.offset : d.offset + d.length]), np.uint8)
        self.raw[Memory(d.memory)][addresses] = data.reshape(len(addresses), -1)

    def _store(self, d: Descriptor) -> None:
        addresses, region = self._transfer(d, d.src_base)
        if d.memory in (Memory.WEIGHT, Memory.PARAM):
            raise _Fault(ErrorCode.BAD_ADDRESS)
        region[d.offset : d.offset + d.length] = self.raw[Memory(d.memory)][addresses].tobytes()

    # Operand unit.

    def _operand_rows(self, d: Descriptor) -> Values:
        """Return the rows that become weights, -128 clipped: (tiles * R, src_words * K)."""
        return np.asarray(
            as_weights(self._read(self._act_i8, Space.ACT, d.src_base, d.src_words, self._tiles(), d.src_stride))
        )

    def _keys(self, d: Descriptor) -> None:
        columns = self.config.columns
        rows = self._operand_rows(d).reshape(-1, d.src_words, self.config.depth)  # (token, word, K)
        addresses = self.addresses(Space.WEIGHT, d.dst_base, d.src_words, ceil_div(len(rows), columns), d.dst_stride)
        token = np.arange(len(rows))
        self._weight_i8[addresses[token // columns], token[:, None] % columns] = rows

    def _values(self, d: Descriptor) -> None:
        columns, depth = self.config.columns, self.config.depth
        rows = self._operand_rows(d)  # (token, channel)
        token, channel = np.arange(rows.shape[0])[:, None], np.arange(rows.shape[1])
        words, tiles = ceil_div(rows.shape[0], depth), ceil_div(rows.shape[1], columns)
        addresses = self.addresses(Space.WEIGHT, d.dst_base, words, tiles, d.dst_stride)
        self._weight_i8[addresses[channel // columns, token // depth], channel % columns, token % depth] = rows

    # GEMM array and drain.

    def _gemm(self, d: Descriptor) -> None:
        config, mode = self.config, Drain(d.mode)
        if not self._covered_tiles(d):
            return
        tiles, columns = self._covered_tiles(d), d.cols or self._live
        depth_words, out_words = d.src_words or ceil_div(self._live, config.depth), ceil_div(columns, config.depth)
        operand = self._read(self._act_i8, Space.ACT, d.src_base, depth_words, tiles, d.src_stride)
        column_tiles = ceil_div(columns, config.columns)
        weights = self._weight_i8[self.addresses(Space.WEIGHT, d.aux_base, depth_words, column_tiles, d.aux_stride)]
        weights = weights.transpose(0, 2, 1, 3).reshape(column_tiles * config.columns, -1)  # (column, depth)
        acc_i32 = exact_matmul(operand, weights[: out_words * config.depth].T)
        if mode is Drain.ROW_SCALE:
            scale = self._row_scale[self.addresses(Space.ROW_SCALE, d.row_base, tiles)[0]].reshape(-1, 2)
            out = requantize(acc_i32, scale[:, :1], scale[:, 1:], 8)
        elif mode is Drain.SCORE:
            is_package = self._packages[self._picture] & (np.arange(acc_i32.shape[1]) == self._live - 1)
            out = requantize(acc_i32 + d.addend_i32 * is_package, d.mult, d.shift, 16)
        else:
            param = self._param[self.addresses(Space.PARAM, d.param_base, out_words)[0]].reshape(-1)
            bias, mult, shift = (param[name].astype(np.int64) for name in ("bias", "mult", "shift"))
            out = requantize(acc_i32 + bias, mult, shift & 63, 8 if mode is Drain.INT8 else 16)
        if mode is Drain.GELU:
            out = requantize(gelu(out, d.one, d.curve, d.addend_i32), d.mult, d.shift, 8)
        elif mode is Drain.SIGMOID:
            out = sigmoid(out)
        elif mode is Drain.RESIDUAL:
            residual = self._read(self._wide_i16, Space.WIDE, d.dst_base, out_words, tiles, d.dst_stride)
            out = saturate(residual + out, 16)
        if mode in (Drain.SCORE, Drain.RESIDUAL, Drain.WIDE):
            self._write(self._wide_i16, Space.WIDE, d.dst_base, d.dst_stride, out)
        else:
            self._write(self._act_i8, Space.ACT, d.dst_base, d.dst_stride, out)

    # Vector unit.

    def _begin(self, d: Descriptor) -> None:
        if d.rows > self.config.max_tokens:
            raise _Fault(ErrorCode.BAD_ADDRESS)
        self._token_u16[self.addresses(Space.TOKEN, self._token_base(), d.rows)[0]] = np.arange(d.rows)
        self._lives[self._picture], self._packages[self._picture] = d.rows, False

    def _layer_norm(self, d: Descriptor) -> None:
        if not self._covered_tiles(d):
            return
        x_i16 = self._read(self._wide_i16, Space.WIDE, d.src_base, d.src_words, self._covered_tiles(d), d.src_stride)
        param = self._param[self.addresses(Space.PARAM, d.param_base, d.src_words)[0]].reshape(-1)
        gamma, beta = param["mult"].astype(np.int16).astype(np.int64), param["bias"].astype(np.int64)
        out = layer_norm(x_i16, gamma, beta, d.shift, d.addend)
        self._write(self._act_i8, Space.ACT, d.dst_base, d.dst_stride, out)

    def _softmax(self, d: Descriptor) -> None:
        tiles, words = self._tiles(), ceil_div(self._live, self.config.depth)
        scores = self._read(self._wide_i16, Space.WIDE, d.src_base, words, tiles, d.src_stride)
        exponential, row_sum = softmax_rows(scores, np.arange(scores.shape[1]) < self._live)
        self._write(self._act_i8, Space.ACT, d.dst_base, d.dst_stride, exponential)
        self._set_row_scales(d, row_sum.reshape(tiles, -1))

    def _uniform(self, d: Descriptor) -> None:
        token = np.arange(ceil_div(self._live, self.config.depth) * self.config.depth)
        ones = ((token > 0) & (token < self._live)).astype(np.int64)
        self._write(self._act_i8, Space.ACT, d.dst_base, 0, np.tile(ones, (self.config.rows, 1)))
        self._set_row_scales(d, np.full((self._tiles(), self.config.rows), self._live - 1))

    def _set_row_scales(self, d: Descriptor, row_sum: Values) -> None:
        """row_sum (tiles, R)."""
        addresses = self.addresses(Space.ROW_SCALE, d.row_base, len(row_sum))[0]
        self._row_scale[addresses] = np.stack(row_scale(row_sum, d.mult, d.shift), axis=-1)

    def _select(self, d: Descriptor) -> None:
        words = ceil_div(d.heads, self.config.depth)
        token_u8, head_u8 = (
            self._read(self._act_i8, Space.ACT, base, words, self._tiles(), stride)[: self._live, : d.heads] & 255
            for base, stride in ((d.src_base, d.src_stride), (d.aux_base, d.aux_stride))
        )
        self._score_u16 = np.array(keep_scores(token_u8, head_u8))
        self._score_u16[0] = CLS_SCORE
        is_package = self._packages[self._picture] & (np.arange(self._live) == self._live - 1)
        _, self._merged = select(self._score_u16, np.full(self._live, True), is_package, d.threshold)

    def _compact(self, d: Descriptor) -> None:
        if d.index >= NUM_TOKEN_REGISTERS:
            raise _Fault(ErrorCode.BAD_ADDRESS)
        rows = self._read(self._wide_i16, Space.WIDE, d.src_base, d.src_words, self._tiles(), d.src_stride)
        live, merged = rows[: self._live], self._merged
        listed = self._token_u16[self.addresses(Space.TOKEN, self._token_base(), self._live)[0]]
        survivors, tokens = live[~merged], listed[~merged]
        if merged.any():
            survivors = np.concatenate([survivors, package_token(live, self._score_u16, merged)[None]])
            tokens = np.append(tokens, PACKAGE_TOKEN)
        count = len(survivors)
        rows[:count] = survivors  # rows behind them keep what they held
        self._write(self._wide_i16, Space.WIDE, d.src_base, d.src_stride, rows)
        self._token_u16[self.addresses(Space.TOKEN, self._token_base(), count)[0]] = tokens
        self._lives[self._picture], self._packages[self._picture] = count, bool(merged.any())
        self._token_counts[d.index] = count


def _initial(shape: tuple[int, ...], rng: np.random.Generator | None) -> NDArray[np.uint8]:
    return np.zeros(shape, np.uint8) if rng is None else rng.integers(0, 256, shape, dtype=np.uint8)


def _decode(program: bytes, config: AccelConfig) -> tuple[dict[Unit, deque[tuple[int, Descriptor]]], int, ErrorCode]:
    """Return the queue of each unit as (program index, descriptor), the index where the program ends, and how."""
    queues: dict[Unit, deque[tuple[int, Descriptor]]] = {unit: deque() for unit in Unit}
    for index in range(len(program) // DESCRIPTOR_BYTES):
        d = Descriptor.unpack(program[index * DESCRIPTOR_BYTES :][:DESCRIPTOR_BYTES])
        if d.opcode == Opcode.END:
            return queues, index, ErrorCode.NONE
        is_known = d.opcode in list(Opcode) and not (d.opcode == Opcode.GEMM and d.mode not in list(Drain))
        if not is_known or d.picture >= config.pictures:
            return queues, index, ErrorCode.BAD_OPCODE
        queues[UNIT_OF[Opcode(d.opcode)]].append((index, d))
    return queues, len(program) // DESCRIPTOR_BYTES, ErrorCode.BAD_OPCODE


def _may_start(descriptor: Descriptor, completed: Mapping[Unit, int]) -> bool:
    """Tell whether every wait is met; counts are modulo 2**16."""
    return all(
        (completed[unit] - wait) % (1 << 16) < 1 << 15 for unit, wait in zip(Unit, descriptor.waits, strict=True)
    )
