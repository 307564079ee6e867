"""Memories around a vector engine: its address and word streams are joined to a MemoryReader, as in the unit.

Tests import it as `tests.rtl_vector`.
"""

from random import Random

from amaranth.hdl import Module
from amaranth.lib.wiring import connect

from hw.rtl.stream import MemoryReader
from tests.rtl_streams import pack_word, read_port, run, source


def pack_rows(rows, config, base, stride, *, bits, words=None):
    """Return {address: word} of a tensor (N, Q): token t in lane t mod R of row tile t div R, zeros beyond."""
    num_rows, channels = rows.shape
    words = words or -(-channels // config.depth)
    memory = {}
    for tile in range(-(-num_rows // config.rows)):
        for w in range(words):
            lanes = [
                [
                    int(rows[t, c]) if t < num_rows and c < channels else 0
                    for c in range(w * config.depth, (w + 1) * config.depth)
                ]
                for t in range(tile * config.rows, (tile + 1) * config.rows)
            ]
            memory[base + tile * stride + w] = pack_word(lanes, bits)
    return memory


def collect_writes(stream, memory, *, pause, seed):
    """Accept writes {address, data, enable} of a stream into the dict `memory`; a background."""

    async def testbench(ctx):
        random = Random(seed)
        payload = stream.payload
        parts = len(payload.enable)
        bits = len(payload.data) // parts
        while True:
            ctx.set(stream.ready, random.random() >= pause)
            _, _, valid, ready, address, data, enable = await ctx.tick().sample(
                stream.valid, stream.ready, payload.address, payload.data, payload.enable
            )
            if valid and ready:
                mask = sum(((1 << bits) - 1) << (part * bits) for part in range(parts) if enable >> part & 1)
                memory[address] = (memory.get(address, 0) & ~mask) | (data & mask)

    return testbench


def run_engine(engine, commands, *, inputs, watchers=(), pause=0.0, **memories):
    """Execute the commands (Descriptors) back to back on an engine; return {memory name: written words}.

    inputs {member: value} stay constant; watchers are further backgrounds; memories {name: {address: word}}.
    """
    m = Module()
    m.submodules.engine = engine
    written, backgrounds = {}, list(watchers)
    for seed, (name, words) in enumerate(memories.items()):
        width = len(getattr(engine, f"{name}_words").payload)
        reader = MemoryReader(width)
        m.submodules[f"{name}_reader"] = reader
        m.d.comb += reader.addresses.payload.eq(getattr(engine, f"{name}_addresses").payload)
        m.d.comb += reader.addresses.valid.eq(getattr(engine, f"{name}_addresses").valid)
        m.d.comb += getattr(engine, f"{name}_addresses").ready.eq(reader.addresses.ready)
        connect(m, reader.words, getattr(engine, f"{name}_words"))
        backgrounds.append(read_port(reader.port, words, pause=pause, seed=seed))
    for seed, member in enumerate(name for name in engine.signature.members if name.endswith("_writes")):
        memory = written.setdefault(member.removesuffix("_writes"), {})
        backgrounds.append(collect_writes(getattr(engine, member), memory, pause=pause, seed=seed + 10))
    num_done = 0

    async def wait_until_done(ctx):
        nonlocal num_done
        for name, value in inputs.items():
            ctx.set(getattr(engine, name), value)
        while num_done < len(commands):
            _, _, done = await ctx.tick().sample(engine.done)
            num_done += done

    payloads = [vars(command) for command in commands]
    run(m, source(engine.command, payloads), wait_until_done, backgrounds=backgrounds)
    return written
