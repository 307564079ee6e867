"""Address walk against the two nested loops that it stands for.

Testpoints: counts 0, 1 and more; steps 0, 1 and larger; one and two passes; addresses of 17 bits; walks back to back
with pauses; 1 address per cycle.
"""

import pytest

from hw.rtl.address_walk import AddressWalk
from tests.rtl_streams import run, sink, source

WALKS = [
    {"base": 5, "inner_step": 1, "inner_count": 4, "outer_step": 10, "outer_count": 3},
    {"base": 65535, "inner_step": 65535, "inner_count": 2, "outer_step": 0, "outer_count": 2},
    {"base": 7, "inner_step": 3, "inner_count": 0, "outer_step": 2, "outer_count": 0},
    {"base": 0, "inner_step": 0, "inner_count": 1, "outer_step": 100, "outer_count": 5},
    {"base": 9, "inner_step": 20, "inner_count": 3, "outer_step": 1, "outer_count": 1},
]


def addresses_of(walk, passes):
    return [
        walk["base"] + outer * walk["outer_step"] + inner * walk["inner_step"]
        for outer in range(max(walk["outer_count"], 1))
        for _ in range(passes)
        for inner in range(max(walk["inner_count"], 1))
    ]


@pytest.mark.parametrize("pause", [0.0, 0.5])
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_walk_is_two_nested_loops(passes: int, pause: float) -> None:
    dut, received = AddressWalk(passes), []
    expected = [address for walk in WALKS for address in addresses_of(walk, passes)]
    cycles = 0

    async def wait_for_all(ctx):
        nonlocal cycles
        while len(received) < len(expected):
            await ctx.tick()
            cycles += 1
        for _ in range(5):
            await ctx.tick()
            assert not ctx.get(dut.o.valid)

    run(dut, source(dut.i, WALKS, pause=pause), wait_for_all, backgrounds=[sink(dut.o, received, pause=pause, seed=1)])
    assert received == expected
    if not pause:
        assert cycles <= len(expected) + 2 * len(WALKS)
