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
from sim.job import CLOCK_NS, Outcome, run_picture
from sim.process import DdrModel, DescriptorTimes, ProcessTransport
from sim.verilator import SimulationModel

TIMEOUT_CYCLES = 50_000_000
"""Far more than any picture that is measured."""


@dataclass(frozen=True)
class TimedRun:
    """One run: comparison of its pictures with the golden model, descriptor times, and what the run cost.

    ddr_read and ddr_written in bytes. simulated_cycles and wall_s of the driver's whole call, wall_s in seconds.
    """

    comparisons: tuple[PictureComparison, ...]
    times: DescriptorTimes
    ddr_read: int
    ddr_written: int
    simulated_cycles: int
    wall_s: float

    @property
    def outcome(self) -> Outcome:
        """How the run ended."""
        return self.comparisons[0].outcome

    @property
    def mismatches(self) -> int:
        """Values that differ; if the run failed, 1."""
        return sum(comparison.mismatches for comparison in self.comparisons) + bool(self.failure)

    @property
    def failure(self) -> str:
        """Empty, or why the run did not end normally."""
        return self.comparisons[0].failure

    @property
    def problem(self) -> str:
        """The failure, or the first divergence, or nothing."""
        divergences = (comparison.divergence for comparison in self.comparisons)
        return self.failure or next((str(divergence) for divergence in divergences if divergence), "")


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
        return sum(run.mismatches for run in (*self.checked, *self.timed))

    @property
    def problem(self) -> str:
        """The first failure or divergence, or nothing."""
        return next((run.problem for run in (*self.checked, *self.timed) if run.problem), "")


def measure(
    network: IntegerNetwork,
    pictures_u8: Sequence[U8] | U8,
    config: AccelConfig,
    model: SimulationModel,
    ddr: DdrModel,
    progress: Callable[[int, int], None],
    batch: int = 1,
) -> Measurement:
    """Run pictures (B, in_chans, image_size, image_size), `batch` at a time, on a core of sim.cosim.build_process_core.

    progress(runs ended, all runs) is called as they end. Raises ValueError if there are pictures over.
    """
    programs = [compile_network(network, config, taps, batch) for taps in (True, False)]
    runs: list[tuple[TimedRun, ...]] = []
    with ProcessTransport(model, ddr) as transport, HeatVit(transport, config) as core:
        for number, program in enumerate(programs):
            runs_each = len(pictures_u8) // batch
            count_done = partial(_progress_of, progress, number * runs_each, 2 * runs_each)
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
    """Load a program and run every picture on it; progress(runs done) is called after each."""
    job = make_job(network, pictures_u8, program, None)
    core.load(job.programs[0])
    results = []
    for number, run in enumerate(job.runs):
        first = number * program.pictures
        results.append(_time(transport, core, first, network, pictures_u8, program, run.input))
        progress(number + 1)
    return tuple(results)


def _time(
    transport: ProcessTransport,
    core: HeatVit,
    first: int,
    network: IntegerNetwork,
    pictures_u8: Sequence[U8] | U8,
    program: Program,
    packed: bytes,
) -> TimedRun:
    """Run the program once, on the pictures from `first` on."""
    transport.take_times()
    read, written = transport.traffic_bytes()
    cycle, start = transport.cycle, time.monotonic()
    outcome = run_picture(core, packed, TIMEOUT_CYCLES * CLOCK_NS * 1e-9)
    wall_s, cycles = time.monotonic() - start, transport.cycle - cycle
    now_read, now_written = transport.traffic_bytes()
    indices = range(first, first + program.pictures)
    comparisons = tuple(compare(index, network, pictures_u8[index], program, outcome) for index in indices)
    return TimedRun(comparisons, transport.take_times(), now_read - read, now_written - written, cycles, wall_s)
