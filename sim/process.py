"""The driver's Transport over a pipe to a core that runs beside its DDR model in one native process.

No Python runs while the clock does: a poll of a register lets the process simulate some cycles. Host buffers and device
memory are separate copies, as in sim/transport.py. sim/cpp/main.cpp is the other side of the pipe.
"""

from __future__ import annotations

import signal
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hw.isa import Unit
from hw.memory_model import BYTES_PER_CYCLE, FIRST_BEAT_CYCLES
from hw.regmap import Stall
from sim.buffers import AddressSpace, SimulatedBuffer
from sim.job import CLOCK_NS
from sim.runner import SimulationError
from sim.verilator import SimulationModel

IDLE_CYCLES = 1000
"""Cycles between two polls of STATUS; the core counts the cycles of a run itself."""

REQUEST = struct.Struct("<3Q")
REPLY = struct.Struct("<2Q")
EVENT_DTYPE = np.dtype(
    [
        ("cycle", "<u8"),
        ("unit", "<u4"),
        ("is_done", "<u4"),
        *((stall.value, "<u4") for stall in Stall),
        ("wait", "<u4"),
        ("padding", "<u4"),
    ]
)
"""One record of the process: a unit took a descriptor, or completed one and had these counts of its registers."""


class Command(IntEnum):
    """What a request asks for; the order is that of sim/cpp/main.cpp."""

    READ = 0
    WRITE = 1
    ADD = 2
    REMOVE = 3
    POKE = 4
    PEEK = 5
    RUN = 6
    TRAFFIC = 7
    EVENTS = 8


@dataclass(frozen=True)
class DdrModel:
    """Timing of the modelled DDR; the defaults are those of hw.memory_model.

    bytes_per_cycle over all ports together, reads and writes, to a thousandth; 0 is without limit. latency_cycles from
    an address to the first beat, and from the last written beat to its response. refresh_seed, if not 0, pauses all
    traffic at random intervals of DDR4's refresh.
    """

    bytes_per_cycle: float = BYTES_PER_CYCLE
    latency_cycles: int = FIRST_BEAT_CYCLES
    refresh_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("bytes_per_cycle", "latency_cycles", "refresh_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, not {getattr(self, name)!r}")

    def arguments(self) -> list[str]:
        """Return the command line of the process."""
        return [str(round(1000 * self.bytes_per_cycle)), str(self.latency_cycles), str(self.refresh_seed)]


@dataclass(frozen=True)
class DescriptorTimes:
    """When the n-th descriptor of each unit was taken and completed: cycles since the process started, by unit.

    counts holds, for each counter of the unit (the values of hw.regmap.Stall, and "wait"), what it had counted when
    the n-th descriptor was completed; a stall of its last two cycles is in the next one's. Empty for times that no
    core has measured.
    """

    starts: dict[Unit, list[int]]
    ends: dict[Unit, list[int]]
    counts: dict[Unit, dict[str, list[int]]] = field(default_factory=dict)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let an interrupt (SIGINT) wait for the end of the block: half a reply would be taken for part of the next one.

    The system may give it to any thread and Python raises it in the main one, so that no thread's mask would help.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: waiting.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if waiting:
            signal.raise_signal(signal.SIGINT)


class _Process:
    """The process and its pipe; cycle is the simulated time of the last reply."""

    def __init__(self, model: SimulationModel, ddr: DdrModel) -> None:
        self.cycle = 0
        command = [str(model.executable), *ddr.arguments()]
        pipe = subprocess.PIPE
        # In a session of its own: an interrupt from the terminal is for the driver, which then aborts the run.
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)

    def request(self, command: Command, first: int = 0, second: int = 0, contents: bytes = b"") -> int:
        """Send a request and return the value of its reply."""
        assert self._process.stdin is not None
        with _uninterrupted():
            try:
                self._process.stdin.write(REQUEST.pack(command, first, second) + contents)
                self._process.stdin.flush()
            except BrokenPipeError:
                raise self._failure() from None
            value, self.cycle = REPLY.unpack(self.receive(REPLY.size))
        return int(value)

    def receive(self, length: int) -> bytes:
        """Return the bytes that follow a reply."""
        assert self._process.stdout is not None
        contents = self._process.stdout.read(length)
        if len(contents) < length:
            raise self._failure()
        return contents

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _failure(self) -> SimulationError:
        """Return what the process said at its end."""
        assert self._process.stderr is not None
        self._process.wait()
        words = self._process.stderr.read().decode(errors="replace").strip()
        return SimulationError(f"simulation ended with exit status {self._process.returncode}: {words}")


class ProcessMemory:
    """The back door to the DDR of a process."""

    def __init__(self, process: _Process) -> None:
        self._process = process
        self._addresses = AddressSpace()

    def allocate(self, num_bytes: int) -> int:
        """Return the address of a new page-aligned buffer full of sim.buffers.POISON."""
        address = self._addresses.take(num_bytes)
        self._process.request(Command.ADD, address, num_bytes)
        return address

    def free(self, address: int) -> None:
        """Make a buffer's addresses answer with errors."""
        self._process.request(Command.REMOVE, address)

    def peek(self, address: int, length: int) -> bytes:
        """Read without a bus."""
        with _uninterrupted():
            self._process.request(Command.PEEK, address, length)
            return self._process.receive(length)

    def poke(self, address: int, contents: bytes) -> None:
        """Write without a bus."""
        self._process.request(Command.POKE, address, len(contents), contents)


class ProcessTransport:
    """Transport to a core in a process of its own; a context manager that ends the process.

    Every call raises SimulationError, with the process's last words, if it has ended by itself: it does so on a
    register access that the core does not answer.
    """

    def __init__(self, model: SimulationModel, ddr: DdrModel) -> None:
        self._process = _Process(model, ddr)
        self.memory = ProcessMemory(self._process)

    def __enter__(self) -> ProcessTransport:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process."""
        self._process.stop()

    def read32(self, offset: int) -> int:
        """Read a register over AXI4-Lite."""
        return self._process.request(Command.READ, offset)

    def write32(self, offset: int, value: int) -> None:
        """Write a register over AXI4-Lite."""
        self._process.request(Command.WRITE, offset, value)

    def idle(self) -> None:
        """Simulate some cycles."""
        self._process.request(Command.RUN, IDLE_CYCLES)

    def seconds(self) -> float:
        """Return the simulated time."""
        return self.cycle * CLOCK_NS * 1e-9

    def allocate(self, num_bytes: int) -> SimulatedBuffer:
        """Return a new buffer."""
        return SimulatedBuffer(self.memory, num_bytes)

    @property
    def cycle(self) -> int:
        """Cycles simulated since the process started."""
        return self._process.cycle

    def traffic_bytes(self) -> tuple[int, int]:
        """Return the bytes that all ports have (read, written) since the process started."""
        return self._process.request(Command.TRAFFIC, 0), self._process.request(Command.TRAFFIC, 1)

    def take_times(self) -> DescriptorTimes:
        """Return the times of all descriptors since the last call."""
        with _uninterrupted():
            count = self._process.request(Command.EVENTS)
            events = np.frombuffer(self._process.receive(count * EVENT_DTYPE.itemsize), EVENT_DTYPE)
        starts, ends = ({unit: _column(events, unit, is_done, "cycle") for unit in Unit} for is_done in (0, 1))
        counters = (*(stall.value for stall in Stall), "wait")
        counts = {unit: {name: _column(events, unit, 1, name) for name in counters} for unit in Unit}
        return DescriptorTimes(starts, ends, counts)


def _column(events: NDArray[Any], unit: Unit, is_done: int, name: str) -> list[int]:
    """Return one field of one kind of event of a unit, in order."""
    values: list[int] = events[name][(events["unit"] == unit) & (events["is_done"] == is_done)].tolist()
    return values
