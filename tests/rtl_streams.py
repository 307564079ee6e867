"""Testbenches that stand around a unit in Amaranth's simulator: streams, memories and a run with a deadline.

Each function returns a testbench for `run`. Every one samples its signals at the clock edge and drives them after it,
so the order of the testbenches does not matter. `pause` is the probability that a side does nothing in a cycle.
Tests import it as `rtl_streams`: pytest has this folder on its path.
"""

from collections import deque
from random import Random

import numpy as np
from amaranth.hdl import ValueCastable
from amaranth.sim import Simulator

from hw.timing import READ_LATENCY


def pack_word(values, bits):
    """Pack integers into one word of equal fields, first value in the low bits, negative ones as two's complement."""
    word = 0
    for position, value in enumerate(np.asarray(values).reshape(-1).tolist()):
        word |= (value & ((1 << bits) - 1)) << (position * bits)
    return word


def unpack_word(word, bits, count, *, is_signed):
    """Inverse of pack_word: `count` fields of `bits` bits as int64 (count,)."""
    fields = [(word >> (position * bits)) & ((1 << bits) - 1) for position in range(count)]
    if is_signed:
        fields = [field - (1 << bits) if field >> (bits - 1) else field for field in fields]
    return np.array(fields, dtype=np.int64)


def source(stream, payloads, *, pause=0.0, seed=0):
    """Send every payload in order; valid, once raised, stays until the transfer."""

    async def testbench(ctx):
        random = Random(seed)
        for payload in payloads:
            while random.random() < pause:
                await ctx.tick()
            ctx.set(stream.payload, payload)
            ctx.set(stream.valid, 1)
            await ctx.tick().until(stream.ready)
            ctx.set(stream.valid, 0)

    return testbench


def sink(stream, received, *, pause=0.0, seed=0):
    """Append every payload that transfers to the list `received`; runs until the simulation ends (a background)."""

    async def testbench(ctx):
        random = Random(seed)
        while True:
            ctx.set(stream.ready, random.random() >= pause)
            _, _, valid, ready, payload = await ctx.tick().sample(stream.valid, stream.ready, stream.payload)
            if valid and ready:
                received.append(payload)

    return testbench


def read_port(port, words, *, pause=0.0, seed=0, addresses=None):
    """Serve a read port from `words` (a sequence or dict of integers); a background.

    The response comes READ_LATENCY cycles after the transfer and is noise in every other cycle. Each address that
    transfers is appended to the list `addresses`.
    """

    async def testbench(ctx):
        random = Random(seed)
        width = len(port.response.as_value() if isinstance(port.response, ValueCastable) else port.response)
        in_flight = deque([None] * (READ_LATENCY - 1))
        while True:
            ctx.set(port.request.ready, random.random() >= pause)
            _, _, valid, ready, address = await ctx.tick().sample(
                port.request.valid, port.request.ready, port.request.payload
            )
            in_flight.append(None)
            if valid and ready:
                in_flight[-1] = words[address]
                if addresses is not None:
                    addresses.append(address)
            response = in_flight.popleft()
            ctx.set(port.response_valid, response is not None)
            ctx.set(port.response, random.getrandbits(width) if response is None else response)

    return testbench


def write_port(port, words, *, pause=0.0, seed=0, writes=None):
    """Accept writes into `words` (a mutable sequence or dict), each enable a part of the word; a background.

    Each transfer is appended to the list `writes` as (address, data, enable).
    """

    async def testbench(ctx):
        random = Random(seed)
        request = port.request
        parts = len(request.payload.enable)
        bits = len(request.payload.data) // parts
        while True:
            ctx.set(request.ready, random.random() >= pause)
            _, _, valid, ready, address, data, enable = await ctx.tick().sample(
                request.valid, request.ready, request.payload.address, request.payload.data, request.payload.enable
            )
            if valid and ready:
                mask = sum(((1 << bits) - 1) << (part * bits) for part in range(parts) if enable >> part & 1)
                words[address] = (words[address] & ~mask) | (data & mask)
                if writes is not None:
                    writes.append((address, data, enable))

    return testbench


def run_pipeline(dut, cases, latency, outputs):
    """Feed a pipeline of fixed latency one case per cycle; return the outputs of each case, in order.

    cases : sequence of {member name: value};  outputs : member names. Returns a list of tuples.
    """
    results = []

    async def feed(ctx):
        for cycle in range(len(cases) + latency):
            for name, value in cases[min(cycle, len(cases) - 1)].items():
                ctx.set(getattr(dut, name), value)
            results.append(tuple(ctx.get(getattr(dut, name)) for name in outputs))
            await ctx.tick()

    run(dut, feed, deadline_cycles=len(cases) + latency + 1)
    return results[latency:]


def run(dut, *testbenches, backgrounds=(), deadline_cycles=20000):
    """Simulate `dut` until every testbench has returned; raises AssertionError at the deadline.

    Backgrounds (sinks, memories) do not keep the simulation alive.
    """
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    is_running = [True] * len(testbenches)

    def tracked(index, testbench):
        async def wrapper(ctx):
            await testbench(ctx)
            is_running[index] = False

        return wrapper

    async def watchdog(ctx):
        for _ in range(deadline_cycles):
            await ctx.tick()
        raise AssertionError(f"simulation still ran after {deadline_cycles} cycles")

    for background in backgrounds:
        simulator.add_testbench(background, background=True)
    simulator.add_testbench(watchdog, background=True)
    for index, testbench in enumerate(testbenches):
        simulator.add_testbench(tracked(index, testbench))
    simulator.run()
    assert not any(is_running)
