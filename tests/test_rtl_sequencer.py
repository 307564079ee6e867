"""Order, waits and counters of the sequencer.

Testpoints: wait counts compare modulo 2**16; random programs keep program order per unit and every wait, whatever the
units' speed; units overlap; a full queue holds the program back; counters.
"""

from random import Random

import pytest
from rtl_streams import run
from sequencer_bench import DONE, END, Bench, job

from hw.isa import UNIT_OF, Unit
from hw.regmap import Status
from hw.rtl.dispatch import Dispatcher
from hw.timing import QUEUE_DEPTH


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
