"""Burst engines behind the pins of a port, against an AXI memory that stalls, fails and hangs.

Testpoints: splitter ends bursts at 256 bytes (so never crosses 4 KiB) and covers the transfer exactly; reads of two
clients return their own bytes in order with every beat width and stalls; a slow client loses none; a client that
takes nothing does not block the other and never has more requested than fits; writes reach the memory, and a limited
number of them may be unanswered; error responses are reported; a flush drops the rest, completes what is on the bus,
and leaves the port usable; a hung bus keeps the port busy until it answers.
"""

from random import Random

import pytest
from rtl_axi import AxiMemory, axi_reads, axi_writes
from rtl_streams import run, sink, source

from hw.rtl.axi_port import AxiPort
from hw.rtl.burst import MAX_WRITES, BurstSplitter
from hw.timing import READ_BLOCKS


def make_memory(**behaviour):
    return AxiMemory(bytearray(Random(1).randbytes(16384)), **behaviour)


def until(condition):
    """Return a testbench that lasts until condition() and 20 cycles more."""

    async def testbench(ctx):
        while not condition():
            await ctx.tick()
        await ctx.tick().repeat(20)

    return testbench


def split(block, blocks):
    """Return the bursts of a transfer as the splitter must give them."""
    bursts = []
    while blocks:
        count = min(blocks, 4 - block % 4)
        bursts.append({"block": block, "blocks": count})
        block, blocks = block + count, blocks - count
    return bursts


def offer(stream, payloads):
    """Return a background that sends the payloads as far as they are taken."""

    async def testbench(ctx):
        for payload in payloads:
            ctx.set(stream.payload, payload)
            ctx.set(stream.valid, 1)
            is_taken = False
            while not is_taken:
                _, _, is_taken = await ctx.tick().sample(stream.ready)
        ctx.set(stream.valid, 0)

    return testbench


def bytes_of(beats, axi_bytes):
    return b"".join(beat["data"].to_bytes(axi_bytes, "little") for beat in beats)


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_splitter_covers_each_transfer(pause):
    splitter, received = BurstSplitter(), []
    transfers = [(0, 1), (3, 1), (3, 2), (0, 4), (1, 4), (62, 7), (5, 11), ((1 << 34) - 4, 4)]
    expected = [burst for transfer in transfers for burst in split(*transfer)]
    run(
        splitter,
        source(splitter.i, [{"block": block, "blocks": blocks} for block, blocks in transfers], pause=pause, seed=2),
        until(lambda: len(received) >= len(expected)),
        backgrounds=[sink(splitter.o, received, pause=pause, seed=3)],
    )
    assert [{"block": burst.block, "blocks": burst.blocks} for burst in received] == expected


@pytest.mark.parametrize("pause", [0.0, 0.4])
@pytest.mark.parametrize("axi_bytes", [4, 8, 16])
def test_two_readers_share_a_port(axi_bytes, pause):
    port, memory, received = AxiPort(axi_bytes, 2, has_writer=False), make_memory(pause=pause), [[], []]
    transfers = [(60, 9), (130, 17)]
    run(
        port,
        *(source(stream, split(*transfer)) for stream, transfer in zip(port.read_bursts, transfers, strict=True)),
        until(
            lambda: all(
                len(beats) * axi_bytes >= 64 * blocks for beats, (_, blocks) in zip(received, transfers, strict=True)
            )
        ),
        backgrounds=[
            axi_reads(port.pins, memory, axi_bytes=axi_bytes, seed=4),
            *(
                sink(stream, beats, pause=pause, seed=5)
                for stream, beats in zip(port.read_beats, received, strict=True)
            ),
        ],
    )
    for beats, (block, blocks) in zip(received, transfers, strict=True):
        assert bytes_of(beats, axi_bytes) == memory.data[64 * block : 64 * (block + blocks)]
        assert not any(beat["error"] for beat in beats)
    assert sum(size for _, _, size in memory.reads) == 64 * (9 + 17)


def test_stalled_reader_does_not_block_the_other():
    port, memory, received = AxiPort(8, 2, has_writer=False), make_memory(), []
    run(
        port,
        source(port.read_bursts[1], split(100, 40)),
        until(lambda: len(received) * 8 >= 64 * 40),
        backgrounds=[
            offer(port.read_bursts[0], split(0, 64)),
            axi_reads(port.pins, memory, axi_bytes=8, seed=4),
            sink(port.read_beats[1], received),
        ],
    )
    assert bytes_of(received, 8) == memory.data[6400 : 6400 + 2560]
    requested = sum(size for _, address, size in memory.reads if address < 6400)
    assert requested == 64 * READ_BLOCKS  # all that fits, and no more


def test_slow_reader_gets_every_beat_of_a_long_transfer():
    port, memory, received = AxiPort(16, 1, has_writer=False), make_memory(), []
    run(
        port,
        source(port.read_bursts[0], split(0, 96)),
        until(lambda: len(received) * 16 >= 64 * 96),
        backgrounds=[
            axi_reads(port.pins, memory, axi_bytes=16, seed=4),
            sink(port.read_beats[0], received, pause=0.8, seed=7),
        ],
    )
    assert bytes_of(received, 16) == memory.data[: 64 * 96]


def test_reads_overlap_the_latency_of_the_memory():
    port, memory, received = AxiPort(16, 1, has_writer=False), make_memory(), []
    cycles = 0

    async def count(ctx):
        nonlocal cycles
        while len(received) < 16 * 16:
            await ctx.tick()
            cycles += 1

    run(
        port,
        source(port.read_bursts[0], split(0, 64)),
        count,
        backgrounds=[
            axi_reads(port.pins, memory, axi_bytes=16, latency=30),
            sink(port.read_beats[0], received),
        ],
    )
    assert cycles < 16 * 16 + 30 + 10


@pytest.mark.parametrize("pause", [0.0, 0.4])
@pytest.mark.parametrize("axi_bytes", [4, 8, 16])
def test_writes_reach_the_memory(axi_bytes, pause):
    port, memory = AxiPort(axi_bytes, 1, has_writer=True), make_memory(pause=pause)
    before, data = bytes(memory.data), Random(6).randbytes(64 * 11)
    beats = [int.from_bytes(data[at : at + axi_bytes], "little") for at in range(0, len(data), axi_bytes)]

    async def settle(ctx):
        while len(memory.writes) < len(split(62, 11)):
            await ctx.tick()
        while not ctx.get(port.write_idle):
            await ctx.tick()

    run(
        port,
        source(port.write_bursts, split(62, 11)),
        source(port.write_beats, beats, pause=pause, seed=7),
        settle,
        backgrounds=[axi_writes(port.pins, memory, axi_bytes=axi_bytes, seed=8)],
    )
    start = 64 * 62
    assert memory.data == before[:start] + data + before[start + len(data) :]
    assert [(address, size) for _, address, size in memory.writes] == [
        (64 * burst["block"], 64 * burst["blocks"]) for burst in split(62, 11)
    ]


def test_writes_without_a_response_are_limited():
    port, memory = AxiPort(8, 1, has_writer=True), make_memory()

    async def testbench(ctx):
        await ctx.tick().repeat(300)
        assert len(memory.writes) == MAX_WRITES and not ctx.get(port.write_idle)
        while not ctx.get(port.write_idle) or len(memory.writes) < 20:
            await ctx.tick()

    run(
        port,
        testbench,
        source(port.write_bursts, [{"block": block, "blocks": 1} for block in range(20)]),
        source(port.write_beats, [1] * 160),
        backgrounds=[axi_writes(port.pins, memory, axi_bytes=8, latency=320)],
    )


def test_read_error_marks_its_beats():
    port, memory, received = AxiPort(8, 1, has_writer=False), make_memory(read_errors={64 * 5}), []
    run(
        port,
        source(port.read_bursts[0], split(4, 4)),
        until(lambda: len(received) >= 32),
        backgrounds=[axi_reads(port.pins, memory, axi_bytes=8), sink(port.read_beats[0], received)],
    )
    assert [beat["error"] for beat in received] == [0] * 8 + [1] * 8 + [0] * 16
    assert [beat["last"] for beat in received] == [0] * 31 + [1]


def test_write_error_is_reported_once():
    port, memory, errors = AxiPort(8, 1, has_writer=True), make_memory(write_errors={64 * 5}), []

    async def watch(ctx):
        async for _, _, error in ctx.tick().sample(port.write_error):
            errors.append(error)

    run(
        port,
        source(port.write_bursts, split(0, 12)),
        source(port.write_beats, [0] * 96),
        until(lambda: len(memory.writes) >= 3),
        backgrounds=[axi_writes(port.pins, memory, axi_bytes=8), watch],
    )
    assert sum(errors) == 1


async def flush_until_idle(ctx, port):
    """Flush every engine of a port with one reader until all are idle."""
    for signal in (port.read_flush, port.write_flush):
        ctx.set(signal, 1)
    await ctx.tick()
    while not (ctx.get(port.read_idle) & ctx.get(port.write_idle)):
        await ctx.tick()
    for signal in (port.read_flush, port.write_flush):
        ctx.set(signal, 0)


@pytest.mark.parametrize("wait", range(1, 100, 7))
def test_flush_completes_the_bus_and_leaves_the_port_usable(wait):
    """Cut reads and writes off after `wait` cycles; the slave's checks see that no burst stays incomplete."""
    port, memory, received = AxiPort(8, 1, has_writer=True), make_memory(pause=0.3), []
    data = Random(9).randbytes(256)

    async def cut(ctx):
        for stream in (port.read_bursts[0], port.write_bursts):
            ctx.set(stream.payload, {"block": 8, "blocks": 4})
            ctx.set(stream.valid, 1)
        ctx.set(port.write_beats.valid, 1)
        beat = 0
        for _ in range(wait):
            ctx.set(port.write_beats.payload, beat)
            _, _, is_taken = await ctx.tick().sample(port.write_beats.ready)
            beat += is_taken
        await flush_until_idle(ctx, port)  # the clients go on offering until their reset
        for stream in (port.read_bursts[0], port.write_bursts, port.write_beats):
            ctx.set(stream.valid, 0)
        done = len(memory.writes)
        if done:
            beats = range(32 * (done - 1), 32 * done)
            assert memory.data[512:768] == b"".join(beat.to_bytes(8, "little") for beat in beats)
        memory.data[512:768] = data
        received.clear()
        await source(port.read_bursts[0], split(8, 4))(ctx)
        while len(received) < 32:
            await ctx.tick()
        await source(port.write_beats, [7] * 32)(ctx)
        await source(port.write_bursts, split(16, 4))(ctx)
        await ctx.tick()
        while not ctx.get(port.write_idle):
            await ctx.tick()
        assert len(memory.writes) == done + 1
        await ctx.tick().repeat(20)

    run(
        port,
        cut,
        backgrounds=[
            axi_reads(port.pins, memory, axi_bytes=8, seed=10),
            axi_writes(port.pins, memory, axi_bytes=8, seed=11),
            sink(port.read_beats[0], received, pause=0.3, seed=12),
        ],
    )
    assert bytes_of(received, 8) == data
    assert memory.data[1024:1280] == (7).to_bytes(8, "little") * 32


def test_hung_bus_keeps_the_port_busy_until_it_answers():
    port, memory = AxiPort(8, 1, has_writer=True), make_memory(is_hung=True)

    async def testbench(ctx):
        await source(port.read_bursts[0], split(0, 4))(ctx)
        await source(port.write_beats, [1] * 8)(ctx)
        await source(port.write_bursts, split(4, 1))(ctx)
        ctx.set(port.read_flush, 1)
        ctx.set(port.write_flush, 1)
        for _ in range(50):
            await ctx.tick()
            assert (ctx.get(port.read_idle), ctx.get(port.write_idle)) == (0, 0)
            assert (ctx.get(port.pins.arvalid), ctx.get(port.pins.awvalid), ctx.get(port.pins.wvalid)) == (1, 1, 1)
        memory.is_hung = False
        await flush_until_idle(ctx, port)

    run(
        port,
        testbench,
        backgrounds=[axi_reads(port.pins, memory, axi_bytes=8), axi_writes(port.pins, memory, axi_bytes=8)],
    )
    assert memory.reads == [(0, 0, 256)] and memory.writes == [(0, 256, 64)]
