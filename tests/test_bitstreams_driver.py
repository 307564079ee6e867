"""The host driver on a fake board: registers as a dict, two copies of DDR, runs executed by the numpy machine.

Testpoints
- outputs, counters and token counts of a run; several runs on one load; another program after the first
- opening reads ID and CONFIG_HASH only, and refuses a wrong one
- a transport whose flush or invalidate does nothing makes the run fail (so the driver relies on both)
- errors of the core are decoded (known and unknown codes) and the next run works
- a run without an end is aborted and reported with the status; a core that stays busy is not started; an abort that
  does nothing is reported too; every wait ends
- input of a wrong size, no program, an empty program, misaligned buffers are refused
- the next pictures can be staged beside a run, into the other of two input buffers; start and wait in the wrong order
  are refused; whatever interrupts a wait aborts the run, and so does closing
- buffers are freed by the context manager, by close, by the next load, and when an allocation fails half way
- addresses above 4 GiB arrive whole; register values are plain ints
"""

from dataclasses import replace

import numpy as np
import pytest

from bitstreams.driver import AcceleratorError, HeatVit
from hw.config import CONFIGS
from hw.isa import DESCRIPTOR_BYTES, Descriptor, ErrorCode, Memory, Opcode, Region
from hw.regmap import ID_VALUE, NUM_TOKEN_REGISTERS, REGISTERS, Control, Status
from sim.job import JobProgram
from sim.machine import Machine

CONFIG = CONFIGS["tiny"]
SIZE = 128
DDR_BASE = 0x8_0000_0000
NAME_OF = {register.offset: name for name, register in REGISTERS.items()}


def echo_program(memory=Memory.ACT):
    """Copies INPUT to OUTPUT through a memory."""
    descriptors = (
        Descriptor(Opcode.BEGIN, rows=3),
        Descriptor(Opcode.LOAD, memory=memory, region=Region.INPUT, length=SIZE, dst_base=5),
        Descriptor(Opcode.STORE, memory=memory, region=Region.OUTPUT, length=SIZE, src_base=5, wait_load=1),
        Descriptor(Opcode.END, wait_store=1),
    )
    return JobProgram(b"".join(d.pack() for d in descriptors), b"\1" * 70, input_bytes=SIZE, output_bytes=SIZE)


def with_descriptor(program, index, **fields):
    """The program with fields of one descriptor changed."""
    start = index * DESCRIPTOR_BYTES
    old = program.descriptors[start : start + DESCRIPTOR_BYTES]
    new = replace(Descriptor.unpack(old), **fields).pack()
    image = program.descriptors[:start] + new + program.descriptors[start + DESCRIPTOR_BYTES :]
    return replace(program, descriptors=image)


class FakeBuffer:
    """Host copy of a piece of the board's DDR."""

    def __init__(self, board, address, num_bytes):
        self._board, self.device_address = board, address
        self.host = np.zeros(num_bytes, np.uint8)

    def flush(self):
        if self._board.does_flush:
            self._board.ddr[self.device_address][:] = self.host

    def invalidate(self):
        if self._board.does_invalidate:
            self.host[:] = self._board.ddr[self.device_address]

    def free(self):
        del self._board.ddr[self.device_address]


class FakeBoard:
    """Transport to a core that executes on the numpy machine; `hang` makes a run last for ever."""

    def __init__(self, ddr_bytes=1 << 20, alignment=4096):
        self.registers = {name: 0 for name in REGISTERS}
        self.registers |= {"ID": ID_VALUE, "CONFIG_HASH": CONFIG.hash32}
        self.ddr = {}
        self.reads, self.writes = [], []
        self.does_flush = self.does_invalidate = self.does_abort = True
        self.hang = self.is_draining = False
        self._free_bytes, self._alignment, self._next = ddr_bytes, alignment, DDR_BASE
        self._time = 0.0
        self.interrupt: BaseException | None = None  # raised by the next idle()

    def read32(self, offset):
        name = NAME_OF[offset]
        self.reads.append(name)
        return self.registers[name]

    def write32(self, offset, value):
        assert type(value) is int and 0 <= value < 1 << 32
        name = NAME_OF[offset]
        self.writes.append(name)
        if name != "CONTROL":
            self.registers[name] = value
        elif value & Control.START:
            self._start()
        elif value & Control.ABORT and self.does_abort:
            self.registers["STATUS"] = Status.ERROR
            self.registers["ERROR"] = ErrorCode.ABORTED

    def allocate(self, num_bytes):
        if num_bytes > self._free_bytes - sum(map(len, self.ddr.values())):
            raise MemoryError("DDR is full")
        address, self._next = self._next, self._next + num_bytes + self._alignment - num_bytes % self._alignment
        self.ddr[address] = np.full(num_bytes, 0xA5, np.uint8)
        return FakeBuffer(self, address, num_bytes)

    def idle(self):
        self._time += 0.01
        if self.interrupt is not None:
            interrupt, self.interrupt = self.interrupt, None
            raise interrupt
        if self.is_draining:
            self.is_draining = False
            self.registers["STATUS"] &= ~Status.DRAINING

    def seconds(self):
        return self._time

    def _memory(self, name):
        return self.ddr[self.registers[f"{name}_LO"] | self.registers[f"{name}_HI"] << 32]

    def _start(self):
        assert not self.registers["STATUS"] & (Status.BUSY | Status.DRAINING)
        if self.hang:
            self.registers["STATUS"] = Status.BUSY
            return
        program = self._memory("PROGRAM")[: self.registers["PROGRAM_LENGTH"] * DESCRIPTOR_BYTES].tobytes()
        regions = {r: bytearray(self._memory(r.name)[: self.registers[f"{r.name}_SIZE"]]) for r in Region}
        result = Machine(CONFIG).run(program, regions)
        self._memory("OUTPUT")[:] = np.frombuffer(regions[Region.OUTPUT], np.uint8)
        self.is_draining = result.error != ErrorCode.NONE
        self.registers["STATUS"] = Status.ERROR | Status.DRAINING if self.is_draining else Status.DONE
        self.registers |= {"ERROR": int(result.error), "ERROR_INDEX": result.error_index, "CYCLES": 1234}
        self.registers |= {"BUSY_LOAD": 7, "WAIT_STORE": 9, "TOKENS_0": 11, "TOKENS_31": 12}
        self.registers |= {"STALL_GEMM_WEIGHT": 5, "STALL_STORE_MEMORY": 6}


@pytest.fixture
def board():
    return FakeBoard()


@pytest.fixture
def core(board):
    with HeatVit(board, CONFIG) as core:
        core.load(echo_program())
        yield core


def picture(seed=1):
    return np.random.default_rng(seed).bytes(SIZE)


def test_run_returns_output_and_counters(core):
    result = core.infer(picture())
    assert result.output == picture() and result.cycles == 1234
    assert result.token_counts == (11, *[0] * (NUM_TOKEN_REGISTERS - 2), 12)
    assert result.busy_cycles == {"load": 7, "operand": 0, "gemm": 0, "vector": 0, "store": 0}
    assert result.wait_cycles == {"load": 0, "operand": 0, "gemm": 0, "vector": 0, "store": 9}
    assert result.stall_cycles == {
        "load": {"memory": 0},
        "operand": {"operand": 0, "drain": 0},
        "gemm": {"operand": 0, "weight": 5, "drain": 0},
        "vector": {"operand": 0, "weight": 0, "drain": 0},
        "store": {"operand": 0, "memory": 6},
    }
    assert [core.infer(picture(seed)).output for seed in (2, 3)] == [picture(2), picture(3)]


def test_weights_reach_the_device_padded_with_zeros(board, core):
    weights = next(memory for memory in board.ddr.values() if memory[0] == 1)
    assert weights.tobytes() == b"\1" * 70 + b"\0" * 58
    assert board.registers["WEIGHTS_HI"] == 8 and board.registers["WEIGHTS_SIZE"] == 128


def test_opening_reads_two_registers_and_nothing_else(board):
    HeatVit(board, CONFIG)
    assert board.reads == ["ID", "CONFIG_HASH"] and board.writes == [] and board.ddr == {}


@pytest.mark.parametrize("name", ["ID", "CONFIG_HASH"])
def test_wrong_identity_is_refused(board, name):
    board.registers[name] = 0xDEAD
    with pytest.raises(RuntimeError, match=f"{name} must be 0x[0-9a-f]{{8}}, not 0x0000dead: the core does not match"):
        HeatVit(board, CONFIG)
    assert board.writes == []


def test_forgotten_flush_fails(board):
    board.does_flush = False
    with HeatVit(board, CONFIG) as core:
        core.load(echo_program())
        with pytest.raises(AcceleratorError, match="BAD_OPCODE"):
            core.infer(picture())


def test_input_is_flushed(board, core):
    core.infer(picture(1))
    board.does_flush = False
    assert core.infer(picture(2)).output == picture(1)


def test_forgotten_invalidate_fails(board, core):
    board.does_invalidate = False
    assert core.infer(picture()).output == bytes(SIZE)


@pytest.mark.parametrize(
    ("index", "fields", "code"),
    [
        (2, {"opcode": 77}, ErrorCode.BAD_OPCODE),
        (1, {"dst_base": 65535}, ErrorCode.BAD_ADDRESS),
        (2, {"offset": 1 << 20}, ErrorCode.BAD_ADDRESS),
    ],
)
def test_errors_are_decoded_and_the_next_run_works(core, index, fields, code):
    core.load(with_descriptor(echo_program(), index, **fields))
    message = rf"accelerator reports {code.name} at descriptor {index} \(status ERROR \| DRAINING\)"
    with pytest.raises(AcceleratorError, match=message) as caught:
        core.infer(picture())
    assert (caught.value.code, caught.value.index) == (code, index)
    assert caught.value.status == Status.ERROR | Status.DRAINING
    core.load(echo_program())
    assert core.infer(picture()).output == picture()


def test_unknown_error_code_is_reported_as_such():
    assert "unknown error 99 at descriptor 3" in str(AcceleratorError(99, 3, Status.ERROR))


def test_run_without_an_end_is_aborted(board, core):
    board.hang = True
    with pytest.raises(TimeoutError, match=r"waiting for the run to end \(status BUSY\)"):
        core.infer(picture(), timeout_s=0.5)
    assert board.registers["ERROR"] == ErrorCode.ABORTED and 0.5 < board.seconds() < 0.6
    board.hang = False
    assert core.infer(picture()).output == picture()


def test_core_that_ignores_an_abort_is_reported_and_not_started(board, core):
    board.hang, board.does_abort = True, False
    with pytest.raises(TimeoutError, match="waiting for the core to abort"):
        core.infer(picture(), timeout_s=0.5)
    board.writes.clear()
    with pytest.raises(TimeoutError, match="waiting for the core to become idle"):
        core.infer(picture(), timeout_s=0.5)
    assert board.writes == []


def test_wrong_input_or_no_program_is_refused(board, core):
    with pytest.raises(ValueError, match="input_bytes must have 128 bytes, not 3"):
        core.infer(b"abc")
    with pytest.raises(RuntimeError, match="no program is loaded"):
        HeatVit(board, CONFIG).infer(picture())
    for image in (b"", bytes(63)):
        with pytest.raises(ValueError, match=f"program must have a multiple of 64 bytes, not {len(image)}"):
            core.load(replace(echo_program(), descriptors=image))


def test_misaligned_buffers_are_refused():
    board = FakeBoard(alignment=32)
    board.allocate(32)
    with HeatVit(board, CONFIG) as core, pytest.raises(ValueError, match="device_address must be a multiple of 64"):
        core.load(echo_program())


def test_next_pictures_are_staged_beside_a_run(board, core):
    board.hang = True  # the run lasts while the next pictures are staged
    core.stage(picture(1))
    core.start()
    first = board.registers["INPUT_LO"]
    core.stage(picture(2))
    core.stage(picture(3))  # replaces what was staged
    assert board.registers["INPUT_LO"] == first and board._memory("INPUT").tobytes() == picture(1)
    board.registers["STATUS"], board.hang = Status.DONE, False
    core.wait()
    core.start()
    assert board.registers["INPUT_LO"] != first
    assert core.wait().output == picture(3)
    assert core.infer(picture(4)).output == picture(4)


def test_start_and_wait_in_the_wrong_order_are_refused(board, core):
    with pytest.raises(RuntimeError, match="no run is in progress"):
        core.wait()
    with pytest.raises(RuntimeError, match="no pictures are staged"):
        core.start()
    board.hang = True
    core.stage(picture())
    core.start()
    core.stage(picture())
    with pytest.raises(RuntimeError, match=r"a run is in progress: wait\(\) or abort\(\) ends it"):
        core.start()


def test_interrupted_wait_aborts_the_run(board, core):
    board.hang, board.interrupt = True, KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        core.infer(picture())
    assert board.registers["ERROR"] == ErrorCode.ABORTED
    board.hang = False
    assert core.infer(picture(2)).output == picture(2)


def test_closing_ends_a_run_in_progress(board):
    board.hang = True
    with HeatVit(board, CONFIG) as core:
        core.load(echo_program())
        core.stage(picture())
        core.start()
    assert board.registers["ERROR"] == ErrorCode.ABORTED and board.ddr == {}


def test_another_program_replaces_the_first(board, core):
    assert len(board.ddr) == 5
    core.load(echo_program(Memory.WIDE), watchdog_cycles=77)
    assert len(board.ddr) == 5 and board.registers["WATCHDOG"] == 77
    assert core.infer(picture()).output == picture()


def test_buffers_are_freed(board):
    with HeatVit(board, CONFIG) as core:
        core.load(echo_program())
    assert board.ddr == {}
    with pytest.raises(RuntimeError, match="no program is loaded"):
        core.infer(picture())


def test_allocation_that_fails_half_way_frees_the_rest():
    board = FakeBoard(ddr_bytes=600)
    with HeatVit(board, CONFIG) as core:
        with pytest.raises(MemoryError):
            core.load(echo_program())
        assert board.ddr == {}
        with pytest.raises(RuntimeError, match="no program is loaded"):
            core.infer(picture())
