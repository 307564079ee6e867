"""cocotb test module: runs a job's pictures through the driver on the simulated core and writes the outcomes.

Started by sim/runner.py with +job=<folder>; sim/job.py describes the folder.
"""

from __future__ import annotations

from pathlib import Path

import cocotb
from cocotb.task import bridge

from bitstreams.driver import HeatVit
from sim.job import CLOCK_NS, Job, run_picture
from sim.transport import CocotbTransport


@cocotb.test()
async def run_job(dut):
    """Run every picture of the job."""
    folder = Path(str(cocotb.plusargs["job"]))
    job = Job.load(folder)
    transport = CocotbTransport(dut, job.config.axi_ports, job.stall_seed)
    await transport.reset()
    await bridge(run_all)(transport, job, folder)


def run_all(transport: CocotbTransport, job: Job, folder: Path) -> None:
    """Open the core and run all runs in order; blocking code. A program is loaded when it differs from the last."""
    with HeatVit(transport, job.config) as core:
        loaded: tuple[int, int] | None = None
        for index, run in enumerate(job.runs):
            if loaded != (run.program, run.watchdog_cycles):
                core.load(job.programs[run.program], watchdog_cycles=run.watchdog_cycles)
                loaded = (run.program, run.watchdog_cycles)
            if run.faulty_buffer:
                transport.memory.faulty_address = transport.buffer_address(run.faulty_buffer)
            outcome = run_picture(core, run.input, run.timeout_cycles * CLOCK_NS * 1e-9)
            transport.memory.faulty_address = None
            outcome.save(folder, index)
