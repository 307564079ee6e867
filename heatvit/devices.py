"""The three devices that a network runs on: the machine and the RTL behind a simulated ZCU102, and a real board."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from bitstreams.driver import DEFAULT_TIMEOUT_S, DEFAULT_WATCHDOG_CYCLES
from heatvit.progress import Report
from hw.config import AccelConfig
from hw.generate import generate
from sim.cosim import WATCHDOG_CYCLES, build_process_of
from sim.machine_core import MachineCore
from sim.overlay_files import write_overlay
from sim.process import DdrModel, ProcessTransport

SIMULATION_TIMEOUT_S = 3600.0
"""Wall clock of a run: a large network takes minutes, and a core that stops is found by its watchdog before."""


class DeviceKind(str, Enum):
    """What executes a network."""

    MACHINE = "machine"
    RTL = "rtl"
    BOARD = "board"


@dataclass(frozen=True)
class OpenDevice:
    """A device and what to download to it; `device` is a pynq.Device, None for the board's own."""

    bitstream: Path
    device: Any
    timeout_s: float
    watchdog_cycles: int


def need_pynq() -> None:
    """Raise ValueError, with the way out, where PYNQ is not installed."""
    if importlib.util.find_spec("pynq") is None:
        raise ValueError("running a network needs PYNQ, on the simulated board too: pip install 'heatvit[board]'")


@contextmanager
def open_device(
    kind: DeviceKind, config: AccelConfig, bitstream: Path | None, work: Path, report: Report
) -> Iterator[OpenDevice]:
    """Yield a device with a core of a config.

    A simulated one gets the files of an overlay unless a bitstream is given, whose .hwh and manifest it then shows.
    Raises ValueError if the board is meant and there is no bitstream, or if PYNQ is not installed.
    """
    need_pynq()
    if kind is DeviceKind.BOARD:
        if bitstream is None:
            raise ValueError("--device board needs --bitstream FILE.bit")
        yield OpenDevice(bitstream, None, DEFAULT_TIMEOUT_S, DEFAULT_WATCHDOG_CYCLES)
        return
    from sim.zcu102 import SimulatedZcu102

    with tempfile.TemporaryDirectory() as name:
        if kind is DeviceKind.MACHINE:
            files = bitstream or write_overlay(Path(name), config)
            device = SimulatedZcu102(MachineCore(config))
            yield OpenDevice(files, device, SIMULATION_TIMEOUT_S, WATCHDOG_CYCLES)
            return
        report("build", 0, 1)
        verilog = generate(config, work.resolve() / "verilog")
        model = build_process_of(verilog, config, work.resolve())
        report("build", 1, 1)
        with ProcessTransport(model, DdrModel()) as core:
            files = bitstream or write_overlay(Path(name), config, verilog.sha256)
            yield OpenDevice(files, SimulatedZcu102(core), SIMULATION_TIMEOUT_S, WATCHDOG_CYCLES)
