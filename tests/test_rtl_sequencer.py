"""Sequencer with its program in an AXI memory and simulated units around it.

Testpoints: wait counts compare modulo 2**16; random programs keep program order per unit and every wait, whatever the
units' speed; units overlap; a full queue holds the program back; counters; ID of every failure (unknown opcode, drain
mode, missing END, unaligned or empty program, unit fault, AXI errors, watchdog, abort) with its index; failures by
precedence; what follows END is not looked at; after each of them the units are reset and the next run works; start
while busy or draining is ignored; a hung bus is reported at once and drained later.
"""

from random import Random

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import connect
from rtl_axi import AxiMemory, axi_reads
from rtl_streams import run

from hw.config import CONFIGS
from hw.isa import UNIT_OF, Descriptor, Drain, ErrorCode, Opcode, Unit
from hw.regmap import Status
from hw.rtl.axi_port import AxiPort
from hw.rtl.dispatch import Dispatcher
from hw.rtl.sequencer import Sequencer
from hw.timing import QUEUE_DEPTH

PROGRAM = 4096 - 192
ANY_OPCODE = {unit: next(opcode for opcode, owner in UNIT_OF.items() if owner is unit) for unit in Unit}
END = Descriptor(Opcode.END)


def job(unit, tag=0, **waits):
    """Return a descriptor for a unit; `tag` travels in a field that the sequencer does not look at."""
    return Descriptor(ANY_OPCODE[unit], src_base=tag, **waits)


class Bench:
    """A Sequencer on its AXI port, the program in DDR, and five units that take `duration(tag)` cycles.

    started, ended : (cycle, unit, tag) of every command. A unit never ends a command whose tag is in `stuck`.
    """

    def __init__(self, program, *, duration=lambda tag: 3, length=None, address=PROGRAM, watchdog=0, **behaviour):
        self.sequencer = Sequencer(CONFIGS["tiny"])
        self.port = AxiPort(8, 1, has_writer=False)
        self.ddr = AxiMemory(bytearray(1 << 16), **behaviour)
        self.dut = m = Module()
        m.submodules.sequencer, m.submodules.port = self.sequencer, self.port
        connect(m, self.sequencer.bursts, self.port.read_bursts[0])
        connect(m, self.port.read_beats[0], self.sequencer.beats)
        m.d.comb += [
            self.port.read_flush.eq(self.sequencer.fetch_flush),
            self.sequencer.fetch_idle.eq(self.port.read_idle),
            self.sequencer.bus_idle.eq(self.port.read_idle),
        ]
        self.duration, self.stuck = duration, set()
        self.started, self.ended, self.resets = [], [], []
        self.load(program, length, address)
        self.watchdog = watchdog

    def load(self, program, length=None, address=PROGRAM):
        """Put a program into DDR."""
        data = b"".join(item if isinstance(item, bytes) else item.pack() for item in program)
        self.ddr.data[address : address + len(data)] = data
        self.length, self.address = len(program) if length is None else length, address

    async def units(self, ctx):
        """Play all five units; a background."""
        sequencer = self.sequencer
        running = dict.fromkeys(Unit)  # (tag, cycles left)
        cycle = 0
        while True:
            done = 0
            for unit, command in running.items():
                ctx.set(sequencer.commands[unit].ready, command is None)
                if command is not None and command[1] == 0 and command[0] not in self.stuck:
                    done |= 1 << unit
            ctx.set(sequencer.done, done)
            streams = sequencer.commands
            sampled = await ctx.tick().sample(
                sequencer.unit_reset,
                *(streams[unit].valid for unit in Unit),
                *(streams[unit].payload.src_base for unit in Unit),
            )
            reset, valid, tags = sampled[2], sampled[3:8], sampled[8:13]
            for unit in Unit:
                if reset:
                    running[unit] = None
                elif running[unit] is None and valid[unit]:
                    running[unit] = (tags[unit], self.duration(tags[unit]) - 1)
                    self.started.append((cycle, unit, tags[unit]))
                elif running[unit] is not None:
                    tag, left = running[unit]
                    running[unit] = None if done >> unit & 1 else (tag, max(left - 1, 0))
                    if done >> unit & 1:
                        self.ended.append((cycle, unit, tag))
            if reset and cycle:  # units are also reset at power-up
                self.resets.append(cycle)
            cycle += 1

    async def start(self, ctx):
        """Start a run; returns in its first busy cycle."""
        ctx.set(self.sequencer.program, self.address)
        ctx.set(self.sequencer.program_length, self.length)
        ctx.set(self.sequencer.watchdog, self.watchdog)
        await self.pulse(ctx, self.sequencer.start)

    async def pulse(self, ctx, signal):
        ctx.set(signal, 1)
        await ctx.tick()
        ctx.set(signal, 0)

    def status(self, ctx):
        return Status(ctx.get(self.sequencer.status.as_value()))

    def failure(self, ctx):
        return ErrorCode(ctx.get(self.sequencer.error)), ctx.get(self.sequencer.error_index)

    async def finish(self, ctx):
        """Wait until the run is over and drained; return the final status."""
        while self.status(ctx) & (Status.BUSY | Status.DRAINING):
            await ctx.tick()
        return self.status(ctx)

    def simulate(self, *testbenches):
        reads = axi_reads(self.port.pins, self.ddr, axi_bytes=8, seed=1)
        run(self.dut, *testbenches, backgrounds=[reads, self.units])

    def run(self):
        """Run the program to its end; return (status, error, index)."""

        async def testbench(ctx):
            await self.start(ctx)
            assert self.status(ctx) == Status.BUSY
            status = await self.finish(ctx)
            self.outcome = (status, *self.failure(ctx))
            sequencer = self.sequencer
            self.cycles = ctx.get(sequencer.cycles)
            self.busy_cycles = [ctx.get(sequencer.busy_cycles[unit]) for unit in Unit]
            self.wait_cycles = [ctx.get(sequencer.wait_cycles[unit]) for unit in Unit]
            await ctx.tick().repeat(30)
            assert (self.status(ctx), *self.failure(ctx)) == self.outcome
            assert ctx.get(sequencer.cycles) == self.cycles

        self.simulate(testbench)
        return self.outcome


DONE = (Status.DONE, ErrorCode.NONE, 0)


def failed(code, index):
    return (Status.ERROR, code, index)


def random_program(seed, count):
    """Return a program whose waits are met by earlier descriptors, and the required counts of each descriptor."""
    random, counts, program = Random(seed), dict.fromkeys(Unit, 0), []
    for tag in range(count):
        unit = random.choice(list(Unit))
        waits = {
            f"wait_{other.name.lower()}": random.randint(0, counts[other]) for other in Unit if random.random() < 0.5
        }
        program.append(job(unit, tag, **waits))
        counts[unit] += 1
    return program


@pytest.mark.parametrize("seed", range(6))
def test_random_programs_keep_order_and_waits(seed):
    program = random_program(seed, 40)
    bench = Bench(
        [*program, END], duration=lambda tag: Random(100 * seed + tag).choice([1, 2, 20]), pause=0.2 * (seed % 2)
    )
    assert bench.run() == DONE
    for unit in Unit:
        expected = [item.src_base for item in program if UNIT_OF[item.opcode] is unit]
        assert [tag for _, owner, tag in bench.started if owner is unit] == expected
        assert [tag for _, owner, tag in bench.ended if owner is unit] == expected
    for cycle, _, tag in bench.started:
        completed = [sum(owner is unit and end < cycle for end, owner, _ in bench.ended) for unit in Unit]
        assert all(have >= need for have, need in zip(completed, program[tag].waits, strict=True))


@pytest.mark.parametrize(
    "wait, count, is_due",
    [
        (0, 0, True),
        (1, 0, False),
        (1, 1, True),
        (5, 4, False),
        (5, 9, True),
        (0xFFFF, 0xFFFE, False),
        (0xFFFF, 0xFFFF, True),
        (0xFFFF, 0, True),
        (0xFFFF, 0x7FFE, True),
        (2, 0xFFFF, False),
        (2, 1, False),
        (2, 2, True),
        (0x8000, 0, False),
        (0x7FFF, 0, False),
    ],
)
@pytest.mark.parametrize("unit", Unit)
def test_waits_compare_modulo(unit, wait, count, is_due):
    dispatcher = Dispatcher()

    async def testbench(ctx):
        descriptor = job(Unit.GEMM, **{f"wait_{unit.name.lower()}": wait})
        ctx.set(dispatcher.counts[unit], count)
        ctx.set(dispatcher.i.payload.descriptor, vars(descriptor))
        ctx.set(dispatcher.i.valid, 1)
        await ctx.tick()
        ctx.set(dispatcher.i.valid, 0)
        await ctx.tick().repeat(3)
        assert ctx.get(dispatcher.command.valid) == is_due
        assert ctx.get(dispatcher.waiting) == (not is_due)

    run(dispatcher, testbench)


def test_the_next_descriptor_waits_for_itself():
    """A unit that is always ready gets the first descriptor once, and the second one only when it is due."""
    dispatcher, issued = Dispatcher(), []

    async def take(ctx):
        ctx.set(dispatcher.command.ready, 1)
        async for _, _, valid, tag in ctx.tick().sample(dispatcher.command.valid, dispatcher.command.payload.src_base):
            if valid:
                issued.append(tag)

    async def testbench(ctx):
        for descriptor in (job(Unit.LOAD, 1), job(Unit.LOAD, 2, wait_gemm=1), job(Unit.LOAD, 3)):
            ctx.set(dispatcher.i.payload.descriptor, vars(descriptor))
            ctx.set(dispatcher.i.valid, 1)
            await ctx.tick()
        ctx.set(dispatcher.i.valid, 0)
        await ctx.tick().repeat(10)
        assert issued == [1]
        ctx.set(dispatcher.counts[Unit.GEMM], 1)
        await ctx.tick().repeat(10)
        assert issued == [1, 2, 3]

    run(dispatcher, testbench, backgrounds=[take])


def test_completions_are_counted():
    dispatcher = Dispatcher()
    assert len(dispatcher.count) == 16

    async def testbench(ctx):
        for count in range(4):
            assert ctx.get(dispatcher.count) == count
            ctx.set(dispatcher.done, 1)
            await ctx.tick()
            ctx.set(dispatcher.done, 0)
            await ctx.tick()

    run(dispatcher, testbench)


def test_units_overlap():
    bench = Bench([*(job(unit, unit) for unit in Unit), END], duration=lambda tag: 40)
    assert bench.run() == DONE
    assert max(cycle for cycle, _, _ in bench.started) < min(cycle for cycle, _, _ in bench.ended)


def test_full_queue_holds_the_program_back():
    last = QUEUE_DEPTH + 2
    program = [*(job(Unit.LOAD, tag) for tag in range(last)), job(Unit.STORE, last), END]
    bench = Bench(program, duration=lambda tag: 200)
    assert bench.run() == DONE
    start = {tag: cycle for cycle, _, tag in bench.started}
    end = {tag: cycle for cycle, _, tag in bench.ended}
    # One LOAD runs and the queue is full: STORE passes when the second one starts.
    assert end[0] < start[last] < end[1]


def test_counters():
    program = [job(Unit.GEMM, 0), job(Unit.VECTOR, 1, wait_gemm=1), job(Unit.VECTOR, 2), END]
    bench = Bench(program, duration=lambda tag: [30, 10, 5][tag])
    assert bench.run() == DONE
    assert bench.busy_cycles == [0, 0, 30, 15, 0]
    assert 20 <= bench.wait_cycles[Unit.VECTOR] <= 30
    assert bench.wait_cycles[Unit.LOAD] == bench.wait_cycles[Unit.GEMM] == bench.wait_cycles[Unit.STORE] == 0
    last = max(cycle for cycle, _, _ in bench.ended)
    assert 0 <= bench.cycles - (last - bench.resets[0]) <= 4


def test_next_run_counts_from_zero():
    bench = Bench([job(Unit.GEMM, 0), job(Unit.STORE, 1, wait_gemm=1), END], duration=lambda tag: 10)

    async def testbench(ctx):
        results = []
        for _ in range(2):
            await bench.start(ctx)
            await bench.finish(ctx)
            sequencer = bench.sequencer
            results.append((bench.status(ctx), ctx.get(sequencer.cycles), ctx.get(sequencer.busy_cycles[Unit.GEMM])))
        assert results[0] == results[1] == (Status.DONE, results[0][1], 10)
        assert len(bench.resets) == 2

    bench.simulate(testbench)


def raw(**fields):
    """Return the bytes of a descriptor, legal or not."""
    return Descriptor(**fields).pack()


@pytest.mark.parametrize(
    "program, code, index",
    [
        ([raw(opcode=0)], ErrorCode.BAD_OPCODE, 0),
        ([job(Unit.LOAD), raw(opcode=13), END], ErrorCode.BAD_OPCODE, 1),
        ([job(Unit.LOAD), job(Unit.STORE), raw(opcode=255), END], ErrorCode.BAD_OPCODE, 2),
        ([job(Unit.LOAD), raw(opcode=Opcode.GEMM, mode=max(Drain) + 1), END], ErrorCode.BAD_OPCODE, 1),
        ([job(Unit.LOAD), job(Unit.GEMM)], ErrorCode.BAD_OPCODE, 2),
        ([], ErrorCode.BAD_OPCODE, 0),
    ],
)
def test_bad_programs(program, code, index):
    assert Bench(program).run() == failed(code, index)


@pytest.mark.parametrize("mode", Drain)
def test_every_drain_mode_is_legal(mode):
    assert Bench([Descriptor(Opcode.GEMM, mode=mode), END]).run() == DONE


@pytest.mark.parametrize("opcode", UNIT_OF)
def test_every_opcode_reaches_its_unit(opcode):
    bench = Bench([Descriptor(opcode, mode=255 * (opcode != Opcode.GEMM)), END])
    assert bench.run() == DONE
    assert [unit for _, unit, _ in bench.started] == [UNIT_OF[opcode]]


def test_unaligned_program():
    bench = Bench([END])
    bench.address = PROGRAM + 8
    assert bench.run() == failed(ErrorCode.BAD_ADDRESS, 0)


@pytest.mark.parametrize("behaviour", [{}, {"read_errors": {PROGRAM + 128, PROGRAM + 192, 4096}}])
def test_what_follows_end_is_not_looked_at(behaviour):
    bench = Bench([job(Unit.LOAD, 1), END, *[raw(opcode=0)] * 30], duration=lambda tag: 40, **behaviour)

    async def testbench(ctx):
        for tag in (1, 2, 3):
            bench.load([job(Unit.LOAD, tag), END])
            bench.length = 32
            await bench.start(ctx)
            assert await bench.finish(ctx) == Status.DONE
            reads = len(bench.ddr.reads)
            await ctx.tick().repeat(30)
            assert len(bench.ddr.reads) == reads

    bench.simulate(testbench)
    assert [tag for _, _, tag in bench.ended] == [1, 2, 3]


@pytest.mark.parametrize("index", range(4))
def test_read_error_of_the_fetch(index):
    bench = Bench([job(Unit.LOAD)] * 3 + [END], read_errors={PROGRAM + 64 * index})
    assert bench.run() == failed(ErrorCode.AXI_READ, index)


def inject(bench, cycles, signal, value=1):
    """Return a testbench that drives `signal` for one cycle, so many cycles after the start."""

    async def testbench(ctx):
        await ctx.tick().repeat(cycles)
        ctx.set(signal(bench.sequencer), value)
        await ctx.tick()
        ctx.set(signal(bench.sequencer), 0)

    return testbench


@pytest.mark.parametrize(
    "signal, value, code, index",
    [
        *((lambda sequencer: sequencer.fault, 1 << unit, ErrorCode.BAD_ADDRESS, 5 + unit) for unit in Unit),
        (lambda sequencer: sequencer.axi_read_error, 1, ErrorCode.AXI_READ, 5 + Unit.LOAD),
        (lambda sequencer: sequencer.axi_write_error, 1, ErrorCode.AXI_WRITE, 5 + Unit.STORE),
        (lambda sequencer: sequencer.abort, 1, ErrorCode.ABORTED, 5),
    ],
)
def test_failures_of_a_run_and_the_next_run(signal, value, code, index):
    # The first five descriptors end quickly; the next five run when the failure comes; five more wait in the queues.
    program = [job(unit, tag) for tag in range(3) for unit in Unit]
    bench = Bench([*program, END], duration=lambda tag: [1, 500, 1][tag])

    async def testbench(ctx):
        await bench.start(ctx)
        assert await bench.finish(ctx) == Status.ERROR
        assert bench.failure(ctx) == (code, index)
        assert len(bench.started) == 10 and len(bench.ended) == 5
        await ctx.tick().repeat(20)
        assert len(bench.started) == 10
        bench.load([job(unit, 0) for unit in Unit] + [END])
        await bench.start(ctx)
        assert bench.failure(ctx) == (ErrorCode.NONE, 0)
        assert await bench.finish(ctx) == Status.DONE
        assert len(bench.ended) == 10

    bench.simulate(testbench, inject(bench, 300, signal, value))


def test_the_first_of_two_failures_is_kept():
    bench = Bench([job(Unit.LOAD), job(Unit.GEMM), END], duration=lambda tag: 200)

    async def both(ctx):
        await ctx.tick().repeat(60)
        ctx.set(bench.sequencer.fault, 1 << Unit.GEMM)
        ctx.set(bench.sequencer.axi_read_error, 1)
        await ctx.tick()
        ctx.set(bench.sequencer.axi_read_error, 0)

    async def testbench(ctx):
        await bench.start(ctx)
        assert await bench.finish(ctx) == Status.ERROR
        assert bench.failure(ctx) == (ErrorCode.AXI_READ, 0)

    bench.simulate(testbench, both)


def test_watchdog_names_the_oldest_unfinished_descriptor():
    program = [
        job(Unit.LOAD, 0),
        job(Unit.GEMM, 1, wait_store=1),
        job(Unit.VECTOR, 2),
        job(Unit.STORE, 3, wait_gemm=1),
        END,
    ]
    bench = Bench(program, watchdog=50)
    assert bench.run() == failed(ErrorCode.WATCHDOG, 1)
    last = max(cycle for cycle, _, _ in bench.ended)
    assert 50 <= bench.resets[1] - last <= 53


def test_watchdog_leaves_a_slow_run_alone():
    bench = Bench([job(Unit.LOAD, tag) for tag in range(4)] + [END], duration=lambda tag: 40, watchdog=60)
    assert bench.run() == DONE


def test_watchdog_off():
    assert Bench([job(Unit.LOAD), END], duration=lambda tag: 300).run() == DONE


def test_hung_bus_is_reported_at_once_and_drained_later():
    bench = Bench([job(Unit.LOAD), END], watchdog=40, is_hung=True)

    async def testbench(ctx):
        await bench.start(ctx)
        await ctx.tick().repeat(60)
        assert bench.status(ctx) == Status.ERROR | Status.DRAINING
        assert bench.failure(ctx) == (ErrorCode.WATCHDOG, 0)
        await bench.start(ctx)
        await ctx.tick().repeat(100)
        assert bench.status(ctx) == Status.ERROR | Status.DRAINING
        bench.ddr.is_hung = False
        assert await bench.finish(ctx) == Status.ERROR
        assert bench.failure(ctx) == (ErrorCode.WATCHDOG, 0)
        await bench.start(ctx)
        assert bench.status(ctx) == Status.BUSY
        assert await bench.finish(ctx) == Status.DONE

    bench.simulate(testbench)


def test_start_while_busy_and_abort_while_idle_are_ignored():
    bench = Bench([job(Unit.LOAD), END], duration=lambda tag: 80)

    async def testbench(ctx):
        await bench.pulse(ctx, bench.sequencer.abort)
        assert bench.status(ctx) == Status(0)
        await bench.start(ctx)
        await ctx.tick().repeat(40)
        await bench.pulse(ctx, bench.sequencer.start)
        assert await bench.finish(ctx) == Status.DONE
        assert len(bench.started) == 1
        await bench.pulse(ctx, bench.sequencer.abort)
        assert bench.status(ctx) == Status.DONE

    bench.simulate(testbench)


@pytest.mark.parametrize("wait", range(1, 60, 4))
def test_abort_at_any_time_leaves_the_next_run_intact(wait):
    bench = Bench([job(unit, tag) for tag in range(3) for unit in Unit] + [END], duration=lambda tag: 2, pause=0.3)

    async def testbench(ctx):
        await bench.start(ctx)
        await ctx.tick().repeat(wait)
        await bench.pulse(ctx, bench.sequencer.abort)
        await bench.finish(ctx)
        bench.ended.clear()
        bench.load([job(Unit.VECTOR, 7), job(Unit.STORE, 8, wait_vector=1), END])
        await bench.start(ctx)
        assert await bench.finish(ctx) == Status.DONE
        assert [tag for _, _, tag in bench.ended] == [7, 8]

    bench.simulate(testbench)
