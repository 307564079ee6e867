"""Testpoints of hw/rtl/joint_read.py.

- every word of every memory in order and together, under stalls of each port alone, of both and of none
- a memory that is not enabled is not read
- one joint read per cycle without stalls
- an address beyond a memory faults, reads nothing and stays
"""

import pytest
from rtl_streams import read_port, run, source

from hw.rtl.joint_read import JointRead

MEMORIES = {"left": (8, 16), "right": (24, 20)}
LEFT = [3 * address for address in range(16)]
RIGHT = [1000 * address for address in range(20)]


def gather(dut, words, cycles):
    async def testbench(ctx):
        cycle = 0
        while True:
            _, _, valid, left, right = await ctx.tick().sample(dut.valid, dut.words.left, dut.words.right)
            cycle += 1
            if valid:
                words.append((left, right))
                cycles.append(cycle)

    return testbench


@pytest.mark.parametrize("left_pause", [0.0, 0.5])
@pytest.mark.parametrize("right_pause", [0.0, 0.5])
@pytest.mark.parametrize("pause", [0.0, 0.4])
def test_words_come_together(left_pause, right_pause, pause):
    dut = JointRead(MEMORIES)
    reads = [{"left": 7 * n % 16, "right": 11 * n % 20, "enable": (3, 3, 1, 3, 2)[n % 5]} for n in range(60)]
    words, cycles, addresses = [], [], {"left": [], "right": []}

    async def wait(ctx):
        while len(words) < len(reads):
            await ctx.tick()
        for _ in range(8):
            await ctx.tick()

    run(
        dut,
        source(dut.i, reads, pause=pause, seed=1),
        wait,
        backgrounds=[
            read_port(dut.left, LEFT, pause=left_pause, seed=2, addresses=addresses["left"]),
            read_port(dut.right, RIGHT, pause=right_pause, seed=3, addresses=addresses["right"]),
            gather(dut, words, cycles),
        ],
    )
    for read, (left, right) in zip(reads, words, strict=True):
        assert not read["enable"] & 1 or left == LEFT[read["left"]]
        assert not read["enable"] & 2 or right == RIGHT[read["right"]]
    assert addresses["left"] == [read["left"] for read in reads if read["enable"] & 1]
    assert addresses["right"] == [read["right"] for read in reads if read["enable"] & 2]
    if left_pause == right_pause == pause == 0:
        assert cycles == list(range(cycles[0], cycles[0] + len(reads)))


@pytest.mark.parametrize(("left", "right"), [(16, 0), (0, 20), (1 << 16, 0)])
def test_fault(left, right):
    dut = JointRead(MEMORIES)
    words, cycles = [], []

    async def wait(ctx):
        for _ in range(12):
            await ctx.tick()
        assert ctx.get(dut.fault)
        assert not ctx.get(dut.i.ready)

    run(
        dut,
        source(dut.i, [{"left": 1, "right": 2, "enable": 3}, {"left": left, "right": right, "enable": 3}]),
        wait,
        backgrounds=[read_port(dut.left, LEFT), read_port(dut.right, RIGHT), gather(dut, words, cycles)],
    )
    assert words == [(LEFT[1], RIGHT[2])]
