"""Driver buffers of a simulation: host and device copies that meet only in flush() and invalidate()."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

DDR_BASE = 0x8_0000_0000
"""Buffers lie above 4 GiB (a Zynq's high DDR), so that an address cut to 32 bits fails."""

PAGE_BYTES = 4096
POISON = 0xA5
"""What a new buffer holds on the device side, so that unwritten memory never looks like zeros."""


class BackDoor(Protocol):
    """DDR contents without a bus."""

    def allocate(self, num_bytes: int) -> int:
        """Return the address of a new page-aligned buffer full of POISON; addresses are never used twice."""

    def free(self, address: int) -> None:
        """Make a buffer's addresses invalid."""

    def peek(self, address: int, length: int) -> bytes:
        """Read bytes of a buffer."""

    def poke(self, address: int, contents: bytes) -> None:
        """Write bytes of a buffer."""


class AddressSpace:
    """Gives every new buffer addresses of its own."""

    def __init__(self) -> None:
        self._next_address = DDR_BASE

    def take(self, num_bytes: int) -> int:
        """Return a page-aligned address that was never used before."""
        address = self._next_address
        # One unused page between buffers: running over the end of one never reaches the next.
        self._next_address += (-(-num_bytes // PAGE_BYTES) + 1) * PAGE_BYTES
        return address


class SimulatedBuffer:
    """A driver buffer whose host copy meets the device memory only in flush() and invalidate()."""

    def __init__(self, memory: BackDoor, num_bytes: int) -> None:
        self._memory = memory
        self.device_address = memory.allocate(num_bytes)
        self.host: NDArray[np.uint8] = np.zeros(num_bytes, np.uint8)

    def flush(self) -> None:
        """Copy host to device."""
        self._memory.poke(self.device_address, self.host.tobytes())

    def invalidate(self) -> None:
        """Copy device to host."""
        self.host[:] = np.frombuffer(self._memory.peek(self.device_address, self.host.size), np.uint8)

    def free(self) -> None:
        """Give the device memory back."""
        self._memory.free(self.device_address)
