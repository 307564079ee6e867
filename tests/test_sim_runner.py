"""Verilator build, cocotb bench and transport, proven on a small stand-in core that inverts its input.

Testpoints
- a missing tool is one clear error that names it; a broken source is one too, and leaves nothing in the cache
- the same source builds once, also when two build it at the same time; another source, flag or top is another key; an
  interrupted build is not reused
- jobs and outcomes survive save and load
- the driver runs on the stand-in: outputs, registers, several runs, with and without stalls (equal outputs)
- an injected AXI fault ends that run only; a run without an end is aborted by the driver's timeout, the next run works
- a process that does not end is stopped and reported as a hang; a failing testbench is an error with its log
- a buffer that was not flushed or not invalidated keeps the other side's old contents
"""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.config import CONFIGS
from hw.isa import ErrorCode
from hw.regmap import ID_VALUE, REGISTERS, Control, Status
from sim.buffers import POISON, SimulatedBuffer
from sim.job import Job, JobProgram, JobRun, Outcome
from sim.runner import SimulationError, run_job
from sim.transport import DeviceMemory
from sim.verilator import BuildError, build

CONFIG = CONFIGS["tiny"]
BEAT_BYTES = CONFIG.axi_bytes
HANG = 0xFF
"""First input byte at which the stand-in never ends its run."""


class StandIn(wiring.Component):
    """Register file of hw.regmap and an AXI4 master: OUTPUT = ~INPUT, beat by beat. TOKENS_0 counts the beats."""

    def __init__(self):
        lite = {"awaddr": 12, "awprot": 3, "wdata": 32, "wstrb": 4, "araddr": 12, "arprot": 3}
        lite |= {"awvalid": 1, "wvalid": 1, "bready": 1, "arvalid": 1, "rready": 1}
        lite_replies = {"awready": 1, "wready": 1, "bresp": 2, "bvalid": 1}
        lite_replies |= {"arready": 1, "rdata": 32, "rresp": 2, "rvalid": 1}
        address = {"id": 1, "addr": 40, "len": 8, "size": 3, "burst": 2, "valid": 1}
        master = {f"{channel}{name}": width for channel in ("aw", "ar") for name, width in address.items()}
        master |= {"wdata": 8 * BEAT_BYTES, "wstrb": BEAT_BYTES, "wlast": 1, "wvalid": 1, "bready": 1, "rready": 1}
        master_replies = {"awready": 1, "wready": 1, "bid": 1, "bresp": 2, "bvalid": 1, "arready": 1}
        master_replies |= {"rid": 1, "rdata": 8 * BEAT_BYTES, "rresp": 2, "rlast": 1, "rvalid": 1}
        super().__init__(
            {f"s_axi_control_{name}": In(width) for name, width in lite.items()}
            | {f"s_axi_control_{name}": Out(width) for name, width in lite_replies.items()}
            | {f"m_axi_gmem0_{name}": Out(width) for name, width in master.items()}
            | {f"m_axi_gmem0_{name}": In(width) for name, width in master_replies.items()}
        )

    def elaborate(self, platform):
        m = Module()
        registers = {name: Signal(32, name=name.lower()) for name in REGISTERS}
        start, abort = Signal(), Signal()
        self._control_bus(m, registers, start, abort)
        self._run(m, registers, start, abort)
        return m

    def _control_bus(self, m, registers, start, abort):
        """AXI4-Lite: address and data of a write together, one transfer at a time."""
        s = {name.removeprefix("s_axi_control_"): getattr(self, name) for name in self.signature.members}
        m.d.comb += registers["ID"].eq(ID_VALUE)
        m.d.comb += registers["CONFIG_HASH"].eq(CONFIG.hash32)
        do_write = Signal()
        m.d.comb += do_write.eq(s["awvalid"] & s["wvalid"] & ~s["bvalid"])
        m.d.comb += [s["awready"].eq(do_write), s["wready"].eq(do_write), s["arready"].eq(~s["rvalid"])]
        m.d.sync += [start.eq(0), abort.eq(0)]
        with m.If(do_write):
            m.d.sync += s["bvalid"].eq(1)
            with m.Switch(s["awaddr"]):
                for name, register in REGISTERS.items():
                    with m.Case(register.offset):
                        if name == "CONTROL":
                            m.d.sync += [start.eq(s["wdata"][0]), abort.eq(s["wdata"][1])]
                        elif register.access.value == "rw":
                            m.d.sync += registers[name].eq(s["wdata"])
        with m.Elif(s["bready"]):
            m.d.sync += s["bvalid"].eq(0)
        with m.If(s["arvalid"] & s["arready"]):
            m.d.sync += s["rvalid"].eq(1)
            with m.Switch(s["araddr"]):
                for name, register in REGISTERS.items():
                    with m.Case(register.offset):
                        m.d.sync += s["rdata"].eq(registers[name])
        with m.Elif(s["rready"]):
            m.d.sync += s["rvalid"].eq(0)

    def _run(self, m, registers, start, abort):
        g = {name.removeprefix("m_axi_gmem0_"): getattr(self, name) for name in self.signature.members}
        offset, beats, beat = Signal(32), registers["TOKENS_0"], Signal(8 * BEAT_BYTES)
        status = registers["STATUS"]
        size = (BEAT_BYTES - 1).bit_length()
        source = Cat(registers["INPUT_LO"], registers["INPUT_HI"])
        target = Cat(registers["OUTPUT_LO"], registers["OUTPUT_HI"])
        m.d.comb += [g["arsize"].eq(size), g["arburst"].eq(1), g["araddr"].eq(source + offset)]
        m.d.comb += [g["awsize"].eq(size), g["awburst"].eq(1), g["awaddr"].eq(target + offset)]
        m.d.comb += [g["wdata"].eq(~beat), g["wstrb"].eq(~0), g["wlast"].eq(1)]
        m.d.sync += registers["CYCLES"].eq(registers["CYCLES"] + status[0])

        def fail(code):
            m.d.sync += [registers["ERROR"].eq(code), status.eq(Status.ERROR)]
            m.next = "Idle"

        with m.FSM():
            with m.State("Idle"):
                with m.If(start):
                    m.d.sync += [status.eq(Status.BUSY), offset.eq(0), beats.eq(0), registers["CYCLES"].eq(0)]
                    m.d.sync += registers["ERROR"].eq(0)
                    m.next = "Address"
            with m.State("Address"):
                m.d.comb += g["arvalid"].eq(1)
                with m.If(g["arready"]):
                    m.next = "Read"
            with m.State("Read"):
                m.d.comb += g["rready"].eq(1)
                with m.If(g["rvalid"]):
                    m.d.sync += beat.eq(g["rdata"])
                    m.next = "Write"
                    with m.If((beats == 0) & (g["rdata"][:8] == HANG)):
                        m.next = "Hang"
                    with m.If(g["rresp"] != 0):
                        fail(ErrorCode.AXI_READ)
            with m.State("Write"):
                m.d.comb += g["awvalid"].eq(1)
                with m.If(g["awready"]):
                    m.next = "Data"
            with m.State("Data"):
                m.d.comb += g["wvalid"].eq(1)
                with m.If(g["wready"]):
                    m.next = "Response"
            with m.State("Response"):
                m.d.comb += g["bready"].eq(1)
                with m.If(g["bvalid"]):
                    is_last = offset + BEAT_BYTES == registers["INPUT_SIZE"]
                    m.d.sync += [offset.eq(offset + BEAT_BYTES), beats.eq(beats + 1)]
                    m.d.sync += status.eq(Mux(is_last, Status.DONE, Status.BUSY))
                    m.next = "Address"
                    with m.If(is_last):
                        m.next = "Idle"
                    with m.If(g["bresp"] != 0):
                        fail(ErrorCode.AXI_WRITE)
            with m.State("Hang"):
                with m.If(abort):
                    fail(ErrorCode.ABORTED)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """Verilog file and build cache of the stand-in."""
    folder = tmp_path_factory.mktemp("stand_in")
    path = folder / "stand_in.v"
    path.write_text(verilog.convert(StandIn(), name="stand_in", emit_src=False))
    return path, folder / "cache"


@pytest.fixture(scope="module")
def model(stand_in):
    path, cache = stand_in
    return build([path], "stand_in", cache)


def write_idler(folder, body=""):
    """The smallest Verilog there is."""
    source = folder / "idler.v"
    source.write_text(f"module idler(clk);\ninput clk;\n{body}\nendmodule\n")
    return source


def make_job(inputs, *, stall_seed=None, timeout_cycles=20_000, **first_run):
    """A job of one input size whose first run has the given options."""
    size = len(inputs[0])
    program = JobProgram(bytes(64), b"weights", input_bytes=size, output_bytes=size)
    first = JobRun(0, inputs[0], timeout_cycles, **first_run)
    runs = (first, *(JobRun(0, data, timeout_cycles) for data in inputs[1:]))
    return Job(CONFIG, (program,), runs, stall_seed)


def random_inputs(count, size=256):
    rng = np.random.default_rng(5)
    return [bytes([i]) + rng.bytes(size - 1) for i in range(count)]


def inverted(data):
    return bytes(255 - byte for byte in data)


def test_missing_tools_are_named(tmp_path, monkeypatch):
    source = write_idler(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(BuildError, match=r"needs g\+\+, make, perl: please install"):
        build([source], "idler", tmp_path / "cache")


def test_jobs_and_outcomes_survive_save_and_load(tmp_path):
    job = make_job(random_inputs(2), stall_seed=3, faulty_buffer="INPUT", watchdog_cycles=99)
    job.save(tmp_path)
    assert Job.load(tmp_path) == job
    outcome = Outcome(b"out", 7, (1, 2), {"gemm": 3}, {"load": 4}, "message", 2, 5, True)
    assert Outcome.load(tmp_path, 0) is None
    outcome.save(tmp_path, 0)
    assert Outcome.load(tmp_path, 0) == outcome


def test_host_and_device_memory_are_separate_copies():
    memory = DeviceMemory()
    buffer = SimulatedBuffer(memory, 64)
    buffer.host[:] = 1
    assert memory.peek(buffer.device_address, 64) == bytes([POISON]) * 64
    buffer.flush()
    assert memory.peek(buffer.device_address, 64) == bytes([1]) * 64
    memory.poke(buffer.device_address, bytes([2]) * 64)
    assert buffer.host[0] == 1
    buffer.invalidate()
    assert buffer.host[0] == 2


@pytest.mark.verilator
def test_broken_source_is_one_error_and_leaves_no_build(tmp_path):
    source = tmp_path / "broken.v"
    source.write_text("module broken(clk);\ninput clk;\nassign nothing = ;\nendmodule\n")
    with pytest.raises(BuildError, match="verilator failed with exit status"):
        build([source], "broken", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    with pytest.raises(BuildError, match="must define module 'other'"):
        build([source], "other", tmp_path / "cache")


@pytest.mark.verilator
def test_same_source_builds_once(stand_in, model):
    path, cache = stand_in
    again = build([path], "stand_in", cache)
    assert (again.executable, again.is_cached) == (model.executable, True)
    assert [entry.name for entry in cache.iterdir()] == [model.key]


@pytest.mark.verilator
def test_two_builders_of_the_same_source_build_once(tmp_path):
    source = write_idler(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        models = list(pool.map(lambda _: build([source], "idler", tmp_path / "cache"), range(2)))
    assert sorted(model.is_cached for model in models) == [False, True]


@pytest.mark.verilator
def test_interrupted_build_is_not_reused(monkeypatch, tmp_path):
    """The executable is renamed into the cache as the very last step; a cached one needs no tools, another does."""

    def interrupt(source, target):
        raise KeyboardInterrupt

    source, cache = write_idler(tmp_path), tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build([source], "idler", cache)
    assert list(cache.iterdir()) == []
    first = build([source], "idler", cache)
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    assert not first.is_cached and build([source], "idler", cache).is_cached
    for changed, options in ((source, {"waves": True}), (write_idler(tmp_path, "wire unused;"), {})):
        with pytest.raises(BuildError, match="please install"):
            build([changed], "idler", cache, **options)


@pytest.mark.verilator
@pytest.mark.parametrize("stall_seed", [None, 1, 2])
def test_driver_runs_on_the_core(model, tmp_path, stall_seed):
    inputs, seen = random_inputs(4), []
    job = make_job(inputs, stall_seed=stall_seed)
    outcomes = run_job(model, job, tmp_path, timeout_s=60, progress=lambda done, total: seen.append((done, total)))
    assert [outcome.output for outcome in outcomes] == [inverted(data) for data in inputs]
    assert [outcome.token_counts[0] for outcome in outcomes] == [256 // BEAT_BYTES] * 4
    assert all(outcome.cycles > 0 and not outcome.error for outcome in outcomes)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.verilator
@pytest.mark.parametrize(
    ("faulty_buffer", "code"), [("INPUT", ErrorCode.AXI_READ), ("OUTPUT", ErrorCode.AXI_WRITE), ("WEIGHTS", 0)]
)
def test_injected_fault_ends_that_run_only(model, tmp_path, faulty_buffer, code):
    inputs = random_inputs(2)
    outcomes = run_job(model, make_job(inputs, faulty_buffer=faulty_buffer), tmp_path, timeout_s=60)
    assert outcomes[0].error_code == code
    assert outcomes[1].output == inverted(inputs[1]) and not outcomes[1].error


@pytest.mark.verilator
def test_run_without_an_end_is_aborted_and_the_next_works(model, tmp_path):
    inputs = [bytes([HANG]) * 256, *random_inputs(1)]
    outcomes = run_job(model, make_job(inputs), tmp_path, timeout_s=60)
    assert outcomes[0].is_hang and outcomes[0].error == "timed out waiting for the run to end (status BUSY)"
    assert outcomes[1].output == inverted(inputs[1])


@pytest.mark.verilator
def test_endless_process_is_stopped_and_reported_as_hang(model, tmp_path):
    inputs = [*random_inputs(1), bytes([HANG]) * 256]
    start = time.monotonic()
    run_job(model, make_job(inputs[:1]), tmp_path, timeout_s=60)
    enough = 1 + 4 * (time.monotonic() - start)  # for the first run, on a machine of this load
    outcomes = run_job(model, make_job(inputs, timeout_cycles=10**12), tmp_path, timeout_s=enough)
    assert outcomes[0].output == inverted(inputs[0])
    assert outcomes[1].is_hang and outcomes[1].error == f"simulation stopped after {enough:g} s"


@pytest.mark.verilator
def test_failing_testbench_is_an_error_with_its_log(model, tmp_path):
    job = make_job(random_inputs(1))
    other = Job(CONFIGS["demo"], job.programs, job.runs)
    with pytest.raises(SimulationError, match="CONFIG_HASH must be"):
        run_job(model, other, tmp_path, timeout_s=60)


def test_control_bits_are_those_the_stand_in_decodes():
    assert (Control.START, Control.ABORT) == (1, 2)
