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
from hw.timing import ELEMENT_LATENCY, READ_LATENCY, array_latency, words_in_flight

ROW_SCALE_DRAINS = (Drain.ROW_SCALE, Drain.SCORE)
"""Drains that read no PARAM word."""

WIDE_DRAINS = (Drain.SCORE, Drain.RESIDUAL, Drain.WIDE)
STATISTICS_CYCLES = 67
"""A LayerNorm's serial variance, root and division, from one row tile to the next."""

SOFTMAX_TILE_CYCLES = 24
"""Row scale of a softmax row tile, from one tile to the next."""

SELECT_TILE_CYCLES = 21
COMPACT_WORD_CYCLES = 9
PACKAGE_SCALE_CYCLES = 33
"""The division of COMPACT, which its first channel word waits for."""


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
    """

    lead: float
    steady: float = 0.0
    tail: float = 0.0
    demand: Mapping[Port, float] = field(default_factory=dict)

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
    tiles = ceil_div(descriptor.rows or live, config.rows)
    match Opcode(descriptor.opcode):
        case Opcode.BEGIN:
            return Work(descriptor.rows + 1)
        case Opcode.GEMM:
            return _gemm(descriptor, tiles, live, config)
        case Opcode.KEYS | Opcode.VALUES:
            return _streamed(3, tiles * words, READ_LATENCY, {Port.ACT_READ: 1.0, Port.WEIGHT_WRITE: 1.0})
        case Opcode.LAYER_NORM:
            return _layer_norm(tiles, words)
        case Opcode.SOFTMAX:
            return _softmax(tiles, ceil_div(live, config.depth))
        case Opcode.UNIFORM:
            return Work(24 + ceil_div(live, config.depth) + tiles)
        case Opcode.SELECT:
            words = ceil_div(descriptor.heads, config.depth)
            steady = tiles * (SELECT_TILE_CYCLES + 2 * words)
            return _streamed(2, steady, 3, {Port.ACT_READ: 2 * words * tiles / steady})
        case Opcode.COMPACT:
            return _compact(tiles, words, live) if tokens.is_merging else Work(2)
        case Opcode.LOAD:
            return _load(descriptor, config, memory)
        case Opcode.STORE:
            return _store(descriptor, config, memory)
        case _:
            raise ValueError(f"opcode must be that of a unit, not {descriptor.opcode!r}")


def gemm_steps(descriptor: Descriptor, live: int, config: AccelConfig) -> int:
    """Return the steps of a tile of a GEMM: words of its operands, or those of the live tokens."""
    return descriptor.src_words or ceil_div(live, config.depth)


def _streamed(lead: float, steady: float, tail: float, demand: Mapping[Port, float]) -> Work:
    """Return a Work whose demands are at most one use a cycle."""
    return Work(lead, steady, tail, {port: min(uses, 1.0) for port, uses in demand.items()})


def _gemm(descriptor: Descriptor, row_tiles: int, live: int, config: AccelConfig) -> Work:
    """Tiles follow each other in max(steps, C/K) cycles; the first waits for its constants, the last drains."""
    words = ceil_div(descriptor.cols or live, config.depth)
    steps = gemm_steps(descriptor, live, config)
    tile_words = config.columns // config.depth
    column_tiles = ceil_div(words, tile_words)
    tiles, first_words = row_tiles * column_tiles, min(words, tile_words)
    period = max(steps, tile_words)
    element = ELEMENT_LATENCY[Drain(descriptor.mode)]
    to_drain = READ_LATENCY + 1 + array_latency(config)
    steady = (tiles - 1) * period + steps

    # A word's place in the drain is free again only after its write: short tiles with a long pipeline wait for that.
    in_flight = words_in_flight(config)
    round_trip = first_words + 1 + to_drain + element + 2
    wraps = (row_tiles * words - 1) // in_flight
    steady += wraps * max(0, round_trip - in_flight * period // first_words)

    mode, results = Drain(descriptor.mode), row_tiles * words / steady
    demand = {Port.ACT_READ: tiles * steps / steady}
    if mode not in ROW_SCALE_DRAINS:
        demand[Port.PARAM_READ] = results
    if mode is Drain.RESIDUAL:
        demand[Port.WIDE_READ] = results
    demand[Port.WIDE_WRITE if mode in WIDE_DRAINS else Port.ACT_WRITE] = results
    last_words = words - (column_tiles - 1) * tile_words
    lead = 2 + max(steps, first_words + 2) - steps
    return _streamed(lead, steady, to_drain + last_words - 1 + element + 2, demand)


def _layer_norm(tiles: int, words: int) -> Work:
    """Sums of a tile, the statistics beside the sums of the next and the normalisation of the one before."""
    steady = 2 * words + STATISTICS_CYCLES
    if tiles > 1:
        # The sums of the second tile, the tiles in the middle, and the normalisation before the last tile's.
        steady = 2 * words + max(STATISTICS_CYCLES, words + 4) + max(STATISTICS_CYCLES, words + 6)
        steady += (tiles - 2) * max(STATISTICS_CYCLES, 2 * words + 5)
    reads = 2 * words * tiles / steady
    return _streamed(5, steady, 15, {Port.WIDE_READ: reads, Port.PARAM_READ: reads / 2, Port.ACT_WRITE: reads / 2})


def _softmax(tiles: int, words: int) -> Work:
    """Two passes over each row tile; the row scale of a tile beside the next one."""
    steady = 2 * words + (tiles - 1) * max(SOFTMAX_TILE_CYCLES, 2 * words + 3)
    reads = 2 * words * tiles / steady
    return _streamed(5, steady, 34, {Port.WIDE_READ: reads, Port.ACT_WRITE: reads / 2})


def _compact(tiles: int, words: int, live: int) -> Work:
    """One row a cycle for each channel word; the first waits for the division that the package needs."""
    word_cycles = live + COMPACT_WORD_CYCLES
    demand = {Port.WIDE_READ: tiles / word_cycles, Port.WIDE_WRITE: live / word_cycles}
    return _streamed(max(6, PACKAGE_SCALE_CYCLES - word_cycles), words * word_cycles, 0, demand)


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
