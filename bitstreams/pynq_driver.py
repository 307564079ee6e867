"""The accelerator under PYNQ: driver, transport and the checks between a bitstream and a compiled network.

    with open_accelerator(Path("heatvit.bit"), CompiledNetwork.load(Path("network.npz"))) as accelerator:
        predictions = accelerator.predict(pictures_u8)

Importing the module binds the driver to the core's VLNV: any pynq.Overlay made afterwards has it as its attribute.
Only what PYNQ 3.0.1 and 4.0.0 have in common is used, and it is the only module of this package that imports pynq.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pynq import DefaultIP, Device, Overlay, allocate

from bitstreams.accelerator import Accelerator
from bitstreams.compiled import CompiledNetwork
from bitstreams.device_lock import DeviceLock
from bitstreams.driver import DEFAULT_TIMEOUT_S, DEFAULT_WATCHDOG_CYCLES
from bitstreams.manifest import MANIFEST_NAME, Manifest
from hw.overlay import INSTANCE, VLNV

POLL_S = 50e-6
"""Pause between two polls of STATUS: a few percent of the milliseconds that a large network takes."""


class PynqBuffer:
    """A driver buffer in memory of pynq.allocate."""

    def __init__(self, num_bytes: int, device: Any) -> None:
        self._buffer = allocate(shape=(num_bytes,), dtype=np.uint8, target=device)
        # Taken here and never of a slice: PYNQ versions differ in what that returns.
        self.device_address = int(self._buffer.device_address)
        self.host: NDArray[np.uint8] = np.asarray(self._buffer)

    def flush(self) -> None:
        """Make the host's writes visible to the core."""
        self._buffer.flush()

    def invalidate(self) -> None:
        """Make the core's writes visible to the host."""
        self._buffer.invalidate()

    def free(self) -> None:
        """Give the memory back."""
        self.host = np.zeros(0, np.uint8)  # no view into memory that is gone
        self._buffer.freebuffer()


class HeatVitIP(DefaultIP):  # type: ignore[misc]
    """The core in an overlay, and the Transport to it; PYNQ makes one for each core that the bitstream holds."""

    bindto = (VLNV,)

    def read32(self, offset: int) -> int:
        """Return the register at a byte offset."""
        return int(self.mmio.read(offset))

    def write32(self, offset: int, value: int) -> None:
        """Write the register at a byte offset."""
        self.mmio.write(offset, int(value))

    def allocate(self, num_bytes: int) -> PynqBuffer:
        """Return a new buffer. Raises MemoryError."""
        try:
            return PynqBuffer(num_bytes, self.device)
        except RuntimeError as error:  # what PYNQ raises when contiguous memory is used up
            raise MemoryError(f"no {num_bytes} bytes of contiguous memory are left: {error}") from error

    def idle(self) -> None:
        """Sleep between two polls."""
        time.sleep(POLL_S)

    def seconds(self) -> float:
        """Return the monotonic wall-clock time."""
        return time.monotonic()


def load_manifest(bitstream: Path) -> Manifest:
    """Return the manifest beside a bitstream. Raises ValueError or OSError naming the file."""
    return Manifest.load(bitstream.with_name(MANIFEST_NAME))


def check_match(manifest: Manifest, network: CompiledNetwork) -> None:
    """Raise ValueError if a network was not compiled for the core of a bitstream."""
    if manifest.vlnv != VLNV:
        raise ValueError(f"the bitstream must hold {VLNV}, not {manifest.vlnv}")
    if manifest.config != network.config:
        different = {
            name: (value, manifest.config.to_dict()[name])
            for name, value in network.config.to_dict().items()
            if value != manifest.config.to_dict()[name]
        }
        facts = ", ".join(f"{name} {ours} (bitstream {theirs})" for name, (ours, theirs) in different.items())
        raise ValueError(f"the network was compiled for another accelerator than the bitstream's: {facts}")


def _active_device() -> Device:
    """Return PYNQ's device. Raises OSError where there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # says the same
        try:
            return Device.active_device
        except RuntimeError as error:
            raise OSError(f"PYNQ finds no board here ({error}); docs/zcu102.md helps") from error


@contextmanager
def open_accelerator(
    bitstream: Path,
    network: CompiledNetwork,
    *,
    device: Device | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    watchdog_cycles: int = DEFAULT_WATCHDOG_CYCLES,
) -> Iterator[Accelerator]:
    """Download a bitstream and load a network into its core; the device is locked for the length of the with block.

    device is PYNQ's active one unless another is given. Raises ValueError or OSError if there is no board, or if the
    manifest is missing, wrong or that of another accelerator; DeviceBusyError if somebody else uses the device;
    WrongCoreError if the core is not what the manifest says.
    """
    check_match(load_manifest(bitstream), network)
    target = _active_device() if device is None else device
    with DeviceLock(target.tag):  # also while the bitstream is written: a run of somebody else would not survive it
        core = getattr(Overlay(str(bitstream), device=target), INSTANCE)
        if not isinstance(core, HeatVitIP):
            raise ValueError(f"{INSTANCE} of {bitstream} must be a {VLNV}, not a {type(core).__name__}")
        with Accelerator(core, network, timeout_s=timeout_s, watchdog_cycles=watchdog_cycles) as accelerator:
            yield accelerator
