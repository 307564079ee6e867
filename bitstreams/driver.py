"""Host driver: loads a compiled network into an accelerator and runs pictures on it, over any transport.

The driver speaks to the core through a `Transport`: 32-bit registers by byte offset, and DDR buffers that exist twice,
once in the host's cache and once in the memory that the core sees. A transport can be a board or a simulation;
nothing here depends on which.

Imports: numpy, the standard library and the contract modules of hw/ that import nothing else, so that it also runs on
the board.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hw.config import AccelConfig
from hw.isa import DESCRIPTOR_BYTES, ErrorCode, Region, Unit
from hw.regmap import ID_VALUE, NUM_TOKEN_REGISTERS, REGISTERS, STALLS, Control, Status, stall_register

DDR_ALIGNMENT = 64
"""Bytes: regions and programs start at this alignment and have a whole number of it."""

ADDRESS_LIMIT = 1 << 40
"""The core's AXI addresses have 40 bits."""

DEFAULT_WATCHDOG_CYCLES = 50_000_000
"""Far more than the longest descriptor of a large network (some 10**5 cycles), 0.2 s at 250 MHz."""

DEFAULT_TIMEOUT_S = 10.0
"""For a run; a large network takes milliseconds."""

ABORT_TIMEOUT_S = 1.0
"""An abort takes no longer than the bus transfers in flight: microseconds."""


class Buffer(Protocol):
    """A piece of DDR: `host` is the host's view, `device_address` the core's; flush and invalidate move data between.

    A transport must not assume that one sees the other's writes without flush() (host to device) or invalidate()
    (device to host).
    """

    @property
    def device_address(self) -> int:
        """Byte address for the core, a multiple of DDR_ALIGNMENT."""

    @property
    def host(self) -> NDArray[np.uint8]:
        """Writable host view, (num_bytes,)."""

    def flush(self) -> None:
        """Make the host's writes visible to the core."""

    def invalidate(self) -> None:
        """Make the core's writes visible to the host."""

    def free(self) -> None:
        """Give the memory back; the buffer must not be used afterwards."""


class Transport(Protocol):
    """Access to one core."""

    def read32(self, offset: int) -> int:
        """Return the register at a byte offset."""

    def write32(self, offset: int, value: int) -> None:
        """Write the register at a byte offset; value 0..2**32-1."""

    def allocate(self, num_bytes: int) -> Buffer:
        """Return a buffer of at least one byte, aligned to DDR_ALIGNMENT. Raises MemoryError."""

    def idle(self) -> None:
        """Let some time pass between two polls: a short sleep on a board, some clock cycles in a simulation."""

    def seconds(self) -> float:
        """Monotonic time of the world the core lives in: wall clock on a board, simulated time in a simulation."""


class LoadableProgram(Protocol):
    """What the driver needs of a compiled network (hw.program.Program)."""

    @property
    def weights(self) -> bytes:
        """Contents of the WEIGHTS region."""

    @property
    def input_bytes(self) -> int:
        """Size of the INPUT region: the pictures of one run."""

    @property
    def output_bytes(self) -> int:
        """Size of the OUTPUT region."""

    def program_bytes(self) -> bytes:
        """Return the packed descriptors."""


class WrongCoreError(RuntimeError):
    """The core is none of ours, or was generated from another config."""


class AcceleratorError(RuntimeError):
    """A run that the core ended with an error: `code`, `index` of the descriptor in the program, `status`."""

    def __init__(self, code: int, index: int, status: Status) -> None:
        name = ErrorCode(code).name if code in set(ErrorCode) else f"unknown error {code}"
        super().__init__(f"accelerator reports {name} at descriptor {index} (status {describe_status(status)})")
        self.code = code
        self.index = index
        self.status = status


@dataclass(frozen=True)
class RunResult:
    """One run: the OUTPUT region, and the counters of the run.

    cycles from start to done; token_counts[i] live tokens after COMPACT i (0 where the program has none);
    busy_cycles and wait_cycles per unit name in lower case (hw.isa.Unit); stall_cycles per unit and reason
    (hw.regmap.STALLS).
    """

    output: bytes
    cycles: int
    token_counts: tuple[int, ...]
    busy_cycles: dict[str, int]
    wait_cycles: dict[str, int]
    stall_cycles: dict[str, dict[str, int]]


def describe_status(status: Status) -> str:
    """Return the set bits by name, or "idle"."""
    return " | ".join(str(flag.name) for flag in Status if flag in status) or "idle"


class HeatVit:
    """One accelerator core behind a transport; a context manager that frees its buffers.

    Opening only reads the ID and CONFIG_HASH registers. Raises WrongCoreError if the core is not a heatvit core or was
    generated from another config.
    """

    def __init__(self, transport: Transport, config: AccelConfig) -> None:
        self._transport = transport
        self._buffers = ExitStack()
        self._inputs: tuple[Buffer, ...] = ()
        self._output: Buffer | None = None
        self._current = 0  # the input buffer that INPUT_LO and INPUT_HI hold
        self._staged: int | None = None  # the one that the next start() takes
        self._deadline: float | None = None  # of the run in progress
        self._input_bytes = 0
        self._output_bytes = 0
        for name, expected in (("ID", ID_VALUE), ("CONFIG_HASH", config.hash32)):
            if (value := self._read(name)) != expected:
                raise WrongCoreError(f"{name} must be {expected:#010x}, not {value:#010x}: the core does not match")

    def __enter__(self) -> HeatVit:
        """Return self."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Free all buffers."""
        self.close()

    def close(self) -> None:
        """End a run in progress and free all buffers; load() may be called again."""
        try:
            self.abort()
        finally:
            self._inputs, self._output, self._staged = (), None, None
            self._buffers.close()

    def load(self, program: LoadableProgram, *, watchdog_cycles: int = DEFAULT_WATCHDOG_CYCLES) -> None:
        """Put weights and program into DDR and point the core at them; replaces what was loaded before.

        watchdog_cycles without a completed descriptor end a run with ErrorCode.WATCHDOG; 0 is off.
        Raises MemoryError if DDR is full, ValueError if the transport's buffers are misaligned or the program is empty.
        """
        descriptors = program.program_bytes()
        if not descriptors or len(descriptors) % DESCRIPTOR_BYTES:
            raise ValueError(f"program must have a multiple of {DESCRIPTOR_BYTES} bytes, not {len(descriptors)}")
        self.close()
        with ExitStack() as stack:
            self._write_address("PROGRAM", self._allocate(stack, len(descriptors), descriptors))
            self._write("PROGRAM_LENGTH", len(descriptors) // DESCRIPTOR_BYTES)
            self._load_region(stack, Region.WEIGHTS, len(program.weights), program.weights)
            first = self._load_region(stack, Region.INPUT, program.input_bytes)
            second = self._allocate(stack, program.input_bytes, b"")
            output = self._load_region(stack, Region.OUTPUT, program.output_bytes)
            self._write("WATCHDOG", watchdog_cycles)
            self._buffers = stack.pop_all()
        self._inputs, self._output, self._current = (first, second), output, 0
        self._input_bytes, self._output_bytes = program.input_bytes, program.output_bytes

    def infer(self, input_bytes: bytes, timeout_s: float = DEFAULT_TIMEOUT_S) -> RunResult:
        """Run the program once, on pictures packed as the program's INPUT region.

        Raises ValueError if the size is wrong, AcceleratorError if the core ends the run with an error, TimeoutError
        (after an abort) if it does not end at all. The next call works after either.
        """
        self.stage(input_bytes)
        self.start(timeout_s)
        return self.wait()

    def stage(self, input_bytes: bytes) -> None:
        """Put the pictures of the next start() into DDR, beside those of a run in progress.

        Raises ValueError if the size is wrong.
        """
        if not self._inputs:
            raise RuntimeError("no program is loaded")
        if len(input_bytes) != self._input_bytes:
            raise ValueError(f"input_bytes must have {self._input_bytes} bytes, not {len(input_bytes)}")
        index = self._current if self._deadline is None else 1 - self._current
        self._inputs[index].host[: len(input_bytes)] = np.frombuffer(input_bytes, np.uint8)
        self._inputs[index].flush()
        self._staged = index

    def start(self, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Start a run on the staged pictures and return; wait() must end it within timeout_s from now.

        Raises TimeoutError if the core is still busy with something else.
        """
        if self._deadline is not None:
            raise RuntimeError("a run is in progress: wait() or abort() ends it")
        if self._staged is None:
            raise RuntimeError("no pictures are staged")
        deadline = self._transport.seconds() + timeout_s
        self._wait("the core to become idle", deadline, _is_quiet)
        if self._staged != self._current:
            self._write_address(Region.INPUT.name, self._inputs[self._staged])
            self._current = self._staged
        self._staged = None
        self._deadline = deadline  # before the write: an interrupt between the two must find a run to abort
        self._write("CONTROL", Control.START)

    def wait(self) -> RunResult:
        """Wait for the end of the run that start() began, and return its results; raises as infer().

        Anything that interrupts the wait, KeyboardInterrupt included, aborts the run.
        """
        if self._deadline is None or self._output is None:
            raise RuntimeError("no run is in progress")
        try:
            status = self._wait(
                "the run to end", self._deadline, lambda status: bool(status & (Status.DONE | Status.ERROR))
            )
            if Status.ERROR in status:
                code, index = self._read("ERROR"), self._read("ERROR_INDEX")
                self._wait("the bus to drain", self._deadline, _is_quiet)
                self._deadline = None
                raise AcceleratorError(code, index, status)
        except BaseException:
            self.abort()
            raise
        self._deadline = None
        self._output.invalidate()
        return RunResult(
            output=self._output.host[: self._output_bytes].tobytes(),
            cycles=self._read("CYCLES"),
            token_counts=tuple(self._read(f"TOKENS_{i}") for i in range(NUM_TOKEN_REGISTERS)),
            busy_cycles={unit.name.lower(): self._read(f"BUSY_{unit.name}") for unit in Unit},
            wait_cycles={unit.name.lower(): self._read(f"WAIT_{unit.name}") for unit in Unit},
            stall_cycles={
                unit.name.lower(): {stall.value: self._read(stall_register(unit, stall)) for stall in stalls}
                for unit, stalls in STALLS.items()
            },
        )

    def _wait(self, what: str, deadline: float, is_over: Callable[[Status], bool]) -> Status:
        """Poll STATUS until is_over; return it. Raises TimeoutError naming the last status."""
        while not is_over(status := Status(self._read("STATUS"))):
            if self._transport.seconds() > deadline:
                raise TimeoutError(f"timed out waiting for {what} (status {describe_status(status)})")
            self._transport.idle()
        return status

    def abort(self) -> None:
        """End the run in progress, if there is one, and let its bus transfers finish, so that buffers may be freed.

        Raises TimeoutError if the core does not stop.
        """
        if self._deadline is not None:
            self._deadline = None
            self._write("CONTROL", Control.ABORT)
            self._wait("the core to abort", self._transport.seconds() + ABORT_TIMEOUT_S, _is_quiet)

    def _load_region(self, stack: ExitStack, region: Region, num_bytes: int, contents: bytes = b"") -> Buffer:
        buffer = self._allocate(stack, num_bytes, contents)
        self._write_address(region.name, buffer)
        self._write(f"{region.name}_SIZE", _align(num_bytes))
        return buffer

    def _allocate(self, stack: ExitStack, num_bytes: int, contents: bytes) -> Buffer:
        """Return a flushed buffer that begins with contents; the stack frees it."""
        buffer = self._transport.allocate(_align(num_bytes))
        stack.callback(buffer.free)
        address = buffer.device_address
        if address % DDR_ALIGNMENT or not 0 <= address <= ADDRESS_LIMIT - _align(num_bytes):
            raise ValueError(f"device_address must be a multiple of {DDR_ALIGNMENT} below 2**40, not {address:#x}")
        buffer.host[: len(contents)] = np.frombuffer(contents, np.uint8)
        # Also for buffers that only the core writes: a dirty host line evicted later would overwrite its results.
        buffer.flush()
        return buffer

    def _write_address(self, name: str, buffer: Buffer) -> None:
        address = int(buffer.device_address)
        self._write(f"{name}_LO", address & 0xFFFFFFFF)
        self._write(f"{name}_HI", address >> 32)

    def _read(self, name: str) -> int:
        return self._transport.read32(REGISTERS[name].offset)

    def _write(self, name: str, value: int) -> None:
        # A plain int: memory-mapped access of a board rejects numpy integers and enums.
        self._transport.write32(REGISTERS[name].offset, int(value))


def _is_quiet(status: Status) -> bool:
    return not status & (Status.BUSY | Status.DRAINING)


def _align(num_bytes: int) -> int:
    """Round up to a whole, non-zero number of DDR_ALIGNMENT."""
    return max(-(-num_bytes // DDR_ALIGNMENT), 1) * DDR_ALIGNMENT
