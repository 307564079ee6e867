"""STORE unit behind a real AXI port: words of the memories against bytes of DDR.

Testpoints: ACT, WIDE and TOKEN, beats smaller and larger than words, stalls everywhere, a 4 KiB crossing; nothing
outside the transfer is written; consecutive commands; done only after every response; one beat per cycle; each
illegal command faults and moves nothing, its legal neighbour does not.
"""

from dataclasses import replace
from random import Random

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import connect
from rtl_axi import AxiMemory, axi_writes
from rtl_streams import read_port, run

from hw.config import CONFIGS
from hw.isa import Descriptor, Memory, Opcode, Region
from hw.rtl.axi_port import AxiPort
from hw.rtl.dma_write import StoreUnit

TINY = CONFIGS["tiny"]
BASES = [0, 64, 4096 - 128]


def word_bytes(config, memory):
    return {Memory.ACT: config.act_bytes, Memory.WIDE: config.wide_bytes, Memory.TOKEN: 2}[memory]


class Bench:
    """A StoreUnit on its AXI port, with Python memories on both sides."""

    def __init__(self, config, *, pause=0.0, latency=3):
        self.config = config
        self.unit = StoreUnit(config)
        self.ddr = AxiMemory(bytearray(Random(1).randbytes(16384)), pause=pause)
        self.before = bytes(self.ddr.data)
        self.dut = m = Module()
        m.submodules.unit = self.unit
        m.submodules.port = port = AxiPort(config.axi_bytes, 1, has_writer=True)
        connect(m, self.unit.bursts, port.write_bursts)
        connect(m, self.unit.beats, port.write_beats)
        m.d.comb += self.unit.writes_idle.eq(port.write_idle)
        for region, base in zip(Region, BASES, strict=True):
            m.d.comb += [self.unit.regions[region].base.eq(base), self.unit.regions[region].size.eq(8192)]
        random = Random(2)
        self.words = {
            memory: [random.getrandbits(8 * word_bytes(config, memory)) for _ in range(4096)]
            for memory in (Memory.ACT, Memory.WIDE, Memory.TOKEN)
        }
        self.addresses = []
        self.backgrounds = [
            axi_writes(port.pins, self.ddr, axi_bytes=config.axi_bytes, seed=3, latency=latency),
            *(
                read_port(getattr(self.unit, memory.name.lower()), words, pause=pause, seed=4, addresses=self.addresses)
                for memory, words in self.words.items()
            ),
        ]

    def run(self, *commands):
        """Execute the commands one after the other; return the cycles from each transfer to its done."""
        cycles = []

        async def issue(ctx):
            for command in commands:
                ctx.set(self.unit.command.payload, vars(command))
                ctx.set(self.unit.command.valid, 1)
                await ctx.tick().until(self.unit.command.ready)
                ctx.set(self.unit.command.valid, 0)
                count = 0
                while not (ctx.get(self.unit.done) or ctx.get(self.unit.fault)):
                    await ctx.tick()
                    count += 1
                cycles.append(count)
                self.outcome = {name: ctx.get(getattr(self.unit, name)) for name in ("done", "fault")}
                self.stored = bytes(self.ddr.data)
            await ctx.tick().repeat(50)

        run(self.dut, issue, backgrounds=self.backgrounds)
        return cycles

    def check(self, *commands):
        """Compare the whole DDR with what the commands must have left there by the time of the last done."""
        expected = bytearray(self.before)
        for command in commands:
            memory = Memory(command.memory)
            size = word_bytes(self.config, memory)
            words = self.words[memory][command.src_base : command.src_base + command.length // size]
            start = BASES[command.region] + command.offset
            expected[start : start + command.length] = b"".join(word.to_bytes(size, "little") for word in words)
        assert self.stored == bytes(expected) == bytes(self.ddr.data)


def store(memory, length, **fields):
    return Descriptor(Opcode.STORE, memory=memory, length=length, region=Region.OUTPUT, **fields)


@pytest.mark.parametrize("memory", [Memory.ACT, Memory.WIDE, Memory.TOKEN])
@pytest.mark.parametrize("name, axi_bytes", [("tiny", 4), ("tiny", 8), ("tiny", 16), ("demo", 16)])
def test_every_memory_and_beat_width(name, axi_bytes, memory):
    config = replace(CONFIGS[name], axi_bytes=axi_bytes, max_tokens=256)
    bench, command = Bench(config, pause=0.3), store(memory, 448, src_base=3, offset=64)
    bench.run(command)
    bench.check(command)
    assert bench.outcome == {"done": 1, "fault": 0}
    assert bench.addresses == list(range(3, 3 + 448 // word_bytes(config, memory)))


@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_consecutive_commands(pause):
    bench = Bench(TINY, pause=pause)
    commands = [
        store(Memory.TOKEN, 64),
        store(Memory.WIDE, 320, src_base=9, offset=128),
        store(Memory.ACT, 64, src_base=1, offset=64),
    ]
    bench.run(*commands)
    bench.check(*commands)
    assert [address for _, address, _ in bench.ddr.writes] == [3968, 4096, 4352, 4032]


def test_done_waits_for_the_responses():
    short, long = Bench(TINY, latency=1), Bench(TINY, latency=60)
    command = store(Memory.ACT, 64)
    assert long.run(command)[0] - short.run(command)[0] == 59


def test_one_beat_per_cycle():
    bench = Bench(TINY)
    (cycles,) = bench.run(store(Memory.WIDE, 4096))
    assert cycles < 4096 // TINY.axi_bytes * 1.1 + 50


@pytest.mark.parametrize(
    "command, is_legal",
    [
        (store(Memory.ACT, 64, offset=8192 - 64), True),
        (store(Memory.ACT, 128, offset=8192 - 64), False),
        (store(Memory.ACT, 32), False),
        (store(Memory.WEIGHT, 64), False),
        (store(Memory.PARAM, 64), False),
        (store(Memory.ACT, 64, src_base=TINY.act_words - 8), True),
        (store(Memory.ACT, 64, src_base=TINY.act_words - 7), False),
        (store(Memory.WIDE, 64, src_base=TINY.wide_words - 4), True),
        (store(Memory.WIDE, 64, src_base=TINY.wide_words - 3), False),
        (store(Memory.TOKEN, 2 * TINY.token_words), True),
        (store(Memory.TOKEN, 2 * TINY.token_words + 64), False),
    ],
)
def test_legal_and_illegal_commands(command, is_legal):
    bench = Bench(TINY)
    bench.run(command)
    assert bench.outcome == {"done": is_legal, "fault": not is_legal}
    if not is_legal:
        assert bench.addresses == [] and bench.ddr.writes == []
