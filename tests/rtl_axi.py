"""AXI for Amaranth's simulator: a memory behind the pins of a port, and accesses of an AXI4-Lite host.

Like those of rtl_streams, axi_reads and axi_writes return a background testbench that samples at the clock edge. An
AxiMemory is the state: its bytes, what went over the bus, and how it misbehaves; the protocol is checked throughout.
"""

from collections import deque
from dataclasses import dataclass, field
from random import Random

SLVERR = 2


@dataclass
class AxiMemory:
    """Bytes behind AXI ports. `pause` is the probability of a stall per channel and cycle.

    read_errors, write_errors : addresses of 64-byte blocks that answer SLVERR. While `is_hung`, nothing is accepted or
    answered. reads, writes : (port, address, bytes) of every burst, in the order of their address phases.
    """

    data: bytearray
    pause: float = 0.0
    read_errors: set[int] = field(default_factory=set)
    write_errors: set[int] = field(default_factory=set)
    is_hung: bool = False
    reads: list[tuple[int, int, int]] = field(default_factory=list)
    writes: list[tuple[int, int, int]] = field(default_factory=list)

    def touches(self, blocks: set[int], address: int, size: int) -> bool:
        """Tell whether [address, address + size) meets one of the 64-byte blocks."""
        return any(address < block + 64 and block < address + size for block in blocks)


def check_burst(address, beats, axi_bytes, size, kind, cache):
    """Assert what AXI and the core's own rules demand of an address phase."""
    assert kind == 1 and 1 << size == axi_bytes  # INCR, full width
    assert cache == 0b0011  # bufferable, modifiable: the bridges of the block design may merge beats
    assert address % 64 == 0
    assert beats * axi_bytes <= 256
    assert address // 4096 == (address + beats * axi_bytes - 1) // 4096


def check_held(waiting, valid, ready, *payload):
    """Assert that what was offered in the last cycle without being taken is offered again; return what is now."""
    assert waiting is None or (valid and waiting == payload)
    return payload if valid and not ready else None


def axi_reads(pins, memory, port=0, *, axi_bytes, seed=0, latency=3):
    """Serve AR and R. Bursts of different IDs are answered in random order, those of one ID in order."""

    async def testbench(ctx):
        random = Random(seed)
        queues = {0: deque(), 1: deque()}  # of (cycle from which it may be answered, address, beats left)
        held = waiting = None
        cycle = 0
        while True:
            is_hung = memory.is_hung
            ctx.set(pins.arready, not is_hung and random.random() >= memory.pause)
            if held is None and not is_hung and random.random() >= memory.pause:
                due = [id_ for id_, queue in queues.items() if queue and queue[0][0] <= cycle]
                if due:
                    held = random.choice(due)
                    _, address, left = queues[held][0]
                    is_error = memory.touches(memory.read_errors, address, axi_bytes)
                    ctx.set(pins.rid, held)
                    ctx.set(pins.rdata, int.from_bytes(memory.data[address : address + axi_bytes], "little"))
                    ctx.set(pins.rresp, SLVERR if is_error else 0)
                    ctx.set(pins.rlast, left == 1)
            ctx.set(pins.rvalid, held is not None)
            sampled = await ctx.tick().sample(
                *(pins.arvalid, pins.arready, pins.arid, pins.araddr, pins.arlen, pins.arsize, pins.arburst),
                *(pins.arcache, pins.rready),
            )
            ar_valid, ar_ready, id_, address, length, size, kind, cache, r_ready = sampled[2:]
            waiting = check_held(waiting, ar_valid, ar_ready, id_, address, length, size, kind, cache)
            if held is not None and r_ready:
                due_cycle, beat_address, left = queues[held].popleft()
                if left > 1:
                    queues[held].appendleft((due_cycle, beat_address + axi_bytes, left - 1))
                held = None
            if ar_valid and ar_ready:
                check_burst(address, length + 1, axi_bytes, size, kind, cache)
                memory.reads.append((port, address, (length + 1) * axi_bytes))
                queues[id_].append((cycle + latency, address, length + 1))
            cycle += 1

    return testbench


def axi_writes(pins, memory, port=0, *, axi_bytes, seed=0, latency=3):
    """Serve AW, W and B."""

    async def testbench(ctx):
        random = Random(seed)
        bursts, beats, answers = deque(), deque(), deque()
        is_answering, waiting = False, [None, None]
        cycle = 0
        while True:
            is_hung = memory.is_hung
            ctx.set(pins.awready, not is_hung and random.random() >= memory.pause)
            ctx.set(pins.wready, not is_hung and random.random() >= memory.pause)
            if not is_answering and answers and answers[0][0] <= cycle:
                is_answering = not is_hung and random.random() >= memory.pause
            if is_answering:
                ctx.set(pins.bresp, answers[0][1])
            ctx.set(pins.bvalid, is_answering)
            sampled = await ctx.tick().sample(
                *(pins.awvalid, pins.awready, pins.awaddr, pins.awlen, pins.awsize, pins.awburst, pins.awcache),
                *(pins.wvalid, pins.wready, pins.wdata, pins.wstrb, pins.wlast, pins.bready),
            )
            aw_valid, aw_ready, address, length, size, kind, cache = sampled[2:9]
            w_valid, w_ready, word, strobe, is_last, b_ready = sampled[9:]
            waiting[0] = check_held(waiting[0], aw_valid, aw_ready, address, length, size, kind, cache)
            waiting[1] = check_held(waiting[1], w_valid, w_ready, word, strobe, is_last)
            if is_answering and b_ready:
                answers.popleft()
                is_answering = False
            if aw_valid and aw_ready:
                check_burst(address, length + 1, axi_bytes, size, kind, cache)
                memory.writes.append((port, address, (length + 1) * axi_bytes))
                bursts.append((address, length + 1))
            if w_valid and w_ready:
                assert strobe == (1 << axi_bytes) - 1
                beats.append((word, is_last))
            while bursts and len(beats) >= bursts[0][1]:
                address, count = bursts.popleft()
                for beat in range(count):
                    word, is_last = beats.popleft()
                    assert is_last == (beat == count - 1)
                    start = address + beat * axi_bytes
                    memory.data[start : start + axi_bytes] = word.to_bytes(axi_bytes, "little")
                is_error = memory.touches(memory.write_errors, address, count * axi_bytes)
                answers.append((cycle + latency, SLVERR if is_error else 0))
            cycle += 1

    return testbench


async def lite_write(ctx, bus, offset, value, strobe=0b1111, *, data_delay=0, address_delay=0, response_delay=0):
    """One write access with each channel late by so many cycles."""
    pending = {"aw": address_delay, "w": data_delay}
    ctx.set(bus.awaddr, offset)
    ctx.set(bus.wdata, value)
    ctx.set(bus.wstrb, strobe)
    while pending:
        for channel, delay in pending.items():
            ctx.set(getattr(bus, f"{channel}valid"), delay <= 0)
        _, _, *is_taken = await ctx.tick().sample(bus.awvalid & bus.awready, bus.wvalid & bus.wready)
        pending = {channel: delay - 1 for channel, delay in pending.items() if not is_taken[("aw", "w").index(channel)]}
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 0)
    for _ in range(response_delay):
        assert ctx.get(bus.bvalid)
        await ctx.tick()
    ctx.set(bus.bready, 1)
    (response,) = await ctx.tick().sample(bus.bresp).until(bus.bvalid)
    ctx.set(bus.bready, 0)
    assert response == 0 and not ctx.get(bus.bvalid)


async def lite_read(ctx, bus, offset, *, response_delay=0):
    """One read access whose response is taken so many cycles late."""
    ctx.set(bus.araddr, offset)
    ctx.set(bus.arvalid, 1)
    await ctx.tick().until(bus.arready)
    ctx.set(bus.arvalid, 0)
    for _ in range(response_delay):
        assert ctx.get(bus.rvalid)
        await ctx.tick()
    ctx.set(bus.rready, 1)
    value, response = await ctx.tick().sample(bus.rdata, bus.rresp).until(bus.rvalid)
    ctx.set(bus.rready, 0)
    assert response == 0 and not ctx.get(bus.rvalid)
    return value
