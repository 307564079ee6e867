"""Cycle measurements: pictures on a core with its DDR model, first compared in every layer, then timed without taps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from bitstreams.driver import HeatVit
from hw.config import AccelConfig
from hw.program import Program, compile_network
from quant.network import U8, IntegerNetwork
from sim.cosim import PictureComparison, compare, make_job
from sim.job import CLOCK_NS, run_picture
from sim.process import DdrModel, DescriptorTimes, ProcessTransport
from sim.verilator import SimulationModel

TIMEOUT_CYCLES = 50_000_000
"""Far more than any picture that is measured."""


@dataclass(frozen=True)
class TimedRun:
    """One picture: comparison with the golden model, descriptor times, and what the run cost.

    ddr_read and ddr_written in bytes. simulated_cycles and wall_s of the driver's whole call, wall_s in seconds.
    """

    comparison: PictureComparison
    times: DescriptorTimes
    ddr_read: int
    ddr_written: int
    simulated_cycles: int
    wall_s: float


@dataclass(frozen=True)
class Measurement:
    """Every picture twice: `checked` stores and compares every layer, `timed` is the program that a user runs.

    program is that of the timed runs.
    """

    program: Program
    checked: tuple[TimedRun, ...]
    timed: tuple[TimedRun, ...]

    @property
    def mismatches(self) -> int:
        """Values that differ, over all runs; a run that failed counts as one."""
        runs = (*self.checked, *self.timed)
        return sum(run.comparison.mismatches + bool(run.comparison.failure) for run in runs)

    @property
    def problem(self) -> str:
        """The first failure or divergence, or nothing."""
        for run in (*self.checked, *self.timed):
            if run.comparison.failure or run.comparison.divergence:
                return run.comparison.failure or str(run.comparison.divergence)
        return ""


def measure(
    network: IntegerNetwork,
    pictures_u8: Sequence[U8] | U8,
    config: AccelConfig,
    model: SimulationModel,
    ddr: DdrModel,
    progress: Callable[[int, int], None],
) -> Measurement:
    """Run pictures (B, in_chans, image_size, image_size) on a core of sim.cosim.build_process_core.

    progress(runs ended, all runs) is called as they end.
    """
    programs = [compile_network(network, config, taps=taps) for taps in (True, False)]
    runs: list[tuple[TimedRun, ...]] = []
    with ProcessTransport(model, ddr) as transport, HeatVit(transport, config) as core:
        for number, program in enumerate(programs):
            count_done = partial(_progress_of, progress, number * len(pictures_u8), 2 * len(pictures_u8))
            runs.append(_time_all(transport, core, network, pictures_u8, program, count_done))
    return Measurement(programs[1], *runs)


def _progress_of(progress: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def time_pictures(
    network: IntegerNetwork, pictures_u8: Sequence[U8] | U8, program: Program, model: SimulationModel, ddr: DdrModel
) -> tuple[TimedRun, ...]:
    """Run pictures on a program of the network, once, on a core of its own; otherwise as measure."""
    with ProcessTransport(model, ddr) as transport, HeatVit(transport, program.config) as core:
        return _time_all(transport, core, network, pictures_u8, program, lambda done: None)


def _time_all(
    transport: ProcessTransport,
    core: HeatVit,
    network: IntegerNetwork,
    pictures_u8: Sequence[U8] | U8,
    program: Program,
    progress: Callable[[int], None],
) -> tuple[TimedRun, ...]:
    """Load a program and run every picture on it; progress(pictures done) is called after each."""
    job = make_job(network, pictures_u8, program, None)
    core.load(job.programs[0])
    results = []
    for index, (picture_u8, run) in enumerate(zip(pictures_u8, job.runs, strict=True)):
        results.append(_time(transport, core, index, network, picture_u8, program, run.input))
        progress(index + 1)
    return tuple(results)


def _time(
    transport: ProcessTransport,
    core: HeatVit,
    index: int,
    network: IntegerNetwork,
    picture_u8: U8,
    program: Program,
    packed: bytes,
) -> TimedRun:
    """Run one picture."""
    transport.take_times()
    read, written = transport.traffic_bytes()
    cycle, start = transport.cycle, time.monotonic()
    outcome = run_picture(core, packed, TIMEOUT_CYCLES * CLOCK_NS * 1e-9)
    wall_s, cycles = time.monotonic() - start, transport.cycle - cycle
    now_read, now_written = transport.traffic_bytes()
    comparison = compare(index, network, picture_u8, program, outcome)
    return TimedRun(comparison, transport.take_times(), now_read - read, now_written - written, cycles, wall_s)
