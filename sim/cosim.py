"""Cosimulation: pictures go through the driver into the simulated RTL, and every layer must equal the golden model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hw.config import AccelConfig
from hw.generate import VerilogFiles, generate
from hw.program import Program, compile_network
from quant import reference
from quant.network import U8, IntegerNetwork
from sim.job import Job, JobProgram, JobRun, Outcome
from sim.runner import run_job
from sim.verilator import SimulationModel, build, build_process

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as progress(step, done, total); total 0 says that the length of the step is unknown."""

WATCHDOG_CYCLES = 2_000_000
"""More than the longest descriptor of a network that is simulated; a unit that stops is reported after this time."""


@dataclass(frozen=True)
class Divergence:
    """The first value at which a picture's RTL run leaves the golden model.

    head is the attention head of a (head, row, channel) layer, else None. A live token count is the layer
    selectors.S.num_tokens.
    """

    picture: int
    layer: str
    head: int | None
    row: int
    channel: int
    expected: int
    got: int

    def __str__(self) -> str:
        head = "" if self.head is None else f" head {self.head}"
        place = f"picture {self.picture}, {self.layer}{head}, row {self.row}, channel {self.channel}"
        return f"{place}: golden {self.expected}, RTL {self.got}"


@dataclass(frozen=True)
class PictureComparison:
    """One picture on the RTL against the golden model.

    layers is how many results were compared; mismatches how many of their values differ. failure is empty, or why the
    run did not end normally (nothing is compared then).
    """

    outcome: Outcome
    kept_tokens: tuple[int, ...]
    layers: int
    mismatches: int
    divergence: Divergence | None
    failure: str


@dataclass(frozen=True)
class CosimReport:
    """Pictures in order, and what they ran on. Seconds are wall clock; uncompared_layers have no place in memory."""

    pictures: tuple[PictureComparison, ...]
    uncompared_layers: tuple[str, ...]
    is_build_cached: bool
    build_seconds: float
    simulation_seconds: float

    @property
    def images(self) -> int:
        """Pictures that were run."""
        return len(self.pictures)

    @property
    def layers_compared(self) -> int:
        """Layer results compared, over all pictures."""
        return sum(picture.layers for picture in self.pictures)

    @property
    def mismatches(self) -> int:
        """Values that differ, over all pictures; a run that failed counts as one."""
        return sum(picture.mismatches + bool(picture.failure) for picture in self.pictures)

    @property
    def first_divergence(self) -> Divergence | None:
        """The first divergence of the first picture that has one."""
        return next((picture.divergence for picture in self.pictures if picture.divergence), None)

    @property
    def failures(self) -> tuple[str, ...]:
        """Why runs failed, hangs included."""
        return tuple(f"picture {i}: {picture.failure}" for i, picture in enumerate(self.pictures) if picture.failure)

    @property
    def is_exact(self) -> bool:
        """Every value of every layer of every picture agrees."""
        return self.images > 0 and self.mismatches == 0


def cosimulate(
    network: IntegerNetwork,
    pictures_u8: Sequence[U8] | U8,
    config: AccelConfig,
    folder: Path,
    *,
    taps: bool = True,
    batch: int = 1,
    stall_seed: int | None = None,
    model: SimulationModel | None = None,
    timeout_s: float = 3600.0,
    progress: Progress | None = None,
) -> CosimReport:
    """Compile the network, build its core's RTL in Verilator, run every picture on it, compare with the golden model.

    pictures_u8 (B, in_chans, image_size, image_size). folder keeps the Verilog, the build cache and the job's files.
    taps=True compares every layer that passes through a memory, else live tokens and logits only. batch pictures share
    a run; their number must be a multiple of it. stall_seed pauses
    every bus channel at random. model, from build_core, saves generating the Verilog again. timeout_s bounds the
    simulation in wall-clock time; a hang is a failure in the report.
    """
    if not len(pictures_u8):
        raise ValueError("pictures_u8 must hold at least one picture")
    report = progress or _silent
    report("compile", 0, 1)
    program = compile_network(network, config, taps, batch)
    report("compile", 1, 1)
    start = time.monotonic()
    report("build", 0, 1)
    model = model or build_core(config, folder)
    report("build", 1, 1)
    built = time.monotonic()
    job = make_job(network, pictures_u8, program, stall_seed)
    outcomes = run_job(
        model, job, folder / "job", timeout_s=timeout_s, progress=lambda done, total: report("simulate", done, total)
    )
    simulated = time.monotonic()
    comparisons = []
    for index, picture in enumerate(pictures_u8):
        comparisons.append(compare(index, network, picture, program, outcomes[index // batch]))
        report("compare", index + 1, len(pictures_u8))
    golden = set(reference.run(network, pictures_u8[0]).taps)
    return CosimReport(
        pictures=tuple(comparisons),
        uncompared_layers=tuple(sorted(golden - {tap.name for tap in program.taps})),
        is_build_cached=model.is_cached,
        build_seconds=round(built - start, 3),
        simulation_seconds=round(simulated - built, 3),
    )


def build_core(config: AccelConfig, folder: Path, *, waves: bool = False) -> SimulationModel:
    """Generate the core's Verilog into folder/verilog and return its executable, cached in folder/build."""
    verilog = generate(config, folder / "verilog")
    return build(verilog.sources, verilog.top, folder / "build", separate_modules=verilog.separate_modules, waves=waves)


def build_process_core(config: AccelConfig, folder: Path) -> SimulationModel:
    """As build_core, but with the DDR model beside the core, to be run by sim.process."""
    return build_process_of(generate(config, folder / "verilog"), config, folder)


def build_process_of(verilog: VerilogFiles, config: AccelConfig, folder: Path) -> SimulationModel:
    """As build_process_core, of Verilog that was generated already."""
    return build_process(
        verilog.sources,
        verilog.top,
        folder / "build",
        axi_ports=config.axi_ports,
        axi_bytes=config.axi_bytes,
        separate_modules=verilog.separate_modules,
    )


def make_job(
    network: IntegerNetwork, pictures_u8: Sequence[U8] | U8, program: Program, stall_seed: int | None = None
) -> Job:
    """Return the job that runs every picture on the program once, in order, as many to a run as the program takes.

    Raises ValueError if that leaves pictures over.
    """
    batch = program.pictures
    if len(pictures_u8) % batch:
        raise ValueError(f"pictures must be a multiple of the {batch} that share a run, not {len(pictures_u8)}")
    code = JobProgram(program.program_bytes(), program.weights, program.input_bytes, program.output_bytes)
    patches = [reference.patchify(network, picture)[1:] for picture in pictures_u8]
    inputs = (program.pack_input(*patches[first : first + batch]) for first in range(0, len(patches), batch))
    # Each descriptor ends within a watchdog period, or the core ends the run itself.
    timeout_cycles = WATCHDOG_CYCLES * (len(program.descriptors) + 1)
    runs = tuple(JobRun(0, packed, timeout_cycles, watchdog_cycles=WATCHDOG_CYCLES) for packed in inputs)
    return Job(program.config, (code,), runs, stall_seed)


def compare(
    index: int, network: IntegerNetwork, picture_u8: U8, program: Program, outcome: Outcome
) -> PictureComparison:
    """Compare what a run left in the OUTPUT region with the golden model; index is that of the picture in the job."""
    if outcome.error:
        return PictureComparison(outcome, (), 0, 0, None, outcome.error)
    golden, position = reference.run(network, picture_u8), index % program.pictures
    layers = mismatches = 0
    divergence: Divergence | None = None
    for name, expected, got in _layers(golden, program, outcome, position):
        differs = expected != got
        layers += 1
        mismatches += int(differs.sum())
        if divergence is None and differs.any():
            place = tuple(int(i) for i in np.argwhere(differs)[0])
            head = place[0] if len(place) == 3 else None
            row, channel = (0, *place)[-2:]
            divergence = Divergence(index, name, head, row, channel, int(expected[place]), int(got[place]))
    kept_tokens = program.token_counts(outcome.token_counts, position)
    return PictureComparison(outcome, kept_tokens, layers, mismatches, divergence, "")


def _layers(
    golden: reference.Inference, program: Program, outcome: Outcome, position: int
) -> Iterator[tuple[str, NDArray[Any], NDArray[Any]]]:
    """Yield (name, golden, RTL) of the picture at a position of the run, in the order of the computation.

    Results are read with the golden token counts: their shapes then agree, and a wrong count is a divergence itself.
    """
    taps = {tap.name: tap for tap in program.taps if tap.picture == position}
    token_counts = program.token_counts(outcome.token_counts, position)
    for name, expected in golden.taps.items():
        if name.endswith(".tokens"):
            stage = int(name.split(".")[1])
            count, got = golden.num_tokens[stage], token_counts[stage]
            yield f"selectors.{stage}.num_tokens", np.array([count]), np.array([got])
        if name in taps:
            yield name, expected, program.read_tap(taps[name], outcome.output, golden.num_tokens)
    # What a user of the accelerator reads, through the compiler's own functions.
    if golden.tokens:
        yield "tokens", golden.tokens[-1], program.tokens(outcome.output, golden.num_tokens[-1], position)
    yield "logits", golden.logits_i16, program.logits(outcome.output, position)


def _silent(step: str, done: int, total: int) -> None:
    """Report nothing."""
