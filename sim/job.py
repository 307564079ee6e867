"""Job of one simulation and its outcomes: the files by which a parent process and the testbench talk.

A job folder holds job.json and one .npy file for each program, weight image and input; the testbench adds one
outcome_<run>.json and .npy as each run ends. Nothing in it can execute anything.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bitstreams.driver import DEFAULT_WATCHDOG_CYCLES, AcceleratorError, HeatVit
from hw.config import AccelConfig

CLOCK_NS = 4
"""Simulated clock period: 250 MHz."""


@dataclass(frozen=True)
class JobProgram:
    """A compiled network as bytes; has the attributes that HeatVit.load needs."""

    descriptors: bytes
    weights: bytes
    input_bytes: int
    output_bytes: int

    def program_bytes(self) -> bytes:
        """Return the packed descriptors."""
        return self.descriptors


@dataclass(frozen=True)
class JobRun:
    """One call of the driver: which program, which input, and what goes wrong on purpose.

    faulty_buffer names a register pair <name>_LO/_HI ("PROGRAM", "WEIGHTS", "INPUT", "OUTPUT"): during this run every
    AXI access to the buffer that it points to gets an error response. After timeout_cycles the driver aborts the run.
    """

    program: int
    input: bytes
    timeout_cycles: int
    faulty_buffer: str = ""
    watchdog_cycles: int = DEFAULT_WATCHDOG_CYCLES


@dataclass(frozen=True)
class Job:
    """Runs on one core, in order; stall_seed, if given, stalls every bus channel at random."""

    config: AccelConfig
    programs: tuple[JobProgram, ...]
    runs: tuple[JobRun, ...]
    stall_seed: int | None = None

    def save(self, folder: Path) -> None:
        """Write the job into a folder, which is created."""
        folder.mkdir(parents=True, exist_ok=True)
        for i, program in enumerate(self.programs):
            _save_bytes(folder / f"descriptors_{i}.npy", program.descriptors)
            _save_bytes(folder / f"weights_{i}.npy", program.weights)
        for i, run in enumerate(self.runs):
            _save_bytes(folder / f"input_{i}.npy", run.input)
        values = {
            "config": self.config.to_dict(),
            "programs": [{"input_bytes": p.input_bytes, "output_bytes": p.output_bytes} for p in self.programs],
            "runs": [{**asdict(run), "input": None} for run in self.runs],
            "stall_seed": self.stall_seed,
        }
        (folder / "job.json").write_text(json.dumps(values))

    @classmethod
    def load(cls, folder: Path) -> Job:
        """Inverse of save."""
        values = json.loads((folder / "job.json").read_text())
        return cls(
            config=AccelConfig.from_dict(values["config"]),
            programs=tuple(
                JobProgram(_load_bytes(folder / f"descriptors_{i}.npy"), _load_bytes(folder / f"weights_{i}.npy"), **p)
                for i, p in enumerate(values["programs"])
            ),
            runs=tuple(
                JobRun(**{**r, "input": _load_bytes(folder / f"input_{i}.npy")}) for i, r in enumerate(values["runs"])
            ),
            stall_seed=values["stall_seed"],
        )


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    error is empty, or the driver's message; error_code is the ErrorCode and error_index the descriptor if the core
    reported an error; is_hang: the run did not end. The other fields are those of bitstreams.driver.RunResult.
    """

    output: bytes = b""
    cycles: int = 0
    token_counts: tuple[int, ...] = ()
    busy_cycles: dict[str, int] = field(default_factory=dict)
    wait_cycles: dict[str, int] = field(default_factory=dict)
    stall_cycles: dict[str, dict[str, int]] = field(default_factory=dict)
    error: str = ""
    error_code: int = 0
    error_index: int = 0
    is_hang: bool = False

    def save(self, folder: Path, run: int) -> None:
        """Write the outcome of a run; it appears at once or not at all."""
        _save_bytes(folder / f"output_{run}.npy", self.output)
        values: dict[str, Any] = {**asdict(self), "output": None}
        temporary = folder / f"outcome_{run}.partial"
        temporary.write_text(json.dumps(values))
        os.replace(temporary, folder / f"outcome_{run}.json")

    @classmethod
    def load(cls, folder: Path, run: int) -> Outcome | None:
        """Inverse of save; None if the run has not ended yet."""
        path = folder / f"outcome_{run}.json"
        if not path.exists():
            return None
        values = json.loads(path.read_text())
        output = _load_bytes(folder / f"output_{run}.npy")
        return cls(**{**values, "output": output, "token_counts": tuple(values["token_counts"])})


def run_picture(core: HeatVit, input_bytes: bytes, timeout_s: float) -> Outcome:
    """Run a program once through the driver; the driver's errors become part of the outcome."""
    try:
        result = core.infer(input_bytes, timeout_s)
    except AcceleratorError as error:
        return Outcome(error=str(error), error_code=error.code, error_index=error.index)
    except TimeoutError as error:
        return Outcome(error=str(error), is_hang=True)
    return Outcome(
        result.output,
        result.cycles,
        result.token_counts,
        result.busy_cycles,
        result.wait_cycles,
        result.stall_cycles,
    )


def _save_bytes(path: Path, contents: bytes) -> None:
    np.save(path, np.frombuffer(contents, np.uint8), allow_pickle=False)


def _load_bytes(path: Path) -> bytes:
    return bytes(np.load(path, allow_pickle=False).tobytes())
