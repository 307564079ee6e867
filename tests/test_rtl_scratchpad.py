"""Scratchpad against a Python list of words.

Testpoints: response after READ_LATENCY cycles to the reader that asked and to no other; a write is visible to the
next cycle's read; enables write their part only; readers share in turn, and so do all writers but the first, which is
never refused; random traffic on every port.
"""

from random import Random

import pytest
from rtl_streams import run

from hw.rtl.scratchpad import Scratchpad
from hw.timing import READ_LATENCY


async def write(ctx, port, address, data, enable):
    """Write one word and return in the cycle after the transfer."""
    ctx.set(port.request.payload, {"address": address, "data": data, "enable": enable})
    ctx.set(port.request.valid, 1)
    await ctx.tick().until(port.request.ready)
    ctx.set(port.request.valid, 0)


async def read(ctx, port, address):
    """Read one word; checks that the response comes READ_LATENCY cycles after the transfer and lasts one cycle."""
    ctx.set(port.request.payload, address)
    ctx.set(port.request.valid, 1)
    await ctx.tick().until(port.request.ready)
    ctx.set(port.request.valid, 0)
    for _ in range(READ_LATENCY - 1):
        assert not ctx.get(port.response_valid)
        await ctx.tick()
    assert ctx.get(port.response_valid)
    word = ctx.get(port.response)
    await ctx.tick()
    assert not ctx.get(port.response_valid)
    return word


def test_write_is_visible_to_the_next_read():
    memory = Scratchpad(20, 32, 4, 1, 1)

    async def testbench(ctx):
        for address in (0, 7, 19):
            await write(ctx, memory.writers[0], address, 0x1000 + address, 0b1111)
            assert await read(ctx, memory.readers[0], address) == 0x1000 + address

    run(memory, testbench)


@pytest.mark.parametrize("enables", [1, 2, 4])
def test_enables_write_their_part(enables):
    memory, part = Scratchpad(16, 32, enables, 1, 1), 32 // enables

    async def testbench(ctx):
        for enable in range(1 << enables):
            await write(ctx, memory.writers[0], enable, 0x01234567, (1 << enables) - 1)
            await write(ctx, memory.writers[0], enable, 0x89ABCDEF, enable)
            mask = sum(((1 << part) - 1) << (part * bit) for bit in range(enables) if enable >> bit & 1)
            expected = (0x01234567 & ~mask) | (0x89ABCDEF & mask)
            assert await read(ctx, memory.readers[0], enable) == expected

    run(memory, testbench)


def test_responses_reach_the_reader_that_asked():
    memory, counts = Scratchpad(16, 8, 1, 3, 1), [0, 0, 0]

    def reader(index):
        async def testbench(ctx):
            for _ in range(10):
                assert await read(ctx, memory.readers[index], index) == 40 + index
                counts[index] += 1

        return testbench

    async def fill(ctx):
        for address in range(3):
            await write(ctx, memory.writers[0], address, 40 + address, 1)

    async def in_order(ctx):
        await fill(ctx)
        await reader(0)(ctx)

    def after_fill(index):
        async def testbench(ctx):
            await ctx.tick().repeat(4)
            await reader(index)(ctx)

        return testbench

    run(memory, in_order, after_fill(1), after_fill(2))
    assert counts == [10, 10, 10]


def saturate(request, cycles, grants, name):
    """Return a testbench that asks in every cycle and appends `name` to grants at each transfer."""

    async def testbench(ctx):
        ctx.set(request.valid, 1)
        for _ in range(cycles):
            _, _, ready = await ctx.tick().sample(request.ready)
            if ready:
                grants.append(name)

    return testbench


@pytest.mark.parametrize("side, count", [("readers", 3), ("readers", 2), ("writers", 3), ("writers", 2)])
def test_ports_share_in_turn(side, count):
    first = 1 if side == "writers" else 0  # the first writer does not share
    memory, grants = Scratchpad(16, 8, 1, count, count + first), []
    ports = getattr(memory, side)[first:]
    run(memory, *(saturate(port.request, 12, grants, index) for index, port in enumerate(ports)))
    assert len(grants) == 12
    assert [grants.count(index) for index in range(count)] == [12 // count] * count
    assert all(len(set(grants[at : at + count])) == count for at in range(12 - count))


def test_the_first_writer_is_never_refused():
    memory, grants = Scratchpad(16, 8, 1, 1, 3), []

    async def now_and_then(ctx):
        request = memory.writers[0].request
        for cycle in range(12):
            ctx.set(request.valid, cycle % 3 == 0)
            *_, valid, ready = await ctx.tick().sample(request.valid, request.ready)
            assert ready
            if valid:
                grants.append(0)

    others = [saturate(memory.writers[index].request, 12, grants, index) for index in (1, 2)]
    run(memory, now_and_then, *others)
    assert [grants.count(index) for index in range(3)] == [4, 4, 4]


@pytest.mark.parametrize("seed", range(3))
def test_random_traffic_on_every_port(seed):
    memory = Scratchpad(24, 16, 2, 3, 2)

    def port_pair(index):
        async def testbench(ctx):  # this pair owns every third address, so its own order is the only one
            random, model = Random(10 * seed + index), {}
            writer, reader = memory.writers[index % 2], memory.readers[index]
            for _ in range(40):
                address = 3 * random.randrange(8) + index
                if index < 2 and (random.random() < 0.6 or address not in model):
                    data, enable = random.getrandbits(16), 3 if address not in model else random.randrange(4)
                    await write(ctx, writer, address, data, enable)
                    mask = 0xFF * (enable & 1) + 0xFF00 * (enable >> 1)
                    model[address] = (model.get(address, 0) & ~mask) | (data & mask)
                elif index == 2:
                    assert await read(ctx, reader, address) == 0
                else:
                    assert await read(ctx, reader, address) == model[address]

        return testbench

    run(memory, *(port_pair(index) for index in range(3)))
