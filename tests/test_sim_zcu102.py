"""The simulated ZCU102 on each of its cores: what PYNQ sees of registers and memory, and the RTL behind it.

Testpoints
- host and device memory are separate until flush and invalidate, of a whole buffer and of a slice; freed once
- addresses beside the core are the processing system's; words in a row are read and written
- the machine's core: registers keep what the host may write, a run takes place while time passes and not before,
  a second START and an idle ABORT change nothing, an abort ends a run
- RTL in a process: predictions equal the golden model with cycles and counters; a core that hangs, with and without a
  watchdog, an AXI error and a real interrupt (SIGINT in the middle of a run) are survived by the next run
- RTL in cocotb: unmodified Overlay and driver code in a bridge thread, with stalls on every channel, equals the golden
"""

from dataclasses import replace
from pathlib import Path

import board
import numpy as np
import pynq
import pytest

from bitstreams.driver import AcceleratorError
from bitstreams.pynq_driver import open_accelerator
from hw.generate import generate
from hw.isa import DESCRIPTOR_BYTES, Descriptor, ErrorCode
from hw.overlay import CONTROL_BASE
from hw.program import compile_network
from hw.regmap import ID_VALUE, REGISTERS, Control, Status
from quant.reference import run
from sim.buffers import POISON
from sim.cosim import build_process_of, compare, make_job
from sim.machine_core import MachineCore
from sim.overlay_files import write_overlay
from sim.process import DdrModel, ProcessTransport
from sim.runner import run_job
from sim.verilator import build
from sim.zcu102 import SimulatedZcu102

NETWORK, PICTURES = board.network_and_pictures(3)
GOLDEN = [run(NETWORK, picture, taps=False) for picture in PICTURES]
CONTROL, STATUS, ERROR = (REGISTERS[name].offset for name in ("CONTROL", "STATUS", "ERROR"))


@pytest.fixture
def core():
    return MachineCore(board.CONFIG)


@pytest.fixture
def device(core):
    return SimulatedZcu102(core)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A work folder whose builds are cached by content in the git-ignored build/."""
    folder = tmp_path_factory.mktemp("core")
    cache = Path(__file__).parent.parent / "build" / "verilator"
    cache.mkdir(parents=True, exist_ok=True)
    (folder / "build").symlink_to(cache)
    return folder


@pytest.fixture(scope="module")
def verilog(folder):
    return generate(board.CONFIG, folder / "verilog")


@pytest.fixture(scope="module")
def model(verilog, folder):
    return build_process_of(verilog, board.CONFIG, folder)


@pytest.fixture
def rtl(model):
    with ProcessTransport(model, DdrModel()) as transport:
        yield transport


@pytest.fixture
def bitstream(tmp_path):
    return write_overlay(tmp_path / "overlay", board.CONFIG)


def check(predictions):
    """Predictions of all pictures must be exactly the golden model's."""
    assert [p.logits_i16.tolist() for p in predictions] == [g.logits_i16.tolist() for g in GOLDEN]
    assert [p.tokens.tolist() for p in predictions] == [g.tokens[-1].tolist() for g in GOLDEN]


def test_host_and_device_memory_are_separate(device, core):
    buffer = pynq.allocate((100,), np.uint8, target=device)
    address = buffer.device_address
    assert core.memory.peek(address, 100) == bytes([POISON]) * 100
    buffer[:] = 7
    assert core.memory.peek(address, 1) != b"\7"
    buffer.flush()
    assert core.memory.peek(address, 100) == b"\7" * 100
    core.memory.poke(address + 2, b"\5")
    assert buffer[2] == 7
    buffer.invalidate()
    assert buffer[:3].tolist() == [7, 7, 5]
    part = buffer[10:20]
    part[:] = 9
    part.flush()
    assert core.memory.peek(address + 8, 14) == b"\7\7" + b"\t" * 10 + b"\7\7"
    del part
    buffer.freebuffer()
    buffer.freebuffer()
    with pytest.raises(OSError, match="no buffer of 1 bytes at 0x8"):
        core.memory.peek(address, 1)


def test_registers_of_core_and_processing_system(device, core):
    words = device.read_registers(CONTROL_BASE, 8)
    assert words == ID_VALUE.to_bytes(4, "little") + board.CONFIG.hash32.to_bytes(4, "little")
    program = CONTROL_BASE + REGISTERS["PROGRAM_LO"].offset
    device.write_registers(program, bytes(range(1, 9)))
    assert core.read32(REGISTERS["PROGRAM_HI"].offset) == 0x08070605
    device.write_registers(0xFD36_0000, b"\2\0\0\0")
    assert device.read_registers(0xFD36_0000, 4) == b"\2\0\0\0"


def test_machine_core_keeps_what_the_host_may_write(core):
    for register in REGISTERS.values():
        before = core.read32(register.offset)
        if register.name != "CONTROL":
            core.write32(register.offset, 5)
            assert core.read32(register.offset) == (5 if register.access.value == "rw" else before), register.name
    core.write32(4092, 1)
    assert core.read32(4092) == 0


def test_machine_core_runs_while_time_passes(core):
    end = Descriptor(1).pack()
    address = core.memory.allocate(DESCRIPTOR_BYTES)
    core.memory.poke(address, end)
    empty = core.memory.allocate(64)
    for name, value in {"PROGRAM": address, "WEIGHTS": empty, "INPUT": empty, "OUTPUT": empty}.items():
        core.write32(REGISTERS[f"{name}_LO"].offset, value & 0xFFFFFFFF)
        core.write32(REGISTERS[f"{name}_HI"].offset, value >> 32)
    core.write32(REGISTERS["PROGRAM_LENGTH"].offset, 1)
    core.write32(CONTROL, Control.ABORT)  # there is no run
    assert core.read32(STATUS) == 0
    core.write32(CONTROL, Control.START)
    assert core.read32(STATUS) == Status.BUSY
    core.write32(CONTROL, Control.START)
    core.idle()
    assert (core.read32(STATUS), core.read32(ERROR)) == (Status.DONE, ErrorCode.NONE)
    core.write32(CONTROL, Control.START)
    core.write32(CONTROL, Control.ABORT)
    core.idle()
    assert (core.read32(STATUS), core.read32(ERROR)) == (Status.ERROR, ErrorCode.ABORTED)


@pytest.mark.verilator
def test_rtl_predicts_what_the_golden_model_does(rtl, bitstream):
    with open_accelerator(bitstream, board.compiled_network(NETWORK), device=SimulatedZcu102(rtl)) as accelerator:
        predictions = accelerator.predict(PICTURES)
    check(predictions)
    assert all(1000 < prediction.run.cycles < 100_000 for prediction in predictions)
    assert all(prediction.run.busy_cycles["gemm"] > 100 for prediction in predictions)


@pytest.mark.verilator
def test_rtl_survives_what_goes_wrong(rtl, bitstream):
    device, compiled = SimulatedZcu102(rtl), board.compiled_network(NETWORK)
    start = Descriptor.unpack(compiled.descriptors[:DESCRIPTOR_BYTES])
    hung = replace(compiled, descriptors=replace(start, wait_store=99).pack() + compiled.descriptors[DESCRIPTOR_BYTES:])
    with (
        open_accelerator(bitstream, hung, device=device, watchdog_cycles=5000) as accelerator,
        pytest.raises(AcceleratorError, match="accelerator reports WATCHDOG at descriptor 0"),
    ):
        accelerator.predict(PICTURES)
    with (
        open_accelerator(bitstream, hung, device=device, watchdog_cycles=0, timeout_s=0.2) as accelerator,
        pytest.raises(TimeoutError, match=r"waiting for the run to end \(status BUSY\)"),
    ):
        accelerator.predict(PICTURES)
    with open_accelerator(bitstream, compiled, device=device) as accelerator:
        high = REGISTERS["WEIGHTS_HI"].offset
        before = rtl.read32(high)
        rtl.write32(high, before ^ 1)
        with pytest.raises(AcceleratorError, match="accelerator reports AXI_READ at descriptor"):
            accelerator.predict(PICTURES)
        rtl.write32(high, before)
        check(accelerator.predict(PICTURES))


@pytest.mark.verilator
def test_rtl_survives_an_interrupt(rtl, bitstream):
    device, compiled = SimulatedZcu102(rtl), board.compiled_network(NETWORK)
    start = Descriptor.unpack(compiled.descriptors[:DESCRIPTOR_BYTES])
    hung = replace(compiled, descriptors=replace(start, wait_store=99).pack() + compiled.descriptors[DESCRIPTOR_BYTES:])
    with open_accelerator(bitstream, hung, device=device, watchdog_cycles=0, timeout_s=60) as accelerator:
        with pytest.raises(KeyboardInterrupt), board.interrupt_in_run(rtl, 0.1):
            accelerator.predict(PICTURES)
        assert (rtl.read32(STATUS), rtl.read32(ERROR)) == (Status.ERROR, ErrorCode.ABORTED)
    with open_accelerator(bitstream, compiled, device=device) as accelerator:
        check(accelerator.predict(PICTURES))


@pytest.mark.slow
@pytest.mark.verilator
def test_overlay_and_driver_in_a_cocotb_bridge(verilog, folder):
    pictures = PICTURES[:2]
    program = compile_network(NETWORK, board.CONFIG)
    job = make_job(NETWORK, pictures, program, stall_seed=1)
    place = folder / "job"
    write_overlay(place, board.CONFIG)
    board.compiled_network(NETWORK).save(place / "network.npz")
    np.save(place / "pictures.npy", pictures)
    model = build(verilog.sources, verilog.top, folder / "build", separate_modules=verilog.separate_modules)
    outcomes = run_job(model, job, place, timeout_s=300, test_module="pynq_bench")
    for index, (picture, outcome) in enumerate(zip(pictures, outcomes, strict=True)):
        result = compare(index, NETWORK, picture, program, outcome)
        assert (result.failure, result.divergence, result.mismatches) == ("", None, 0)
        assert result.kept_tokens == tuple(GOLDEN[index].num_tokens)
