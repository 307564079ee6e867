"""DDR as the cycle model sees it: a bandwidth for all ports together and a first-beat latency."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hw.config import AccelConfig
from hw.tiling import TRANSFER_BYTES
from hw.timing import BURST_BLOCKS, READ_BLOCKS

BURST_BYTES = BURST_BLOCKS * TRANSFER_BYTES


@dataclass(frozen=True)
class MemoryModel:
    """bytes_per_cycle of all ports together; first_beat_cycles from the address on the bus to its first beat.

    The defaults are those of every published figure: 12.8 GB/s at 250 MHz, first beat after 60 cycles (ZCU102 PS DDR4).
    """

    bytes_per_cycle: float = 51.2
    first_beat_cycles: int = 60

    def __post_init__(self) -> None:
        if self.bytes_per_cycle <= 0:
            raise ValueError(f"bytes_per_cycle must be positive, not {self.bytes_per_cycle!r}")
        if self.first_beat_cycles < 1:
            raise ValueError(f"first_beat_cycles must be at least 1, not {self.first_beat_cycles!r}")

    def bus_share(self, config: AccelConfig) -> float:
        """Return which part of the bandwidth a stream of one beat per cycle takes."""
        return config.axi_bytes / self.bytes_per_cycle

    def read_rate(self, config: AccelConfig) -> float:
        """Beats per cycle of a long LOAD that has the DDR to itself, at most one a port (hw/rtl/stripe.py).

        A reader has at most READ_BLOCKS requested; the next burst is requested two cycles after the oldest has left.
        """
        burst = BURST_BYTES // config.axi_bytes
        requested = config.axi_ports * READ_BLOCKS // BURST_BLOCKS * burst
        return min(
            float(config.axi_ports), 1 / self.bus_share(config), requested / (self.first_beat_cycles + burst + 2)
        )

    def store_cycles(self, config: AccelConfig, offset: int, length: int, word_bytes: int) -> int:
        """Cycles from the first word read to the last beat on the bus: a burst leaves only when all of it is here."""
        bounds = [offset, *range((offset // BURST_BYTES + 1) * BURST_BYTES, offset + length, BURST_BYTES)]
        fill_bytes = min(word_bytes, config.axi_bytes)
        sent = 0
        for start, end in pairwise([*bounds, offset + length]):
            sent = max(sent, (end - offset) // fill_bytes) + (end - start) // config.axi_bytes + 1
        return sent
