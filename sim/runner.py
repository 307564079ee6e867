"""Runs a job on a simulation model: starts the process, reports progress, bounds its time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cocotb_tools.config
import find_libpython

from sim.job import Job, Outcome
from sim.verilator import SimulationModel

POLL_S = 0.1


class SimulationError(RuntimeError):
    """The simulation process failed; the message ends with the last lines of its log."""


def run_job(
    model: SimulationModel,
    job: Job,
    folder: Path,
    *,
    timeout_s: float = 3600.0,
    progress: Callable[[int, int], None] | None = None,
    test_module: str = "sim.testbench",
) -> list[Outcome]:
    """Run a job and return one outcome per run; progress(runs ended, all runs) is called as they end.

    test_module is the cocotb module that runs it, by a name that this process could import.

    If the process is still running after timeout_s of wall-clock time it is stopped, and every run that had not ended
    is reported as a hang. Raises SimulationError if the testbench itself fails.
    """
    folder = folder.resolve()
    for stale in folder.glob("outcome_*.json"):
        stale.unlink()
    job.save(folder)
    log_path = folder / "simulation.log"
    deadline = time.monotonic() + timeout_s
    reported = 0
    with log_path.open("w") as log:
        command = [str(model.executable), f"+job={folder}"]
        process = subprocess.Popen(
            command, env=_environment(model, folder, test_module), cwd=folder, stdout=log, stderr=log
        )
        try:
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(POLL_S)
                reported = _report(folder, reported, len(job.runs), progress)
        finally:
            is_stopped = process.poll() is None
            if is_stopped:
                process.kill()
            process.wait()
    _report(folder, reported, len(job.runs), progress)
    outcomes = [Outcome.load(folder, run) for run in range(len(job.runs))]
    if not is_stopped and None in outcomes:
        tail = "\n".join(log_path.read_text().splitlines()[-40:])
        raise SimulationError(f"simulation ended with exit status {process.returncode} before its job:\n{tail}")
    hang = Outcome(error=f"simulation stopped after {timeout_s:g} s", is_hang=True)
    return [hang if outcome is None else outcome for outcome in outcomes]


def _report(folder: Path, reported: int, runs: int, progress: Callable[[int, int], None] | None) -> int:
    """Report runs that ended since the last call; return how many have ended."""
    ended = reported
    while ended < runs and (folder / f"outcome_{ended}.json").exists():
        ended += 1
        if progress is not None:
            progress(ended, runs)
    return ended


def _environment(model: SimulationModel, folder: Path, test_module: str) -> dict[str, str]:
    """Return what cocotb reads at start; the simulated program imports from this process's path."""
    libpython = find_libpython.find_libpython()
    if libpython is None:
        raise SimulationError("cocotb needs the shared library of Python: please install libpython")
    return {
        **os.environ,
        "COCOTB_TOPLEVEL": model.top,
        "COCOTB_TEST_MODULES": test_module,
        "COCOTB_TRUST_INERTIAL_WRITES": "1",
        "COCOTB_LOG_LEVEL": "WARNING",
        "COCOTB_ANSI_OUTPUT": "0",
        "COCOTB_RESULTS_FILE": str(folder / "results.xml"),
        "TOPLEVEL_LANG": "verilog",
        "GPI_USERS": f"{libpython};{cocotb_tools.config.pygpi_entry_point()}",
        "GPI_LOG_LEVEL": "WARNING",
        "PYGPI_PYTHON_BIN": sys.executable,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
    }
