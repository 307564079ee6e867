"""DDR as the cycle model sees it: a bandwidth for all ports together and a first-beat latency."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from hw.config import AccelConfig
from hw.tiling import TRANSFER_BYTES
from hw.timing import BURST_BLOCKS, READ_BLOCKS

BURST_BYTES = BURST_BLOCKS * TRANSFER_BYTES

REQUEST_CYCLES = 2
"""From the last beat of a burst to the request that takes its place."""

SETTLING_ROUNDS = 16
"""Rounds of all ports' places that are followed before the rate is taken, and in which it is."""


BYTES_PER_CYCLE = 51.0
FIRST_BEAT_CYCLES = 60
"""Of every published figure: 12.8 GB/s at 250 MHz over all ports, first beat after 60 cycles (ZCU102 PS DDR4)."""


@dataclass(frozen=True)
class MemoryModel:
    """bytes_per_cycle of all ports together; first_beat_cycles from the address on the bus to its first beat."""

    bytes_per_cycle: float = BYTES_PER_CYCLE
    first_beat_cycles: int = FIRST_BEAT_CYCLES

    def __post_init__(self) -> None:
        if self.bytes_per_cycle <= 0:
            raise ValueError(f"bytes_per_cycle must be positive, not {self.bytes_per_cycle!r}")
        if self.first_beat_cycles < 1:
            raise ValueError(f"first_beat_cycles must be at least 1, not {self.first_beat_cycles!r}")

    def bus_share(self, config: AccelConfig) -> float:
        """Return which part of the bandwidth a stream of one beat per cycle takes."""
        return config.axi_bytes / self.bytes_per_cycle

    def read_rate(self, config: AccelConfig, word_bytes: int) -> float:
        """Beats per cycle of a long LOAD of words that has the DDR to itself, at most one a port (hw/rtl/stripe.py)."""
        stripe_bursts = max(word_bytes // BURST_BYTES, 1)
        burst_beats = BURST_BYTES // config.axi_bytes
        return _stripe_rate(
            config.axi_ports, stripe_bursts, burst_beats, self.first_beat_cycles, 1 / self.bus_share(config)
        )

    def store_cycles(self, config: AccelConfig, offset: int, length: int, word_bytes: int) -> int:
        """Cycles from the first word read to the last beat on the bus: a burst leaves only when all of it is here."""
        bounds = [offset, *range((offset // BURST_BYTES + 1) * BURST_BYTES, offset + length, BURST_BYTES)]
        fill_bytes = min(word_bytes, config.axi_bytes)
        sent = 0
        for start, end in pairwise([*bounds, offset + length]):
            sent = max(sent, (end - offset) // fill_bytes) + (end - start) // config.axi_bytes + 1
        return sent


@cache
def _stripe_rate(
    ports: int, stripe_bursts: int, burst_beats: int, first_beat_cycles: int, beats_per_cycle: float
) -> float:
    """Return the beats per cycle that a long LOAD settles to, by following its bursts one by one.

    Bursts are requested in order, stripe by stripe, one a cycle; a port has READ_BLOCKS requested at most, and the
    next burst is requested REQUEST_CYCLES after the oldest has left. While a stripe of several bursts waits for its
    port, the ports after it get none. The DDR answers in the order of the requests.
    """
    places = READ_BLOCKS // BURST_BLOCKS
    ends: list[list[float]] = [[] for _ in range(ports)]
    half = ports * stripe_bursts * places * SETTLING_ROUNDS
    request = delivered = settled = last = 0.0
    for burst in range(2 * half):
        port_ends = ends[burst // stripe_bursts % ports]
        request += 1
        if len(port_ends) >= places:
            request = max(request, port_ends[-places] + REQUEST_CYCLES)
        first_beat = request + first_beat_cycles
        delivered = max(delivered, first_beat) + burst_beats / beats_per_cycle
        begin = max([first_beat, *port_ends[-1:]])
        port_ends.append(max(begin + burst_beats, delivered))
        last = max(last, port_ends[-1])
        if burst == half - 1:
            settled = last
    return half * burst_beats / (last - settled)
