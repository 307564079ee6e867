"""Failures of the sequencer.

Testpoints: ID of every failure (unknown opcode, drain mode, missing END, unaligned or empty program, unit fault, AXI
errors, watchdog, abort) with its index; failures by precedence; what follows END is not looked at; after each of them
the units are reset and the next run works; start while busy or draining is ignored; a hung bus is reported at once and
drained later.
"""

import pytest
from sequencer_bench import DONE, END, PROGRAM, Bench, failed, job

from hw.isa import UNIT_OF, Descriptor, Drain, ErrorCode, Opcode, Unit
from hw.regmap import Status


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
