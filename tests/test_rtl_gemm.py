"""Testpoints of hw/rtl/gemm.py, the whole unit against matmul and quant.fixed / quant.approx.

- every drain mode on every array shape, random operands, partial last row tile, column tile and word
- every port stalled alone and all together; queues full; exactly the expected words
  are read in order and written once each
- live rows, columns and steps (fields of 0); stride 0; destination stride larger than the row
- one step per tile (the drain is the limit), many words per tile, several commands back to back
- in-place residual; the addend of scores in the package token's column alone
- throughput: cycles of a command without stalls
- an address beyond any of the memories faults, the unit never reports done, and a reset makes it usable again
- Verilog of the demo's unit with its repeated modules generated once
"""

import re
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from amaranth.back import verilog
from amaranth.hdl import ResetInserter, Signal
from rtl_streams import pack_word, read_port, run, unpack_word, write_port

from hw.config import CONFIGS, AccelConfig
from hw.isa import ADDEND_MASK, Descriptor, Drain, Opcode
from hw.rtl.activation_element import ActivationElement
from hw.rtl.drain_element import DrainElement
from hw.rtl.gemm import Gemm
from hw.rtl.packed_dot import Multiplier
from hw.timing import activation_width, drain_width, words_in_flight
from quant.approx import gelu, gelu_constants, sigmoid
from quant.fixed import requantize, saturate

SIZES = {"act_words": 256, "wide_words": 200, "weight_words": 150, "param_words": 60, "max_tokens": 32}
SHAPES = [(2, 8, 2), (2, 8, 4), (4, 8, 8), (2, 16, 16)]
READERS = ("act", "weight", "param", "wide_read", "row_scale")
WRITERS = ("act_write", "wide_write")
WIDE_MODES = (Drain.SCORE, Drain.RESIDUAL, Drain.WIDE)


ADDEND = -123456
"""What SCORE adds for the package token, and GELU nothing of; it moves a score by more than a few codes."""
GELU_ADDEND = -3456
"""What GELU adds; it moves a result by more than a few codes."""


class Memories:
    """Contents of the five memories: arrays for the reference, words for the ports."""

    def __init__(self, config, seed):
        self.config = config
        random = np.random.default_rng(seed)
        rows, columns, depth = config.rows, config.columns, config.depth
        self.act_i8 = random.integers(-128, 128, (config.act_words, rows, depth))
        self.weight_i8 = random.integers(-127, 128, (config.weight_words, columns, depth))
        self.wide_i16 = random.integers(-(1 << 15), 1 << 15, (config.wide_words, rows, depth))
        self.bias_i32 = random.integers(-(1 << 17), 1 << 17, (config.param_words, depth))
        self.mult_u16 = random.integers(1 << 14, 1 << 16, (config.param_words, depth))
        self.shift = random.integers(14, 28, (config.param_words, depth))
        self.row_mult_u16 = random.integers(1 << 14, 1 << 16, (config.row_scale_words, rows))
        self.row_shift = random.integers(20, 30, (config.row_scale_words, rows))
        entries = (self.bias_i32 & 0xFFFFFFFF) | self.mult_u16 << 32 | self.shift << 48
        self.words = {
            "act": [pack_word(word, 8) for word in self.act_i8],
            "weight": [pack_word(word, 8) for word in self.weight_i8],
            "param": [pack_word(word, 64) for word in entries],
            "wide_read": [pack_word(word, 16) for word in self.wide_i16],
            "row_scale": [pack_word(word, 22) for word in self.row_mult_u16 | self.row_shift << 16],
        }

    def expect(self, command, tokens, package_column=None):
        """Return {destination address: word (R, K) int64} of a GEMM command; a command without steps writes nothing."""
        config = self.config
        depth, mode = config.depth, Drain(command.mode)
        cols = command.cols or tokens
        steps = command.src_words or -(-tokens // depth)
        num_words = -(-cols // depth)
        result = {}
        if not steps:
            return result
        for i in range(-(-command.covered_rows(tokens, config.rows) // config.rows)):
            act = self.act_i8[command.src_base + i * command.src_stride :][:steps]
            for o in range(num_words):
                tile, first = divmod(o * depth, config.columns)
                weight = self.weight_i8[command.aux_base + tile * command.aux_stride :][:steps, first : first + depth]
                acc = np.einsum("krp,kcp->rc", act, weight)
                address = command.dst_base + i * command.dst_stride + o
                result[address] = self._drain(command, mode, acc, i, o, address, package_column)
        return result

    def expect_reads(self, command, tokens):
        """Return the (ACT, WEIGHT) addresses of a command, in order."""
        config = self.config
        steps = command.src_words or -(-tokens // config.depth)
        return [
            (command.src_base + i * command.src_stride + k, command.aux_base + j * command.aux_stride + k)
            for i in range(-(-command.covered_rows(tokens, config.rows) // config.rows))
            for j in range(-(-(command.cols or tokens) // config.columns))
            for k in range(steps)
        ]

    def _drain(self, command, mode, acc, i, o, address, package_column):
        if mode == Drain.SCORE:
            is_package = o * self.config.depth + np.arange(self.config.depth) == package_column
            return requantize(acc + ADDEND * is_package, command.mult, command.shift, 16)
        if mode == Drain.ROW_SCALE:
            mult, shift = self.row_mult_u16[command.row_base + i], self.row_shift[command.row_base + i]
            return requantize(acc, mult[:, None], shift[:, None], 8)
        param = command.param_base + o
        bits = 8 if mode == Drain.INT8 else 16
        scaled = requantize(acc + self.bias_i32[param], self.mult_u16[param], self.shift[param], bits)
        if mode == Drain.GELU:
            return requantize(gelu(scaled, command.one, command.curve, GELU_ADDEND), command.mult, command.shift, 8)
        if mode == Drain.SIGMOID:
            return sigmoid(scaled)
        if mode == Drain.RESIDUAL:
            return saturate(self.wide_i16[address] + scaled, 16)
        return scaled


def config_of(shape):
    rows, columns, depth = shape
    return AccelConfig(rows=rows, columns=columns, depth=depth, pictures=2, **SIZES)


def command_of(mode, **fields):
    one, curve = gelu_constants(1.0)
    shift, addend = (34, GELU_ADDEND) if mode == Drain.GELU else (22, ADDEND)
    defaults = {"mult": 50000, "shift": shift, "addend": addend & ADDEND_MASK, "one": one, "curve": curve, "picture": 1}
    return Descriptor(opcode=Opcode.GEMM, mode=mode, **(defaults | fields))


def as_payload(command):
    return {name: getattr(command, name) for name in command.__dataclass_fields__}


def run_commands(config, commands, tokens, *, pauses=None, seed=0, deadline_cycles=4000, has_package=False):
    """Run the commands; check every write; return the cycle of each done.

    The other picture always has what this one does not: a package token or none.
    """
    package_column = tokens - 1 if has_package else None
    pauses = pauses or {}
    memories = Memories(config, seed)
    dut = Gemm(config, Multiplier.BEHAVIOURAL)
    act_words, wide_words = memories.words["act"].copy(), memories.words["wide_read"]
    writes = {name: [] for name in WRITERS}
    addresses = {name: [] for name in READERS}
    dones = []

    async def feed(ctx):
        """Offer each command as the sequencer does: one that reads what others write comes when those are done."""
        random = Random(seed)
        ctx.set(dut.tokens, [0, tokens])
        ctx.set(dut.packages, has_package << 1 | (not has_package))
        for index, command in enumerate(commands):
            while random.random() < pauses.get("command", 0.0) or (
                command.mode == Drain.RESIDUAL and len(dones) < index
            ):
                await ctx.tick()
            ctx.set(dut.command.payload, as_payload(command))
            ctx.set(dut.command.valid, 1)
            await ctx.tick().until(dut.command.ready)
            ctx.set(dut.command.valid, 0)

    async def wait(ctx):
        cycle = 0
        while len(dones) < len(commands):
            _, _, done, fault = await ctx.tick().sample(dut.done, dut.fault)
            assert not fault
            cycle += 1
            if done:
                dones.append(cycle)
                command = commands[len(dones) - 1]
                is_wide = command.mode in WIDE_MODES
                port, bits = ("wide_write", 16) if is_wide else ("act_write", 8)
                check(memories, command, tokens, writes[port], bits, package_column)
                assert not writes["act_write" if is_wide else "wide_write"]
                writes["wide_write" if is_wide else "act_write"].clear()
        for _ in range(40):
            await ctx.tick()
        assert not any(writes.values())
        assert ctx.get(dut.command.ready)
        assert not any(ctx.get(getattr(dut, name).request.valid) for name in READERS + WRITERS)

    read_ports = [
        read_port(
            getattr(dut, name), memories.words[name], pause=pauses.get(name, 0.0), seed=n, addresses=addresses[name]
        )
        for n, name in enumerate(READERS)
    ]
    write_ports = [
        write_port(dut.act_write, act_words, pause=pauses.get("act_write", 0.0), seed=8, writes=writes["act_write"]),
        write_port(
            dut.wide_write, wide_words, pause=pauses.get("wide_write", 0.0), seed=9, writes=writes["wide_write"]
        ),
    ]
    run(
        dut,
        feed,
        wait,
        backgrounds=[*read_ports, *write_ports],
        deadline_cycles=deadline_cycles,
    )
    reads = [pair for command in commands for pair in memories.expect_reads(command, tokens)]
    assert list(zip(addresses["act"], addresses["weight"], strict=True)) == reads
    return dones


def check(memories, command, tokens, writes, bits, package_column):
    """Compare the writes of one command, exactly and in any order, with the reference; then update its memory."""
    config = memories.config
    expected = memories.expect(command, tokens, package_column)
    assert sorted(address for address, _, _ in writes) == sorted(expected)
    for address, word, enable in writes:
        assert enable == (1 << config.rows) - 1
        is_signed = command.mode != Drain.SIGMOID
        result = unpack_word(word, bits, config.act_bytes, is_signed=is_signed).reshape(config.rows, config.depth)
        assert result.tolist() == expected[address].tolist()
        if command.mode in WIDE_MODES:
            memories.wide_i16[address] = expected[address]


def shaped(config, mode, **fields):
    """A command with a partial last row tile, column tile and word, of three steps a tile."""
    cols = 2 * config.columns + config.depth + 1 if config.columns > config.depth else 2 * config.columns + 1
    words = -(-cols // config.depth)
    base = {"src_base": 5, "src_stride": 4, "src_words": 3, "aux_base": 7, "aux_stride": 3, "dst_base": 9}
    base |= {"dst_stride": words + 1, "rows": config.rows + 1, "cols": cols, "param_base": 2, "row_base": 1}
    return command_of(mode, **(base | fields))


@pytest.mark.parametrize("shape", SHAPES)
def test_modes(shape):
    config = config_of(shape)
    run_commands(config, [shaped(config, mode) for mode in Drain], tokens=9)


@pytest.mark.parametrize("pauses", [{}, dict.fromkeys((*READERS, *WRITERS, "command"), 0.5)])
@pytest.mark.parametrize("tokens", [1, 7, 8, 9])
@pytest.mark.parametrize("shape", SHAPES)
def test_scores_of_the_package_token(shape, tokens, pauses):
    """The addend is for the last live column alone, behind and before commands without it, whatever is read beside."""
    config = config_of(shape)
    commands = [shaped(config, mode, cols=0) for mode in (Drain.SCORE, Drain.WIDE, Drain.SCORE, Drain.ROW_SCALE)]
    run_commands(config, commands, tokens=tokens, pauses=pauses, has_package=True)


@pytest.mark.parametrize("stalled", ["act", "weight", "param", "wide_read", "row_scale", "writes", "all"])
def test_stalls(stalled):
    config = config_of((2, 8, 4))
    names = {"writes": WRITERS, "all": (*READERS, *WRITERS, "command")}.get(stalled, (stalled,))
    commands = []
    for mode in (Drain.RESIDUAL, Drain.ROW_SCALE, Drain.GELU):
        command = shaped(config, mode)
        commands += [command, replace(command, src_words=1, rows=4 * config.rows)]
    run_commands(config, commands, tokens=9, pauses=dict.fromkeys(names, 0.6))


def test_full_queues():
    """More words than the drain may have in flight, with a writer that is much slower than the array."""
    config = config_of((2, 8, 2))
    command = command_of(Drain.INT8, src_words=1, src_stride=1, aux_stride=1, rows=40, cols=16, dst_stride=8)
    assert words_in_flight(config) < 20 * 8
    run_commands(config, [command], tokens=40, pauses={"act_write": 0.8})


@pytest.mark.parametrize("tokens", [1, 7, 8])
def test_live_sizes(tokens):
    config = config_of((2, 8, 4))
    live = {"rows": 0, "cols": 0, "src_words": 0, "dst_stride": 20, "src_stride": 3, "aux_stride": 5}
    commands = [
        shaped(config, Drain.SCORE, **live),
        shaped(config, Drain.ROW_SCALE, **(live | {"src_stride": 0})),
        shaped(config, Drain.INT8, rows=0, cols=3, src_words=2),
        shaped(config, Drain.WIDE, rows=1, cols=0, src_words=1),
        shaped(config, Drain.INT8, rows=5, first_tile=1, cols=3),
        shaped(config, Drain.INT8, rows=0, first_tile=3, cols=3),
    ]
    run_commands(config, commands, tokens=tokens)


def test_no_work_is_done_at_once():
    config = config_of((2, 4, 2))
    empty = [{"rows": 0}, {"cols": 0}, {"src_words": 0}, {"first_tile": 1}]
    dones = run_commands(config, [shaped(config, Drain.WIDE, **fields) for fields in empty], tokens=0)
    assert dones[-1] <= 5 * len(empty)


def test_residual_twice_in_place():
    config = config_of((2, 4, 2))
    command = shaped(config, Drain.RESIDUAL)
    run_commands(config, [command, command, shaped(config, Drain.WIDE)], tokens=9, pauses={"wide_write": 0.3})


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_throughput(shape):
    """Tiles take max(steps, C/G) cycles each, G = drain_width; filling and emptying the pipelines takes a constant."""
    config = config_of(shape)
    words, row_tiles, all_steps = config.columns // config.depth, 6, (1, 2, 8)
    tile_parts = config.columns // drain_width(config)
    commands = [
        command_of(
            Drain.INT8, src_words=steps, src_stride=steps, aux_stride=steps, rows=row_tiles * config.rows,
            cols=2 * config.columns, dst_stride=2 * words, shift=20,
        )
        for steps in all_steps
    ]  # fmt: skip
    dones = run_commands(config, commands, tokens=row_tiles * config.rows)
    for steps, start, done in zip(all_steps, [0, *dones], dones, strict=False):
        ideal = row_tiles * 2 * max(steps, tile_parts)
        assert ideal <= done - start <= ideal + 45
    # The array goes on while results are drained: filling and emptying the pipelines counts once.
    assert dones[-1] <= sum(row_tiles * 2 * max(steps, tile_parts) for steps in all_steps) + 45 + 8 * len(all_steps)


FAULTS = [
    (Drain.INT8, {"src_base": 256 - 2}),
    (Drain.INT8, {"src_stride": 40000}),
    (Drain.INT8, {"aux_base": 150 - 8}),
    (Drain.INT8, {"aux_base": 65535}),
    (Drain.INT8, {"dst_base": 256 - 6}),
    (Drain.INT8, {"dst_stride": 65535}),
    (Drain.WIDE, {"dst_base": 200 - 6}),
    (Drain.RESIDUAL, {"dst_base": 200}),
    (Drain.INT8, {"param_base": 60 - 2}),
    (Drain.ROW_SCALE, {"row_base": 2 * 16 - 1}),
]


def test_faults():
    config = config_of((2, 8, 4))
    memories = Memories(config, 0)
    dut = Gemm(config, Multiplier.BEHAVIOURAL)
    reset = Signal()
    written = dict.fromkeys(range(256), 0)

    async def start(ctx, command):
        ctx.set(dut.command.payload, as_payload(command))
        ctx.set(dut.command.valid, 1)
        await ctx.tick().until(dut.command.ready)
        ctx.set(dut.command.valid, 0)

    async def scenario(ctx):
        ctx.set(dut.tokens, [0, 9])
        for mode, fields in FAULTS:
            await start(ctx, shaped(config, mode, **fields))
            faults = []
            for _ in range(100):
                _, _, done, fault = await ctx.tick().sample(dut.done, dut.fault)
                assert not done
                faults.append(fault)
            assert faults == sorted(faults) and faults[-1]
            ctx.set(reset, 1)
            await ctx.tick()
            ctx.set(reset, 0)
        # After a reset a legal command is done, although one behind it has a fault; that is told afterwards.
        for command in (shaped(config, Drain.INT8), shaped(config, *FAULTS[0][:1], **FAULTS[0][1])):
            await start(ctx, command)
        events = []
        for _ in range(150):
            _, _, done, fault = await ctx.tick().sample(dut.done, dut.fault)
            events += ["done"] * done + ["fault"] * fault
        assert events[0] == "done" and set(events[1:]) == {"fault"}

    run(
        ResetInserter(reset)(dut),
        scenario,
        backgrounds=[
            *(read_port(getattr(dut, name), memories.words[name]) for name in READERS),
            *(write_port(getattr(dut, name), written) for name in WRITERS),
        ],
    )


def test_verilog_of_the_demo_with_generated_modules():
    config = CONFIGS["demo"]
    modules = {"gemm_column": None, "drain_element": DrainElement(), "activation_element": ActivationElement()}
    text = verilog.convert(Gemm(config, Multiplier.DSP48E2, *modules), name="gemm", emit_src=False)
    counts = [config.columns, config.rows * drain_width(config), config.rows * activation_width(config)]
    for (name, component), count in zip(modules.items(), counts, strict=True):
        instances = re.findall(rf"^  {name} \S+ \((.*?)\);", text, re.MULTILINE | re.DOTALL)
        assert len(instances) == count
        if component:
            # The instance names the ports of the module that is generated separately.
            alone = verilog.convert(component, name=name, emit_src=False)
            ports = sorted(re.search(rf"module {name}\(([^)]*)\)", alone)[1].split(", "))
            assert all(sorted(re.findall(r"\.(\w+)\(", instance)) == ports for instance in instances)
