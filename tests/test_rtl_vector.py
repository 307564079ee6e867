"""Vector unit: a program of all opcodes back to back, exact against the goldens; random programs, exact against the
machine; faults.

Testpoints: BEGIN and COMPACT steer the following commands of their picture and no other; every memory word, written or
not, equals the expected memory; `done` once per command and only after its last write; tokens, token_counts and the
token list; pauses on each port alone and on all; an address beyond each memory, read or written, also one that needs 17
bits, faults without a request; nothing after the fault; no tokens, nothing to do; reset state; conversion to Verilog,
with channels in place or generated separately.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
from amaranth.back import verilog

from hw.config import CONFIGS, AccelConfig
from hw.isa import Descriptor, Memory, Opcode
from hw.regmap import NUM_TOKEN_REGISTERS
from hw.rtl.exp_channel import ExpChannel
from hw.rtl.norm_channel import NormChannel
from hw.rtl.packed_dot import Multiplier
from hw.rtl.vector import VectorUnit
from hw.timing import norm_width
from quant.approx import keep_scores, layer_norm, package_token, row_scale, softmax_rows
from sim.machine import Machine
from tests.rtl_streams import pack_word, read_port, run, source, write_port
from tests.rtl_vector import pack_rows

SMALL = {
    "2x2": AccelConfig(
        2, 4, 2, act_words=400, wide_words=400, weight_words=16, param_words=32, max_tokens=16, pictures=2
    ),
    "4x8": AccelConfig(
        4, 8, 8, act_words=400, wide_words=400, weight_words=16, param_words=32, max_tokens=32, pictures=3
    ),
}
PORTS = ("act_read", "wide_read", "param", "act_write", "wide_write", "row_scale")
RESIDUAL, SCORES, TOKEN_SCORES, HEAD_SCORES, NORM, EXP, ONES = 3, 200, 20, 60, 100, 200, 380
MULT, SHIFT, HEADS = 40000, 7, 3


class Bench:
    """The unit with its memories as lists of words; noise at first, so that a stray write or a missing one shows."""

    def __init__(self, config, pauses):
        rng = np.random.default_rng(23)
        self.config, self.unit = config, VectorUnit(config)
        widths = {
            "act": (8 * config.act_bytes, config.act_words),
            "wide": (8 * config.wide_bytes, config.wide_words),
            "param": (8 * config.param_bytes, config.param_words),
            "row_scale": (22 * config.rows, config.row_scale_words),
        }
        self.memories = {
            name: [int.from_bytes(rng.bytes(width // 8), "little") for _ in range(depth)]
            for name, (width, depth) in widths.items()
        }
        self.writes, self.done_after, self.requests = [], [], []
        self.backgrounds = [self._watch]
        for seed, name in enumerate(PORTS):
            memory = self.memories[name.removesuffix("_read").removesuffix("_write")]
            port, pause = getattr(self.unit, name), pauses.get(name, 0.0)
            if name in ("act_write", "wide_write", "row_scale"):
                self.backgrounds.append(write_port(port, memory, pause=pause, seed=seed, writes=self.writes))
            else:
                self.backgrounds.append(read_port(port, memory, pause=pause, seed=seed, addresses=self.requests))

    async def _watch(self, ctx):
        while True:
            _, _, done = await ctx.tick().sample(self.unit.done)
            if done:
                self.done_after.append(sum(enable.bit_count() for _, _, enable in self.writes))

    def store(self, name, words):
        for address, word in words.items():
            self.memories[name][address] = word

    def run(self, commands, *testbenches):
        run(
            self.unit,
            source(self.unit.command, [vars(command) for command in commands]),
            *testbenches,
            backgrounds=self.backgrounds,
        )


def expect_tensor(bench, expected, name, rows, base, stride, bits):
    """Record a tensor in the expected memory; lanes beyond its rows take whatever the unit wrote there."""
    config = bench.config
    words = pack_rows(rows, config, base, stride, bits=bits)
    for address, word in words.items():
        lanes = min(config.rows, len(rows) - (address - base) // stride * config.rows)
        mask = (1 << (lanes * config.depth * bits)) - 1
        expected[name][address] = (bench.memories[name][address] & ~mask) | (word & mask)


@pytest.mark.parametrize(("name", "paused", "picture"), [("4x8", "all", 2), ("2x2", "none", 0)])
def test_program_of_all_opcodes(name: str, paused: str, picture: int) -> None:
    config, rng = SMALL[name], np.random.default_rng(29)
    pauses = {port: 0.5 for port in PORTS if paused in (port, "all")}
    bench = Bench(config, pauses)
    lanes, depth, live = config.rows, config.depth, config.max_tokens - 3
    words, dim = 3, 3 * depth
    x_i16 = rng.integers(-32768, 32768, (live, dim))
    gamma_i16, beta_i32 = rng.integers(-4000, 4000, dim), rng.integers(-(1 << 18), 1 << 18, dim)
    token_u8, head_u8 = rng.integers(0, 256, (2, live, HEADS))
    scores_i16 = rng.integers(-900, 900, (live, -(-live // depth) * depth))
    head_words = -(-HEADS // depth)
    entries = [(int(b) & 0xFFFFFFFF) | (int(g) & 0xFFFF) << 32 for g, b in zip(gamma_i16, beta_i32, strict=True)]
    bench.store("param", {4 + w: pack_word(entries[w * depth : (w + 1) * depth], 64) for w in range(words)})
    bench.store("wide", pack_rows(x_i16, config, RESIDUAL, words, bits=16))
    bench.store("wide", pack_rows(scores_i16, config, SCORES, -(-live // depth), bits=16))
    bench.store("act", pack_rows(token_u8, config, TOKEN_SCORES, head_words, bits=8))
    bench.store("act", pack_rows(head_u8, config, HEAD_SCORES, head_words, bits=8))
    before = {memory: list(words_) for memory, words_ in bench.memories.items()}

    score_u16 = keep_scores(token_u8, head_u8)
    is_kept = score_u16 >= 30000
    is_kept[0] = True
    kept = int(is_kept.sum())
    assert 0 < kept < live
    after = kept + 1
    residual_i16 = np.vstack([x_i16[is_kept], package_token(x_i16, score_u16, ~is_kept)])
    score_stride, after_words = -(-live // depth), -(-after // depth)
    tiles, after_tiles = -(-live // lanes), -(-after // lanes)
    norm = {
        "src_stride": words,
        "src_words": words,
        "dst_stride": words,
        "param_base": 4,
        "dim": dim,
        "shift": 12,
        "addend": 9,
    }
    select = {
        "src_base": TOKEN_SCORES,
        "src_stride": head_words,
        "aux_base": HEAD_SCORES,
        "aux_stride": head_words,
        "heads": HEADS,
    }
    compact = {"src_base": RESIDUAL, "src_stride": words, "src_words": words}
    commands = [
        Descriptor(Opcode.BEGIN, rows=live),
        Descriptor(Opcode.LAYER_NORM, src_base=RESIDUAL, dst_base=NORM, **norm),
        Descriptor(Opcode.SELECT, threshold=30000, **select),
        Descriptor(Opcode.COMPACT, index=5, **compact),
        Descriptor(
            Opcode.SOFTMAX,
            src_base=SCORES,
            src_stride=score_stride,
            dst_base=EXP,
            dst_stride=score_stride,
            row_base=1,
            mult=MULT,
            shift=SHIFT,
        ),
        Descriptor(Opcode.UNIFORM, dst_base=ONES, row_base=1 + after_tiles, mult=MULT, shift=SHIFT),
        Descriptor(Opcode.LAYER_NORM, src_base=RESIDUAL, dst_base=NORM + 1, rows=1, **norm),
    ]
    commands = [replace(command, picture=picture) for command in commands]
    commands.insert(2, Descriptor(Opcode.BEGIN, rows=1, picture=1))  # must not touch what is known of the other
    tokens = []

    async def read_token_list(ctx):
        for _ in range(len(commands)):
            await ctx.tick().until(bench.unit.done)
        for index in range(after + 3):
            ctx.set(bench.unit.token.request.valid, index < after)
            ctx.set(bench.unit.token.request.payload, picture * config.token_stride + index % after)
            _, _, valid, token = await ctx.tick().sample(bench.unit.token.response_valid, bench.unit.token.response)
            if valid:
                tokens.append(token)
        assert [ctx.get(bench.unit.tokens[i]) for i in (picture, 1)] == [after, 1]
        assert list(ctx.get(bench.unit.token_counts)) == [after if i == 5 else 0 for i in range(NUM_TOKEN_REGISTERS)]

    bench.run(commands, read_token_list)

    # Written lanes: only COMPACT writes single ones, and each of them once.
    full = [0, tiles * words, 0, 0, 0, after_tiles * (after_words + 1), after_words + after_tiles, words]
    counts = np.array(full) * lanes + [0, 0, 0, 0, after * words, 0, 0, 0]
    assert bench.done_after == np.cumsum(counts).tolist()
    assert tokens == [*np.flatnonzero(is_kept).tolist(), 65535]

    expected = before
    expect_tensor(bench, expected, "act", layer_norm(x_i16, gamma_i16, beta_i32, 12, 9), NORM, words, 8)
    head_i8 = layer_norm(residual_i16[:1], gamma_i16, beta_i32, 12, 9)
    expect_tensor(bench, expected, "act", head_i8, NORM + 1, words, 8)
    exp_u8, sums = softmax_rows(scores_i16[:after], np.arange(scores_i16.shape[1]) < after)
    expect_tensor(bench, expected, "act", exp_u8[:, : after_words * depth], EXP, score_stride, 8)
    ones = np.tile((np.arange(after_words * depth) < after) & (np.arange(after_words * depth) > 0), (lanes, 1))
    expect_tensor(bench, expected, "act", ones.astype(np.int64), ONES, after_words, 8)
    expect_tensor(bench, expected, "wide", residual_i16, RESIDUAL, words, 16)
    mult_u16, shift = row_scale(np.array([*sums, *[1] * (-after % lanes)]), MULT, SHIFT)
    for tile in range(after_tiles):
        for lane in range(min(lanes, after - tile * lanes)):
            entry = int(mult_u16[tile * lanes + lane]) | int(shift[tile * lanes + lane]) << 16
            got = bench.memories["row_scale"][1 + tile] >> (22 * lane) & ((1 << 22) - 1)
            assert got == entry
    mult, places = row_scale(np.array([after - 1]), MULT, SHIFT)
    mean_scale = pack_word([int(mult[0]) | int(places[0]) << 16] * lanes, 22)
    assert bench.memories["row_scale"][1 + after_tiles : 1 + 2 * after_tiles] == [mean_scale] * after_tiles
    assert bench.memories["act"] == expected["act"]
    assert bench.memories["wide"] == expected["wide"]
    assert bench.memories["row_scale"][0] == before["row_scale"][0]
    assert bench.memories["row_scale"][1 + 2 * after_tiles :] == before["row_scale"][1 + 2 * after_tiles :]


def random_program(rng, config):
    """Return commands with random operands inside the memories; a COMPACT always follows the SELECT that it uses."""

    def place(prefix, words, tiles, depth, *, narrowest):
        stride = int(rng.integers(words if narrowest is None else narrowest, words + 3))
        base = int(rng.integers(0, depth - tiles * max(stride, words)))
        return {f"{prefix}_base": base, f"{prefix}_stride": stride}

    commands = []
    for picture in range(config.pictures):
        live = int(rng.integers(1, config.max_tokens + 1))
        commands.append(Descriptor(Opcode.BEGIN, rows=live, picture=picture))
    for _ in range(6):
        picture = int(rng.integers(0, config.pictures))
        live = commands[picture].rows
        most_tiles, most_words = -(-live // config.rows), -(-live // config.depth)
        words, heads = int(rng.integers(1, 4)), int(rng.integers(1, 2 * config.depth + 2))
        head_words = -(-heads // config.depth)
        scale = {"mult": int(rng.integers(1 << 15, 1 << 16)), "shift": int(rng.integers(0, 32))}
        match int(rng.integers(0, 4)):
            case 0:
                norm = {
                    "dim": words * config.depth,
                    "shift": int(rng.integers(0, 32)),
                    "addend": int(rng.integers(1, 1 << 32)),
                }
                norm |= place("src", words, most_tiles, config.wide_words, narrowest=0)
                norm |= place("dst", words, most_tiles, config.act_words, narrowest=None)
                norm |= {
                    "param_base": int(rng.integers(0, config.param_words - words)),
                    "rows": int(rng.integers(0, live + 1)),
                    "first_tile": int(rng.integers(0, most_tiles + 1)) if rng.integers(0, 2) else 0,
                }
                commands.append(Descriptor(Opcode.LAYER_NORM, src_words=words, picture=picture, **norm))
            case 1:
                source_ = place("src", most_words, most_tiles, config.wide_words, narrowest=0)
                target = place("dst", most_words, most_tiles, config.act_words, narrowest=None)
                row_base = int(rng.integers(0, config.row_scale_words - most_tiles))
                commands.append(
                    Descriptor(Opcode.SOFTMAX, row_base=row_base, picture=picture, **source_, **target, **scale)
                )
            case 2:
                base = int(rng.integers(0, config.act_words - most_words))
                commands.append(Descriptor(Opcode.UNIFORM, dst_base=base, picture=picture, **scale))
            case _:
                token = place("src", head_words, most_tiles, config.act_words, narrowest=0)
                head = place("aux", head_words, most_tiles, config.act_words, narrowest=0)
                threshold = int(rng.choice([0, 28000, 33000, 36000, 65535]))
                scores = {"heads": heads, "threshold": threshold, **token, **head}
                commands.append(Descriptor(Opcode.SELECT, picture=picture, **scores))
                residual = place("src", words, most_tiles, config.wide_words, narrowest=None)
                residual |= {"src_words": words, "index": int(rng.integers(0, 8))}
                commands.append(Descriptor(Opcode.COMPACT, picture=picture, **residual))
    return [*commands, Descriptor(Opcode.UNIFORM, dst_base=0, mult=MULT)]


@pytest.mark.parametrize("seed", range(8))
def test_random_programs_equal_the_machine(seed: int) -> None:
    config, rng = SMALL["4x8" if seed == 0 else "2x2"], np.random.default_rng(seed)
    # Seeds 1 to 6 stall one port each, 7 all of them.
    bench = Bench(config, {port: 0.5 for index, port in enumerate(PORTS) if seed in (index + 1, 7)})
    machine = Machine(config, rng)
    memories = {"act": Memory.ACT, "wide": Memory.WIDE, "param": Memory.PARAM}
    for name, memory in memories.items():
        bench.memories[name][:] = [int.from_bytes(word.tobytes(), "little") for word in machine.raw[memory]]
    commands, listed, tokens = random_program(rng, config), [], []
    for command in commands:
        machine.execute(command)

    async def read_token_list(ctx):
        for _ in commands:
            await ctx.tick().until(bench.unit.done)
        lists = [
            picture * config.token_stride + index
            for picture in range(config.pictures)
            for index in range(ctx.get(bench.unit.tokens[picture]))
        ]
        listed.extend(lists)
        for address in [*lists, None, None, None]:
            ctx.set(bench.unit.token.request.valid, address is not None)
            ctx.set(bench.unit.token.request.payload, address or 0)
            _, _, valid, token = await ctx.tick().sample(bench.unit.token.response_valid, bench.unit.token.response)
            if valid:
                tokens.append(token)

    bench.run(commands, read_token_list)
    for name, memory in memories.items():
        assert bench.memories[name] == [int.from_bytes(word.tobytes(), "little") for word in machine.raw[memory]]
    assert tokens == machine.raw[Memory.TOKEN].view("<u2")[listed, 0].tolist() and tokens


OUTSIDE = {
    "wide read": Descriptor(Opcode.LAYER_NORM, src_base=398, src_stride=1, src_words=1, dim=2, addend=1),
    "wide read of 17 bits": Descriptor(Opcode.SOFTMAX, src_base=399, src_stride=65535, dst_stride=1, mult=MULT),
    "param read": Descriptor(Opcode.LAYER_NORM, src_words=2, src_stride=2, param_base=31, dim=4, addend=1),
    "act read": Descriptor(Opcode.SELECT, src_base=0, src_stride=1, aux_base=400, heads=2),
    "act write": Descriptor(Opcode.SOFTMAX, src_stride=1, dst_base=399, dst_stride=1, mult=MULT),
    "row scale write": Descriptor(Opcode.SOFTMAX, src_stride=1, dst_stride=1, row_base=15, mult=MULT),
    "uniform write": Descriptor(Opcode.UNIFORM, dst_base=398, mult=MULT),
    "uniform row scale write": Descriptor(Opcode.UNIFORM, row_base=15, mult=MULT),
    "compact read": Descriptor(Opcode.COMPACT, src_base=300, src_stride=51, src_words=1),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_address_beyond_its_memory_faults(case: str) -> None:
    config = SMALL["2x2"]
    bench = Bench(config, {})
    bench.memories["act"][:5] = [0xFF00] * 5
    select = Descriptor(Opcode.SELECT, src_stride=1, aux_stride=1, heads=2, threshold=65535)

    async def watch_fault(ctx):
        for _ in range(2):
            await ctx.tick().until(bench.unit.done)
        assert not ctx.get(bench.unit.fault)
        await ctx.tick().until(bench.unit.fault)
        for _ in range(200):
            _, _, fault, done = await ctx.tick().sample(bench.unit.fault, bench.unit.done)
            assert fault and not done

    # BEGIN and SELECT are legal and prune every patch.
    bench.run([Descriptor(Opcode.BEGIN, rows=5), select, OUTSIDE[case]], watch_fault)
    assert max(bench.requests) < 400 and all(address < 400 for address, _, _ in bench.writes)


def test_largest_addresses_do_not_fault() -> None:
    config = SMALL["2x2"]
    bench = Bench(config, {})
    commands = [
        Descriptor(Opcode.BEGIN, rows=config.max_tokens),
        Descriptor(Opcode.LAYER_NORM, src_base=399, src_words=1, dst_base=399, param_base=31, dim=2, addend=1),
        Descriptor(Opcode.SOFTMAX, src_base=392, dst_base=392, row_base=8, mult=MULT),
    ]

    async def watch(ctx):
        assert ctx.get(bench.unit.tokens[0]) == 0
        for _ in commands:
            await ctx.tick().until(bench.unit.done)
        assert ctx.get(bench.unit.tokens[0]) == config.max_tokens
        assert not ctx.get(bench.unit.fault)

    bench.run(commands, watch)
    assert len(bench.writes) == 8 * 1 + 8 * 8 + 8


def test_commands_without_tokens_are_done_at_once() -> None:
    bench = Bench(SMALL["2x2"], {})
    opcodes = (Opcode.LAYER_NORM, Opcode.SOFTMAX, Opcode.UNIFORM, Opcode.SELECT, Opcode.COMPACT)

    async def watch(ctx):
        for _ in opcodes:
            await ctx.tick().until(bench.unit.done)

    bench.run([Descriptor(opcode, src_words=1, heads=1, mult=MULT) for opcode in opcodes], watch)
    assert len(bench.done_after) == len(opcodes) and not bench.requests and not bench.writes


def test_begin_beyond_the_token_list_faults() -> None:
    bench = Bench(SMALL["2x2"], {})

    async def watch(ctx):
        await ctx.tick().until(bench.unit.fault)

    bench.run([Descriptor(Opcode.BEGIN, rows=17)], watch)
    assert not bench.done_after


@pytest.mark.parametrize("is_separate", [False, True])
def test_demo_unit_converts_to_verilog(is_separate: bool) -> None:
    config = CONFIGS["demo"]
    names = ("norm_channel", "exp_channel") if is_separate else (None, None)
    text = verilog.convert(VectorUnit(config, Multiplier.BEHAVIOURAL, *names), name="vector", emit_src=False)
    assert "module vector(" in text
    for name, component, width in (
        ("norm_channel", NormChannel, norm_width(config)),
        ("exp_channel", ExpChannel, config.depth),
    ):
        instances = re.findall(rf"^  {name} \S+ \((.*?)\);", text, re.MULTILINE | re.DOTALL)
        assert len(instances) == is_separate * config.rows * width
        # The instance names the ports of the module that is generated separately.
        alone = verilog.convert(component(), name=name, emit_src=False)
        ports = sorted(re.search(rf"module {name}\(([^)]*)\)", alone)[1].split(", "))
        assert all(sorted(re.findall(r"\.(\w+)\(", instance)) == ports for instance in instances)
