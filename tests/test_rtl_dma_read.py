"""LOAD unit behind real AXI ports: bytes of DDR against the words of the memories.

Testpoints: every memory of tiny and demo, beats smaller and larger than words, 1 to 4 ports, stalls everywhere, a
4 KiB crossing; bursts are dealt to the ports in turn; consecutive commands; one word per cycle; done after the last
write; each illegal command faults and moves nothing, its legal neighbour does not; a bus error is raised, and the
unit stands still.
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
def test_bursts_are_dealt_to_the_ports_in_turn(ports, pause):
    bench = Bench(replace(TINY, axi_ports=ports), pause=pause)
    commands = [load(Memory.ACT, 64 * 9), load(Memory.WEIGHT, 64 * 23, dst_base=1, offset=192, region=Region.INPUT)]
    bench.run(*commands)
    for command in commands:
        bench.check(command)
    by_address = sorted(bench.ddr.reads, key=lambda read: read[1])
    assert [size for _, _, size in by_address] == [128, 256, 192] + [256] * 5 + [192]
    assert [port for port, _, _ in by_address] == [index % ports for index in range(len(by_address))]


def test_one_word_per_cycle():
    bench = Bench(TINY, latency=20)
    (cycles,) = bench.run(load(Memory.ACT, 2048))  # a word of ACT is a beat here
    assert cycles < 2048 // TINY.axi_bytes + 20 + 12


def test_ports_add_up():
    single, double = Bench(replace(TINY, axi_bytes=4)), Bench(replace(TINY, axi_bytes=4, axi_ports=2))
    wait = load(Memory.ACT, 2048)
    assert double.run(wait)[0] <= single.run(wait)[0]


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


def test_bus_error_is_raised_and_the_unit_stands_still():
    bench = Bench(TINY, read_errors={BASES[0] + 128})
    bench.run(load(Memory.ACT, 512))
    assert bench.outcome == {"done": 0, "fault": 0, "axi_error": 1}
    assert len(bench.writes) == 128 // TINY.act_bytes
