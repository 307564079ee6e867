"""A core and its DDR model in one native process, driven through the pipe by the same driver as everything else.

Testpoints
- a network with a selector equals the golden model in every layer, whatever the timing of the DDR
- the same run takes the same cycles again; latency, a lower bandwidth and refresh pauses each cost cycles
- no run moves more bytes a cycle than the DDR allows; the bytes counted are those of the program's transfers
- every descriptor has a start and a later end, in the order of its unit
- an access outside every live buffer ends the run with AXI_READ or AXI_WRITE; the next run on the core is exact
- interrupts, which the system gives to any thread, wait for the reply that is due
- host and device copies are separate; a process that ends by itself is an error with its words
- impossible DDR timings are refused by name
"""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from bitstreams.driver import HeatVit
from hw.config import CONFIGS
from hw.isa import DESCRIPTOR_BYTES, UNIT_OF, ErrorCode, Opcode, Unit
from hw.program import compile_network
from hw.regmap import ID_VALUE, REGISTERS
from quant.config import NetworkConfig
from quant.synthetic import random_network, random_picture
from sim.buffers import POISON
from sim.cosim import build_process_core, compare, make_job
from sim.job import run_picture
from sim.process import DdrModel, ProcessTransport
from sim.runner import SimulationError

CONFIG = CONFIGS["tiny"]
SMALL = NetworkConfig(
    image_size=8,
    patch_size=2,
    in_chans=1,
    num_classes=5,
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_hidden=20,
    selectors=(1,),
)
TIMEOUT_S = 0.1  # of simulated time: far more than any run below
AT_ONCE = DdrModel(bytes_per_cycle=0, latency_cycles=0)
NARROW = DdrModel(bytes_per_cycle=2.5, latency_cycles=0)

pytestmark = pytest.mark.verilator


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The core with its DDR, built once and cached by content in the git-ignored build/."""
    folder = tmp_path_factory.mktemp("core")
    cache = Path(__file__).parent.parent / "build" / "verilator"
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "build").symlink_to(cache)
    return build_process_core(CONFIG, folder)


@pytest.fixture(scope="module")
def work():
    """Network, picture, program with taps, and the bytes of the program and the picture."""
    rng = np.random.default_rng(3)
    network = random_network(rng, SMALL)
    picture = random_picture(rng, SMALL)
    program = compile_network(network, CONFIG, taps=True)
    job = make_job(network, [picture], program, None)
    return network, picture, program, job.programs[0], job.runs[0].input


def run(model, work, ddr):
    """Run the picture once; return its comparison, the bytes on the bus, and the times of the descriptors."""
    network, picture, program, code, packed = work
    with ProcessTransport(model, ddr) as transport, HeatVit(transport, CONFIG) as core:
        core.load(code)
        result = compare(0, network, picture, program, run_picture(core, packed, TIMEOUT_S))
        return result, transport.traffic_bytes(), transport.take_times()


@pytest.mark.parametrize("ddr", [DdrModel(), AT_ONCE, NARROW, DdrModel(8, 200, refresh_seed=5)], ids=str)
def test_network_is_exact_whatever_the_ddr(model, work, ddr):
    result, _, _ = run(model, work, ddr)
    assert (result.failure, result.divergence, result.mismatches) == ("", None, 0)
    assert result.layers > 30


def test_slower_ddr_costs_cycles_that_repeat(model, work):
    def cycles(ddr):
        return run(model, work, ddr)[0].outcome.cycles

    base = cycles(AT_ONCE)
    assert cycles(AT_ONCE) == base
    assert cycles(DdrModel(0, 60)) > base and cycles(NARROW) > base
    assert cycles(DdrModel(4, 60, refresh_seed=1)) > cycles(DdrModel(4, 60))


def test_bandwidth_bounds_what_the_program_transfers(model, work):
    result, (read, written), _ = run(model, work, NARROW)
    descriptors = work[2].descriptors
    loads = sum(d.length for d in descriptors if d.opcode == Opcode.LOAD)
    assert written == sum(d.length for d in descriptors if d.opcode == Opcode.STORE)
    assert read == loads + DESCRIPTOR_BYTES * len(descriptors)
    assert result.outcome.cycles >= (read + written) / NARROW.bytes_per_cycle


def test_every_descriptor_has_its_times(model, work):
    result, _, times = run(model, work, DdrModel())
    for unit in Unit:
        starts, ends = times.starts[unit], times.ends[unit]
        owned = [d for d in work[2].descriptors if UNIT_OF.get(d.opcode) is unit]
        assert len(starts) == len(ends) == len(owned) > 0
        assert starts == sorted(starts) and ends == sorted(ends)
        assert all(start < end for start, end in zip(starts, ends, strict=True))
    last = max(max(ends) for ends in times.ends.values())
    first = min(min(starts) for starts in times.starts.values())
    assert last - first < result.outcome.cycles


@pytest.mark.parametrize(("region", "code"), [("INPUT", ErrorCode.AXI_READ), ("OUTPUT", ErrorCode.AXI_WRITE)])
def test_access_outside_buffers_ends_the_run(model, work, region, code):
    network, picture, program, bytes_of, packed = work
    with ProcessTransport(model, DdrModel()) as transport, HeatVit(transport, CONFIG) as core:
        core.load(bytes_of)
        register = REGISTERS[f"{region}_HI"].offset
        high = transport.read32(register)
        transport.write32(register, high ^ 1)
        assert run_picture(core, packed, TIMEOUT_S).error_code == code
        transport.write32(register, high)
        assert compare(0, network, picture, program, run_picture(core, packed, TIMEOUT_S)).mismatches == 0


def test_host_and_device_copies_are_separate(model):
    with ProcessTransport(model, DdrModel()) as transport:
        buffer = transport.allocate(100)
        buffer.host[:] = 7
        assert transport.memory.peek(buffer.device_address, 100) == bytes([POISON]) * 100
        buffer.flush()
        transport.memory.poke(buffer.device_address + 1, b"\x08")
        assert buffer.host[1] == 7
        buffer.invalidate()
        assert buffer.host[:3].tolist() == [7, 8, 7]
        buffer.free()
        with pytest.raises(SimulationError, match="exit status 1: simulation: a back door access is outside"):
            buffer.flush()


def test_interrupts_leave_replies_whole(model):
    """A thread that does not block interrupts is there: one that was started outside every request."""
    expected = (ID_VALUE, CONFIG.hash32)
    offsets = [REGISTERS[name].offset for name in ("ID", "CONFIG_HASH")]
    with ProcessTransport(model, DdrModel()) as transport:
        for index in range(20):
            timer = threading.Timer(0.02 + index / 10_000, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                while True:
                    assert tuple(map(transport.read32, offsets)) == expected
            timer.join()


@pytest.mark.parametrize("name", ["bytes_per_cycle", "latency_cycles", "refresh_seed"])
def test_impossible_timing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, not -1"):
        DdrModel(**{name: -1})
