"""cocotb test module: the overlay package, pynq.Overlay included, on the simulated core in a bridge thread.

Started by sim.runner with the job folder of tests/test_sim_zcu102.py, which also holds overlay, network and pictures.
"""

from pathlib import Path

import cocotb
import numpy as np
from cocotb.task import bridge

from bitstreams.compiled import CompiledNetwork
from bitstreams.pynq_driver import open_accelerator
from sim.job import Job, Outcome
from sim.transport import CocotbTransport
from sim.zcu102 import SimulatedZcu102


@cocotb.test()
async def predict_pictures(dut):
    """Predict every picture of the folder."""
    folder = Path(str(cocotb.plusargs["job"]))
    job = Job.load(folder)
    transport = CocotbTransport(dut, job.config.axi_ports, job.stall_seed)
    await transport.reset()
    await bridge(predict_all)(transport, folder)


def predict_all(transport, folder):
    """Blocking code, as on a board."""
    network = CompiledNetwork.load(folder / "network.npz")
    device = SimulatedZcu102(transport)
    with open_accelerator(folder / "heatvit.bit", network, device=device, timeout_s=300) as accelerator:
        for index, prediction in enumerate(accelerator.predict(np.load(folder / "pictures.npy"))):
            run = prediction.run
            Outcome(run.output, run.cycles, run.token_counts).save(folder, index)
