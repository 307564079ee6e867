"""Write queue of the vector engines: reservations, order, addresses.

Testpoints: room for exactly `depth` writes while the port stalls; nothing lost or reordered with random reservations,
pipeline latency and pauses; one address per write, in order; is_empty only when every reserved write has transferred.
"""

from random import Random

import pytest
from amaranth.sim import Simulator

from hw.rtl.write_queue import WriteQueue

DEPTH, LATENCY = 4, 3


@pytest.mark.parametrize("port_ready", [0.0, 0.3, 1.0])
def test_reserved_writes_leave_in_order(port_ready: float) -> None:
    dut, random = WriteQueue(8, 2, depth=DEPTH), Random(31)
    pushes, received, most_reserved = [0] * LATENCY, [], 0

    async def testbench(ctx):
        nonlocal most_reserved
        num_reserved = num_pushed = 0
        for cycle in range(300):
            reserve = bool(ctx.get(dut.has_room)) and (cycle < 20 or random.random() < 0.7)
            push = pushes.pop(0)
            pushes.append(reserve)
            num_reserved += reserve
            ctx.set(dut.reserve, reserve)
            ctx.set(dut.push, push)
            ctx.set(dut.data, num_pushed & 0xFF)
            ctx.set(dut.addresses.valid, 1)
            ctx.set(dut.addresses.payload, 1000 + num_pushed)
            ctx.set(dut.writes.ready, random.random() < port_ready)
            assert bool(ctx.get(dut.addresses.ready)) == bool(push)
            assert bool(ctx.get(dut.is_empty)) == (num_reserved - reserve == len(received))
            _, _, valid, ready, payload = await ctx.tick().sample(
                dut.writes.valid, dut.writes.ready, dut.writes.payload
            )
            num_pushed += push
            if valid and ready:
                received.append((payload.address, payload.data, payload.enable))
            most_reserved = max(most_reserved, num_reserved - len(received))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert received == [(1000 + index, index & 0xFF, 3) for index in range(len(received))]
    assert most_reserved == DEPTH
    assert len(received) >= 280 * port_ready * 0.5
