"""Stream pieces against Python lists, with pauses on both sides.

Testpoints: FIFO keeps order, fills to its depth and streams at full rate; width converter gathers, splits and passes
low bits first at full rate; arbiter serves in turn, keeps an offered payload, starves nobody;
memory reader loses no word when the sink stalls and gives one word per cycle.
"""

from random import Random

import pytest
from amaranth.hdl import Module, Signal
from rtl_streams import read_port, run, sink, source

from hw.rtl.stream import Fifo, MemoryReader, RoundRobin, WidthConverter

PAUSES = [(0.0, 0.0), (0.6, 0.0), (0.0, 0.6), (0.4, 0.4)]


def wait_for(received, count):
    """Return a testbench that lasts until `count` payloads have arrived and ten more cycles have brought no other."""

    async def testbench(ctx):
        while len(received) < count:
            await ctx.tick()
        await ctx.tick().repeat(10)

    return testbench


def clocked(dut):
    """Return `dut` with a register beside it: the simulator needs a clock even where there are wires only."""
    m = Module()
    m.submodules.dut = dut
    m.d.sync += Signal().eq(1)
    return m


def transfer_cycles(stream, cycles):
    """Return a background that appends the number of each cycle in which `stream` transfers."""

    async def testbench(ctx):
        cycle = 0
        while True:
            _, _, valid, ready = await ctx.tick().sample(stream.valid, stream.ready)
            if valid and ready:
                cycles.append(cycle)
            cycle += 1

    return testbench


@pytest.mark.parametrize("source_pause, sink_pause", PAUSES)
@pytest.mark.parametrize("depth", [1, 3, 4])
def test_fifo_keeps_order(depth, source_pause, sink_pause):
    fifo, payloads, received = Fifo(8, depth), [Random(1).randrange(256) for _ in range(40)], []
    run(
        fifo,
        source(fifo.i, payloads, pause=source_pause, seed=2),
        wait_for(received, len(payloads)),
        backgrounds=[sink(fifo.o, received, pause=sink_pause, seed=3)],
    )
    assert received == payloads


def test_fifo_fills_to_its_depth():
    fifo = Fifo(8, 3)

    async def fill(ctx):
        ctx.set(fifo.i.valid, 1)
        for level in range(3):
            assert (ctx.get(fifo.level), ctx.get(fifo.i.ready)) == (level, 1)
            await ctx.tick()
        assert (ctx.get(fifo.level), ctx.get(fifo.i.ready)) == (3, 0)

    run(fifo, fill)


@pytest.mark.parametrize("source_pause, sink_pause", PAUSES)
@pytest.mark.parametrize("i_bytes, o_bytes", [(1, 4), (4, 1), (2, 2), (4, 2), (1, 2)])
def test_width_converter_keeps_bytes(i_bytes, o_bytes, source_pause, sink_pause):
    data = Random(4).randbytes(32)
    converter, received = WidthConverter(8 * i_bytes, 8 * o_bytes), []
    payloads = [int.from_bytes(data[at : at + i_bytes], "little") for at in range(0, len(data), i_bytes)]
    run(
        clocked(converter),
        source(converter.i, payloads, pause=source_pause, seed=5),
        wait_for(received, len(data) // o_bytes),
        backgrounds=[sink(converter.o, received, pause=sink_pause, seed=6)],
    )
    assert b"".join(word.to_bytes(o_bytes, "little") for word in received) == data


@pytest.mark.parametrize("i_bytes, o_bytes", [(1, 4), (4, 1)])
def test_width_converter_has_full_rate(i_bytes, o_bytes):
    converter, received, cycles = WidthConverter(8 * i_bytes, 8 * o_bytes), [], []
    narrow = converter.i if i_bytes < o_bytes else converter.o
    run(
        converter,
        source(converter.i, [0] * (64 // i_bytes)),
        wait_for(received, 64 // o_bytes),
        backgrounds=[sink(converter.o, received), transfer_cycles(narrow, cycles)],
    )
    assert cycles == list(range(cycles[0], cycles[0] + 64))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("sink_pause", [0.0, 0.5])
def test_round_robin_serves_in_turn(count, sink_pause):
    arbiter, received = RoundRobin(8, count), []
    payloads = [[16 * index + step for step in range(6)] for index in range(count)]
    run(
        arbiter,
        *(source(stream, items) for stream, items in zip(arbiter.i, payloads, strict=True)),
        wait_for(received, 6 * count),
        backgrounds=[sink(arbiter.o, received, pause=sink_pause, seed=7)],
    )
    assert received == [payloads[index][step] for step in range(6) for index in range(count)]


@pytest.mark.parametrize("seed", range(3))
def test_round_robin_keeps_each_order_under_pauses(seed):
    arbiter, received = RoundRobin(8, 3), []
    payloads = [[16 * index + step for step in range(12)] for index in range(3)]
    run(
        arbiter,
        *(
            source(stream, items, pause=0.5, seed=seed + step)
            for step, (stream, items) in enumerate(zip(arbiter.i, payloads, strict=True))
        ),
        wait_for(received, 36),
        backgrounds=[sink(arbiter.o, received, pause=0.5, seed=seed)],
    )
    for index in range(3):
        assert [item for item in received if item // 16 == index] == payloads[index]


def test_round_robin_keeps_an_offered_payload():
    arbiter = RoundRobin(8, 3)

    async def offer(ctx):
        ctx.set(arbiter.i[2].payload, 22)
        ctx.set(arbiter.i[2].valid, 1)
        await ctx.tick()
        ctx.set(arbiter.i[0].payload, 10)
        ctx.set(arbiter.i[0].valid, 1)
        for _ in range(3):
            assert (ctx.get(arbiter.o.payload), ctx.get(arbiter.grant)) == (22, 2)
            await ctx.tick()
        ctx.set(arbiter.o.ready, 1)
        await ctx.tick()
        assert (ctx.get(arbiter.o.payload), ctx.get(arbiter.grant)) == (10, 0)

    run(arbiter, offer)


def test_round_robin_starves_nobody():
    arbiter, received = RoundRobin(8, 3), []
    run(
        arbiter,
        source(arbiter.i[0], [0] * 30),
        source(arbiter.i[1], [1] * 30),
        source(arbiter.i[2], [2] * 5, pause=0.7, seed=8),
        backgrounds=[sink(arbiter.o, received)],
    )
    first, last = received.index(2), max(at for at, item in enumerate(received) if item == 2)
    assert last - first < 40 and received[:60].count(2) == 5


@pytest.mark.parametrize("source_pause, sink_pause", PAUSES)
@pytest.mark.parametrize("port_pause", [0.0, 0.5])
def test_memory_reader_loses_nothing(source_pause, sink_pause, port_pause):
    random, received = Random(9), []
    reader, words = MemoryReader(16), [random.getrandbits(16) for _ in range(64)]
    addresses = [random.randrange(64) for _ in range(50)]
    run(
        reader,
        source(reader.addresses, addresses, pause=source_pause, seed=10),
        wait_for(received, len(addresses)),
        backgrounds=[
            read_port(reader.port, words, pause=port_pause, seed=11),
            sink(reader.words, received, pause=sink_pause, seed=12),
        ],
    )
    assert received == [words[address] for address in addresses]


def test_memory_reader_has_full_rate():
    reader, received, cycles = MemoryReader(16), [], []
    run(
        reader,
        source(reader.addresses, list(range(40))),
        wait_for(received, 40),
        backgrounds=[
            read_port(reader.port, list(range(64))),
            sink(reader.words, received),
            transfer_cycles(reader.words, cycles),
        ],
    )
    assert cycles == list(range(cycles[0], cycles[0] + 40))
