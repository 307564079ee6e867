"""How long a unit works on a descriptor when nothing is in its way, and which shared ports it uses meanwhile.

Each formula counts the cycles between the issue of a descriptor and its done. The constants are the lengths of the
pipelines and state machines of hw/rtl; tests/test_sim_cycles.py holds every opcode to the simulated core.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from hw.config import AccelConfig
from hw.isa import Descriptor, Drain, Memory, Opcode
from hw.memory_model import BURST_BYTES, MemoryModel
from hw.tiling import ceil_div
from hw.timing import (
    ACTIVATION_CYCLES,
    ELEMENT_CYCLES,
    READ_LATENCY,
    activation_width,
    array_latency,
    compact_rows,
    drain_width,
    norm_width,
    package_positions,
    words_in_flight,
)

ROW_SCALE_DRAINS = (Drain.ROW_SCALE, Drain.SCORE)
"""Drains that read no PARAM word."""

ACTIVATION_DRAINS = (Drain.GELU, Drain.SIGMOID)
WIDE_DRAINS = (Drain.SCORE, Drain.RESIDUAL, Drain.WIDE)
STATISTICS_CYCLES = 39
STATISTICS_PERIOD_CYCLES = 16
"""Variance, root and division of a LayerNorm row tile, and the longest of the three, the variance."""

HAND_OVER_CYCLES = 2
"""From the last write of a GEMM to the first of the next, or to its activation, if its words are there."""

SOFTMAX_TILE_CYCLES = 16
"""Row scale of a softmax row tile, from one tile to the next."""

SELECT_TILE_CYCLES = 10
"""Division of a selection row tile, from one tile to the next."""

PACKAGE_CYCLES = 11
"""From the last rows of a channel word to its package, without the positions that share a requantizer."""

PACKAGE_SCALE_CYCLES = 27
"""From a COMPACT to its first package because of the division, counted in the same way to the end."""

COMPACT_ENDS_CYCLES = 19
"""Before the first rows of a COMPACT, for its last package and after it, counted in the same way."""


class Port(Enum):
    """What units share: ports of the on-chip memories, AXI port 0, and the DDR behind all ports."""

    ACT_READ = auto()
    ACT_WRITE = auto()
    WIDE_READ = auto()
    WIDE_WRITE = auto()
    WEIGHT_WRITE = auto()
    PARAM_READ = auto()
    BUS = auto()
    DDR = auto()


WRITE_PORTS = {Memory.ACT: Port.ACT_WRITE, Memory.WIDE: Port.WIDE_WRITE, Memory.WEIGHT: Port.WEIGHT_WRITE}
READ_PORTS = {Memory.ACT: Port.ACT_READ, Memory.WIDE: Port.WIDE_READ}


@dataclass(frozen=True)
class Work:
    """Cycles before, in and after the steady part of a descriptor, and the uses of each port in its steady part.

    demand: uses a cycle, 0..1, at full speed. Only the steady part is slowed down when a port is wanted by others too.
    drain: 0, or, of a unit that goes on with its next descriptor after the steady part, the cycles that the tail takes
    at least after the tail of the descriptor before.
    """

    lead: float
    steady: float = 0.0
    tail: float = 0.0
    demand: Mapping[Port, float] = field(default_factory=dict)
    drain: float = 0.0

    @property
    def cycles(self) -> float:
        """Cycles from issue to done if nobody else uses the ports."""
        return self.lead + self.steady + self.tail


@dataclass(frozen=True)
class Tokens:
    """Live tokens when a descriptor starts, and for COMPACT whether any token leaves."""

    live: int
    is_merging: bool = False


def unit_work(descriptor: Descriptor, tokens: Tokens, config: AccelConfig, memory: MemoryModel) -> Work:
    """Return the work of a descriptor; it must be legal for hw.check.check_program, and not END."""
    live, words = tokens.live, descriptor.src_words
    tiles = ceil_div(live, config.rows)
    covered = ceil_div(descriptor.covered_rows(live, config.rows), config.rows)
    match Opcode(descriptor.opcode):
        case Opcode.BEGIN:
            return Work(descriptor.rows + 1)
        case Opcode.GEMM:
            return _gemm(descriptor, covered, live, config) if covered else Work(1, drain=1)
        case Opcode.KEYS | Opcode.VALUES:
            return _streamed(3, tiles * words, READ_LATENCY, {Port.ACT_READ: 1.0, Port.WEIGHT_WRITE: 1.0})
        case Opcode.LAYER_NORM:
            return _layer_norm(covered, words, config) if covered else Work(1)
        case Opcode.SOFTMAX:
            return _softmax(tiles, ceil_div(live, config.depth))
        case Opcode.UNIFORM:
            return Work(16 + ceil_div(live, config.depth) + tiles)
        case Opcode.SELECT:
            return _select(tiles, descriptor.heads, ceil_div(descriptor.heads, config.depth))
        case Opcode.COMPACT:
            return _compact(tiles, words, live, config) if tokens.is_merging else Work(2)
        case Opcode.LOAD:
            return _load(descriptor, config, memory)
        case Opcode.STORE:
            return _store(descriptor, config, memory)
        case _:
            raise ValueError(f"opcode must be that of a unit, not {descriptor.opcode!r}")


def gemm_steps(descriptor: Descriptor, live: int, config: AccelConfig) -> int:
    """Return the steps of a tile of a GEMM: words of its operands, or those of the live tokens."""
    return descriptor.src_words or ceil_div(live, config.depth)


def _streamed(lead: float, steady: float, tail: float, demand: Mapping[Port, float], drain: float = 0.0) -> Work:
    """Return a Work whose demands are at most one use a cycle."""
    return Work(lead, steady, tail, {port: min(uses, 1.0) for port, uses in demand.items()}, drain)


def _gemm(descriptor: Descriptor, row_tiles: int, live: int, config: AccelConfig) -> Work:
    """Tiles follow each other in max(steps, C/G) cycles, G = drain_width; the first waits for its constants.

    The array is free for the next command after the steady part. An activation takes longer for a word than the array:
    the words of short tiles wait for it.
    """
    mode = Drain(descriptor.mode)
    words = ceil_div(descriptor.cols or live, config.depth)
    steps = gemm_steps(descriptor, live, config)
    tile_words = config.columns // config.depth
    column_tiles = ceil_div(words, tile_words)
    tiles, first_words = row_tiles * column_tiles, min(words, tile_words)
    last_words = words - (column_tiles - 1) * tile_words

    parts = config.depth // drain_width(config)
    word_cycles, after_word = parts, 0
    if mode in ACTIVATION_DRAINS:
        word_cycles = config.depth // activation_width(config)
        after_word = word_cycles + ACTIVATION_CYCLES
    period = max(steps, parts * tile_words)
    # Words that wait for their activation hold the array back only when there is no more place for them.
    waiting = max((row_tiles * words - last_words) * word_cycles - (tiles - 1) * period, 0)
    holding_back = max(waiting - words_in_flight(config) * word_cycles, 0)
    steady = (tiles - 1) * period + holding_back + steps
    to_drain = READ_LATENCY + 1 + array_latency(config)
    tail = waiting - holding_back + to_drain
    tail += parts - 1 + (last_words - 1) * word_cycles + ELEMENT_CYCLES + 2 + after_word

    results = row_tiles * words / steady
    demand = {Port.ACT_READ: tiles * steps / steady}
    if mode not in ROW_SCALE_DRAINS:
        demand[Port.PARAM_READ] = results
    if mode is Drain.RESIDUAL:
        demand[Port.WIDE_READ] = results
    demand[Port.WIDE_WRITE if mode in WIDE_DRAINS else Port.ACT_WRITE] = results
    lead = 2 + max(steps, first_words + 2) - steps
    drain = HAND_OVER_CYCLES + row_tiles * words
    if mode in ACTIVATION_DRAINS:
        drain = HAND_OVER_CYCLES + 1 + ACTIVATION_CYCLES + row_tiles * words * word_cycles
    return _streamed(lead, steady, tail, demand, drain)


def _layer_norm(tiles: int, words: int, config: AccelConfig) -> Work:
    """Sums of a tile, its statistics, its normalisation; all three at the same time on different tiles."""
    pass_cycles = words * (config.depth // norm_width(config))
    period = max(STATISTICS_PERIOD_CYCLES, pass_cycles)
    steady = pass_cycles + STATISTICS_CYCLES + (tiles - 1) * period + pass_cycles
    reads = 2 * words * tiles / steady
    return _streamed(5, steady, 19, {Port.WIDE_READ: reads, Port.PARAM_READ: reads / 2, Port.ACT_WRITE: reads / 2})


def _softmax(tiles: int, words: int) -> Work:
    """Two passes over each row tile; the row scale of a tile beside the next one."""
    steady = 2 * words + (tiles - 1) * max(SOFTMAX_TILE_CYCLES, 2 * words + 3)
    reads = 2 * words * tiles / steady
    return _streamed(5, steady, 23, {Port.WIDE_READ: reads, Port.ACT_WRITE: reads / 2})


def _select(tiles: int, heads: int, words: int) -> Work:
    """One head a cycle and one more a word; the division of a row tile beside the sums of the next."""
    sums = heads + words
    steady = sums + (tiles - 1) * max(SELECT_TILE_CYCLES, sums + 3)
    return _streamed(2, steady, 15, {Port.ACT_READ: 2 * words * tiles / steady})


def _compact(tiles: int, words: int, live: int, config: AccelConfig) -> Work:
    """Half a row tile a cycle for each channel word, whose package must be ready when the next one ends.

    It does not matter which tokens leave, nor how many: kept rows are written beside the reading of later ones.
    """
    steps, positions = ceil_div(live, compact_rows(config)), package_positions(config)
    package = PACKAGE_CYCLES + positions
    cycles = max(COMPACT_ENDS_CYCLES + steps, PACKAGE_SCALE_CYCLES) + positions
    if words > 1:
        cycles = max(cycles + package, COMPACT_ENDS_CYCLES + positions + 2 * steps + 1)
        cycles += (words - 2) * max(steps + 2, package)
    cycles = max(cycles, live + 4)  # the token list goes one by one
    lead, tail = 6, PACKAGE_CYCLES + positions
    steady = cycles - lead - tail
    demand = {Port.WIDE_READ: tiles * words / steady, Port.WIDE_WRITE: words * (steps + 1) / steady}
    return _streamed(lead, steady, tail, demand)


def _load(descriptor: Descriptor, config: AccelConfig, memory: MemoryModel) -> Work:
    target = Memory(descriptor.memory)
    word_bytes = {
        Memory.ACT: config.act_bytes,
        Memory.WIDE: config.wide_bytes,
        Memory.WEIGHT: config.weight_bytes,
        Memory.PARAM: config.param_bytes,
    }[target]
    stripes = ceil_div(descriptor.length, max(BURST_BYTES, word_bytes))  # a short transfer does not reach every port
    rate = min(memory.read_rate(config, word_bytes), float(stripes), word_bytes / config.axi_bytes)
    demand = {Port.BUS: rate / config.axi_ports, Port.DDR: rate * memory.bus_share(config)}
    if target in WRITE_PORTS:
        demand[WRITE_PORTS[target]] = rate * config.axi_bytes / word_bytes
    is_gathered = word_bytes > config.axi_bytes
    return _streamed(3 + memory.first_beat_cycles, descriptor.length / config.axi_bytes / rate, 1 + is_gathered, demand)


def _store(descriptor: Descriptor, config: AccelConfig, memory: MemoryModel) -> Work:
    source = Memory(descriptor.memory)
    word_bytes = {Memory.ACT: config.act_bytes, Memory.WIDE: config.wide_bytes, Memory.TOKEN: 2}[source]
    steady = memory.store_cycles(config, descriptor.offset, descriptor.length, word_bytes)
    demand = {Port.DDR: descriptor.length / steady / memory.bytes_per_cycle}
    if source in READ_PORTS:
        demand[READ_PORTS[source]] = descriptor.length / word_bytes / steady
    is_gathered = word_bytes < config.axi_bytes
    return _streamed(5 + is_gathered, steady, memory.first_beat_cycles, demand)
