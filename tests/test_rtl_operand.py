"""Operand loader against a numpy statement of KEYS and VALUES.

Testpoints: KEYS and VALUES for several arrays and token counts, with strides and stalls; -128 becomes -127;
don't-care rows only beyond live; no byte outside the operands is written; the token count is sampled with the
command; nothing to do is done at once; consecutive commands; one word per cycle; an address beyond ACT or WEIGHT
faults, the last legal one does not, also where 16 bits would wrap.
"""

from collections import defaultdict
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from rtl_streams import read_port, run, write_port

from hw.config import CONFIGS
from hw.isa import Descriptor, Opcode
from hw.rtl.operand import OperandUnit

TINY = CONFIGS["tiny"]
ARRAYS = [
    TINY,
    CONFIGS["demo"],
    replace(TINY, columns=4),  # K = C
    replace(TINY, rows=4, columns=16),  # R = K
    replace(TINY, rows=2, columns=32, depth=16),
]


class Bench:
    """An OperandUnit with random ACT bytes (words, rows, depth) and an empty WEIGHT that notes every byte written."""

    def __init__(self, config, tokens, *, pause=0.0):
        self.config, self.tokens = config, tokens
        self.unit = OperandUnit(config)
        random = np.random.default_rng(1)
        self.act_u8 = random.integers(0, 256, (config.act_words, config.rows, config.depth), dtype=np.uint8)
        self.words = defaultdict(int)
        self.writes = []
        words = defaultdict(
            int, {index: int.from_bytes(word.tobytes(), "little") for index, word in enumerate(self.act_u8)}
        )
        self.backgrounds = [
            read_port(self.unit.act, words, pause=pause, seed=2),
            write_port(self.unit.weight, self.words, pause=pause, seed=3, writes=self.writes),
        ]

    def run(self, *commands, tokens_after=0):
        """Execute the commands one after the other; return the cycles from each transfer to its done or fault."""
        cycles = []

        async def issue(ctx):
            for command in commands:
                ctx.set(self.unit.tokens, [self.tokens])
                ctx.set(self.unit.command.payload, vars(command))
                ctx.set(self.unit.command.valid, 1)
                await ctx.tick().until(self.unit.command.ready)
                ctx.set(self.unit.command.valid, 0)
                ctx.set(self.unit.tokens, [tokens_after])
                count = 0
                while not (ctx.get(self.unit.done) or ctx.get(self.unit.fault)):
                    assert not ctx.get(self.unit.command.ready)
                    await ctx.tick()
                    count += 1
                cycles.append(count)
            self.outcome = {"done": ctx.get(self.unit.done), "fault": ctx.get(self.unit.fault)}
            moved = len(self.writes)
            await ctx.tick().repeat(20)
            assert self.outcome["fault"] or len(self.writes) == moved

        run(self.unit, issue, backgrounds=self.backgrounds)
        return cycles

    def written(self):
        """Return {(word, column, depth position): byte} of every byte written."""
        found = {}
        for address, data, enable in self.writes:
            for byte in range(self.config.weight_bytes):
                if enable >> byte & 1:
                    found[address, byte // self.config.depth, byte % self.config.depth] = data >> (8 * byte) & 0xFF
        return found

    def expected(self, command):
        """Return the same for a command: what docs/architecture.md says, row tiles written whole."""
        config, found = self.config, {}
        for token in range(-(-self.tokens // config.rows) * config.rows):
            for channel in range(command.src_words * config.depth):
                word, position = divmod(channel, config.depth)
                source = command.src_base + token // config.rows * command.src_stride + word
                value = self.act_u8[source, token % config.rows, position]
                value = 0x81 if value == 0x80 else value  # -128 is stored as -127
                if command.opcode == Opcode.KEYS:
                    tile, column = divmod(token, config.columns)
                    address = command.dst_base + tile * command.dst_stride + word
                else:
                    tile, column = divmod(channel, config.columns)
                    address = command.dst_base + tile * command.dst_stride + token // config.depth
                    position = token % config.depth
                found[address, column, position] = value
        return found


@pytest.mark.parametrize("opcode", [Opcode.KEYS, Opcode.VALUES])
@pytest.mark.parametrize("tokens", [1, 2, 17, 40])
@pytest.mark.parametrize("config", ARRAYS, ids=lambda config: f"{config.rows}x{config.columns}x{config.depth}")
def test_operands(config, tokens, opcode):
    bench = Bench(config, tokens, pause=Random(tokens).choice([0.0, 0.4]))
    command = Descriptor(opcode, src_base=11, src_stride=7, src_words=5, dst_base=9, dst_stride=33)
    bench.run(command, tokens_after=config.max_tokens)
    assert bench.written() == bench.expected(command)
    assert bench.outcome == {"done": 1, "fault": 0}


@pytest.mark.parametrize("opcode", [Opcode.KEYS, Opcode.VALUES])
def test_full_token_set(opcode):
    config = replace(TINY, max_tokens=256)
    bench = Bench(config, 256)
    command = Descriptor(opcode, src_stride=2, src_words=2, dst_stride=64)
    bench.run(command)
    assert bench.written() == bench.expected(command)


@pytest.mark.parametrize("opcode", [Opcode.KEYS, Opcode.VALUES])
def test_stride_zero_reads_the_same_words(opcode):
    bench = Bench(TINY, 8)
    command = Descriptor(opcode, src_base=3, src_words=2, dst_stride=4)
    bench.run(command)
    assert bench.written() == bench.expected(command)


@pytest.mark.parametrize("tokens, words", [(0, 3), (3, 0)])
def test_nothing_to_do_is_done_at_once(tokens, words):
    bench = Bench(TINY, tokens)
    assert bench.run(Descriptor(Opcode.KEYS, src_words=words)) == [0]
    assert bench.writes == []


def test_consecutive_commands_and_rate():
    bench = Bench(TINY, 32)
    keys = Descriptor(Opcode.KEYS, src_base=2, src_stride=8, src_words=8, dst_base=0, dst_stride=8)
    values = Descriptor(Opcode.VALUES, src_base=200, src_stride=8, src_words=8, dst_base=64, dst_stride=8)
    cycles = bench.run(keys, values)
    assert bench.written() == bench.expected(keys) | bench.expected(values)
    words = 32 // TINY.rows * 8
    assert max(cycles) <= words + 8


@pytest.mark.parametrize(
    "fields, is_legal",
    [
        ({"src_base": TINY.act_words - 10}, True),
        ({"src_base": TINY.act_words - 9}, False),
        ({"src_base": 0xFFFF, "src_stride": 1}, False),
        ({"src_stride": (1 << 16) - 1}, False),
        ({"dst_base": TINY.weight_words - 2}, True),
        ({"dst_base": TINY.weight_words - 1}, False),
        ({"dst_base": 0xFFFF}, False),
    ],
)
def test_address_beyond_a_memory_faults(fields, is_legal):
    bench = Bench(TINY, 2 * TINY.rows)  # two row tiles, one column tile
    bench.run(Descriptor(Opcode.KEYS, **{"src_words": 2, "src_stride": 8} | fields))
    assert bench.outcome == {"done": is_legal, "fault": not is_legal}
    assert all(address < TINY.weight_words for address, _, _ in bench.writes)


@pytest.mark.parametrize(
    "fields, is_legal", [({"dst_stride": 2040}, True), ({"dst_stride": 2047}, False), ({"dst_stride": 0x8001}, False)]
)
def test_column_tile_beyond_weight_faults(fields, is_legal):
    bench = Bench(TINY, 2)
    bench.run(Descriptor(Opcode.VALUES, src_words=2 * TINY.columns // TINY.depth, dst_base=6, **fields))
    assert bench.outcome == {"done": is_legal, "fault": not is_legal}
