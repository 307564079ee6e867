"""LOAD unit behind real AXI ports: bytes of DDR against the words of the memories.

Testpoints: every memory of tiny and demo, beats smaller and larger than words, 1 to 4 ports, stalls everywhere, a
4 KiB crossing; stripes are dealt to the ports in turn, whole, and as one burst where words are aligned; words of up to
four bursts, also unaligned; random commands; one beat per cycle and port, and one word per cycle; done after the last
write; each illegal command faults and moves nothing, its legal neighbour does not; a bus error on any port is raised,
and the command is never done.
"""

from collections import defaultdict
from dataclasses import replace
from random import Random

import pytest
from amaranth.hdl import Module
from amaranth.lib.wiring import connect
from rtl_axi import AxiMemory, axi_reads
from rtl_streams import run, write_port

from hw.config import CONFIGS
from hw.isa import Descriptor, Memory, Opcode, Region
from hw.rtl.axi_port import AxiPort
from hw.rtl.dma_read import LoadUnit

TINY = CONFIGS["tiny"]
LARGE_WORDS = replace(CONFIGS["demo"], rows=8, columns=64, depth=16)  # ACT 128, WIDE 256, WEIGHT 1024, PARAM 128
REGIONS = list(Region)
LATENCY = 20
OVERHEAD = 12
"""Cycles from the command to its first address and from its last beat to its done."""
BASES = [4096 - 128, 8192 + 64, 0]
WORD_BYTES = {
    Memory.ACT: "act_bytes",
    Memory.WIDE: "wide_bytes",
    Memory.WEIGHT: "weight_bytes",
    Memory.PARAM: "param_bytes",
}


class Bench:
    """A LoadUnit on its AXI ports, with Python memories on both sides."""

    def __init__(self, config, *, pause=0.0, size=8192, latency=3, **behaviour):
        self.config = config
        self.unit = LoadUnit(config)
        self.ddr = AxiMemory(bytearray(Random(1).randbytes(16384)), pause=pause, **behaviour)
        self.words = {memory: defaultdict(int) for memory in WORD_BYTES}
        self.writes = []
        self.dut = m = Module()
        m.submodules.unit = self.unit
        ports = [AxiPort(config.axi_bytes, 1, has_writer=False) for _ in range(config.axi_ports)]
        for index, port in enumerate(ports):
            m.submodules[f"port_{index}"] = port
            connect(m, self.unit.bursts[index], port.read_bursts[0])
            connect(m, port.read_beats[0], self.unit.beats[index])
        for region, base in zip(Region, BASES, strict=True):
            m.d.comb += [self.unit.regions[region].base.eq(base), self.unit.regions[region].size.eq(size)]
        self.backgrounds = [
            axi_reads(port.pins, self.ddr, index, axi_bytes=config.axi_bytes, seed=index, latency=latency)
            for index, port in enumerate(ports)
        ]
        for memory, words in self.words.items():
            unit_port = getattr(self.unit, memory.name.lower())
            self.backgrounds.append(write_port(unit_port, words, pause=pause, seed=9, writes=self.writes))

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
                while not (ctx.get(self.unit.done) or ctx.get(self.unit.fault) or ctx.get(self.unit.axi_error)):
                    await ctx.tick()
                    count += 1
                cycles.append(count)
                if not ctx.get(self.unit.done):
                    break
            self.outcome = {name: ctx.get(getattr(self.unit, name)) for name in ("done", "fault", "axi_error")}
            self.moved = len(self.writes)
            await ctx.tick().repeat(100)

        run(self.dut, issue, backgrounds=self.backgrounds)
        return cycles

    def check(self, command):
        """Compare the words that the command writes with the bytes of the DDR."""
        memory = Memory(command.memory)
        word_bytes = getattr(self.config, WORD_BYTES[memory])
        start = BASES[command.region] + command.offset
        data = self.ddr.data[start : start + command.length]
        for index in range(command.length // word_bytes):
            expected = int.from_bytes(data[index * word_bytes : (index + 1) * word_bytes], "little")
            assert self.words[memory][command.dst_base + index] == expected


def load(memory, length, **fields):
    return Descriptor(Opcode.LOAD, memory=memory, length=length, **fields)


@pytest.mark.parametrize("memory", WORD_BYTES)
@pytest.mark.parametrize("name, axi_bytes", [("tiny", 4), ("tiny", 8), ("tiny", 16), ("demo", 16)])
def test_every_memory_and_beat_width(name, axi_bytes, memory):
    config = replace(CONFIGS[name], axi_bytes=axi_bytes)
    bench, command = Bench(config, pause=0.3), load(memory, 512, dst_base=5, offset=64)
    bench.run(command)
    bench.check(command)
    word_bytes = getattr(config, WORD_BYTES[memory])
    assert [address for address, _, _ in bench.writes] == list(range(5, 5 + 512 // word_bytes))
    assert bench.outcome == {"done": 1, "fault": 0, "axi_error": 0}
    assert bench.moved == len(bench.writes)


@pytest.mark.parametrize("ports", [1, 2, 3, 4])
@pytest.mark.parametrize("pause", [0.0, 0.4])
def test_stripes_are_dealt_to_the_ports_in_turn(ports, pause):
    bench = Bench(replace(TINY, axi_ports=ports), pause=pause)
    commands = [load(Memory.ACT, 64 * 9), load(Memory.WEIGHT, 64 * 23, dst_base=1, offset=192, region=Region.INPUT)]
    bench.run(*commands)
    for command in commands:
        bench.check(command)
    by_address = sorted(bench.ddr.reads, key=lambda read: read[1])
    assert [size for _, _, size in by_address] == [128, 256, 192] + [256] * 5 + [192]
    # Each command begins at port 0.
    assert [port for port, _, _ in by_address] == [index % ports for index in (0, 1, 2, 0, 1, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    "memory, length, offset, expected",
    [
        # ACT words of 128 bytes at odd multiples of 64: stripes of 256 bytes, each cut at the 256-byte boundary.
        (Memory.ACT, 640, 64, [(0, 192), (0, 64), (1, 192), (1, 64), (2, 128)]),
        (Memory.ACT, 640, 128, [(0, 128), (1, 256), (2, 256)]),
        # WEIGHT words of 1024 bytes: a stripe is a word.
        (Memory.WEIGHT, 3072, 128, [(0, 128), *[(0, 256)] * 3, (0, 128), (1, 128), *[(1, 256)] * 3, (1, 128)]),
        (Memory.WEIGHT, 2048, 0, [*[(0, 256)] * 4, *[(1, 256)] * 4]),
    ],
)
def test_stripes_are_whole_words(memory, length, offset, expected):
    config = replace(LARGE_WORDS, axi_ports=3)
    bench, command = Bench(config, pause=0.2), load(memory, length, offset=offset, region=Region.OUTPUT)
    bench.run(command)
    bench.check(command)
    by_address = sorted(bench.ddr.reads, key=lambda read: read[1])
    assert [(port, size) for port, _, size in by_address][: len(expected)] == expected
    assert sum(size for _, _, size in by_address) == length


@pytest.mark.parametrize("ports", [1, 2, 3, 4])
@pytest.mark.parametrize("config", [TINY, replace(TINY, axi_bytes=16), LARGE_WORDS], ids=["8", "16", "large words"])
def test_random_commands(config, ports):
    random = Random(ports)
    bench = Bench(replace(config, axi_ports=ports), pause=0.3)
    commands, first = [], dict.fromkeys(WORD_BYTES, 3)
    for _ in range(6):
        memory = random.choice(list(WORD_BYTES))
        unit_bytes = max(64, getattr(config, WORD_BYTES[memory]))
        length = unit_bytes * random.randrange(1, 1 + 2048 // unit_bytes)
        offset = 64 * random.randrange(64)
        commands.append(load(memory, length, offset=offset, region=random.choice(REGIONS), dst_base=first[memory]))
        first[memory] += length // getattr(config, WORD_BYTES[memory])
    bench.run(*commands)
    assert bench.outcome["done"] == 1
    for command in commands:
        bench.check(command)
    assert {memory: 3 + len(words) for memory, words in bench.words.items()} == first


@pytest.mark.parametrize("ports, beats", [(1, 512), (2, 256), (4, 128)])
def test_one_beat_per_cycle_and_port(ports, beats):
    config = replace(CONFIGS["demo"], columns=32, axi_ports=ports)  # WEIGHT words of 16 beats, as zcu102_2048 has
    (cycles,) = Bench(config, latency=LATENCY).run(load(Memory.WEIGHT, 8192))
    assert beats + LATENCY <= cycles <= beats + LATENCY + OVERHEAD


@pytest.mark.parametrize("ports", [1, 4])
def test_one_word_per_cycle(ports):
    """All ports together write one word per cycle, which is the limit where words are as small as beats."""
    words = 2048 // TINY.act_bytes
    (cycles,) = Bench(replace(TINY, axi_ports=ports), latency=LATENCY).run(load(Memory.ACT, 2048))
    assert words + LATENCY <= cycles <= words + LATENCY + OVERHEAD


@pytest.mark.parametrize(
    "command, is_legal",
    [
        (load(Memory.ACT, 64, offset=8192 - 64), True),
        (load(Memory.ACT, 64, offset=8192), False),
        (load(Memory.ACT, 128, offset=8192 - 64), False),
        (load(Memory.ACT, 64, offset=(1 << 32) - 64), False),
        (load(Memory.ACT, 0), False),
        (load(Memory.ACT, 32), False),
        (load(Memory.ACT, 64, offset=32), False),
        (load(Memory.ACT, 64, region=Region.OUTPUT), True),
        (load(Memory.ACT, 64, region=len(Region)), False),
        (load(Memory.TOKEN, 64), False),
        (load(5, 64), False),
        (load(Memory.ACT, 64, dst_base=TINY.act_words - 8), True),
        (load(Memory.ACT, 64, dst_base=TINY.act_words - 7), False),
        (load(Memory.WIDE, 64, dst_base=TINY.wide_words - 4), True),
        (load(Memory.WIDE, 64, dst_base=TINY.wide_words - 3), False),
        (load(Memory.WEIGHT, 64, dst_base=TINY.weight_words - 2), True),
        (load(Memory.WEIGHT, 64, dst_base=TINY.weight_words - 1), False),
        (load(Memory.PARAM, 64, dst_base=TINY.param_words - 2), True),
        (load(Memory.PARAM, 64, dst_base=TINY.param_words - 1), False),
        (load(Memory.PARAM, 64, dst_base=0xFFFF), False),
    ],
)
def test_legal_and_illegal_commands(command, is_legal):
    bench = Bench(TINY)
    bench.run(command)
    assert bench.outcome == {"done": is_legal, "fault": not is_legal, "axi_error": 0}
    if not is_legal:
        assert bench.writes == [] and bench.ddr.reads == []


def test_length_must_be_whole_words():
    wide = replace(CONFIGS["demo"], columns=32)  # a WEIGHT word of 256 bytes
    for length, is_legal in ((256, True), (64, False), (320, False)):
        bench = Bench(wide)
        bench.run(load(Memory.WEIGHT, length))
        assert bench.outcome["fault"] == (not is_legal)


def test_unaligned_region_faults():
    bench = Bench(TINY)
    bench.dut.d.comb += bench.unit.regions[Region.INPUT].base.eq(32)
    bench.run(load(Memory.ACT, 64, region=Region.INPUT))
    assert bench.outcome["fault"] == 1 and bench.ddr.reads == []


@pytest.mark.parametrize("ports", [1, 2, 4])
def test_bus_error_is_raised_and_the_command_is_never_done(ports):
    bench = Bench(replace(TINY, axi_ports=ports), read_errors={BASES[0] + 128 + 256 + 64})
    bench.run(load(Memory.ACT, 1024))
    assert bench.outcome == {"done": 0, "fault": 0, "axi_error": 1}
    block, stripe = 64 // TINY.act_bytes, 256 // TINY.act_bytes
    end = 2 * block + stripe + block  # the first word of the bad block, the second one of the third stripe
    written = {address for address, _, _ in bench.writes}
    assert not written & set(range(end, 2 * block + 2 * stripe))  # the rest of the stripe
    assert ports > 1 or written == set(range(end))
