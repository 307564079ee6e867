"""Surroundings of a vector engine: each pair of address and word streams is joined by a MemoryReader, as in the unit.

Tests import it as `tests.rtl_vector`.
"""

from random import Random

from amaranth.hdl import Module
from amaranth.lib.wiring import connect

from hw.rtl.stream import MemoryReader
from tests.rtl_streams import pack_word, read_port, run


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


async def cycles_until(ctx, condition):
    """Let the clock run to the first edge at which `condition` holds; return how many edges that took."""
    cycles = 1
    while not (await ctx.tick().sample(condition))[-1]:
        cycles += 1
    return cycles


class Harness:
    """An engine with its memories. `memories` and `written` are {name: {address: word}}; they may share a dict."""

    def __init__(self, engine, *, memories, written, pause=0.0):
        self.engine = engine
        self._idle_cycles = 3 if pause else 0  # between commands
        self.module = Module()
        self.module.submodules.engine = engine
        self.backgrounds = []
        for seed, (name, words) in enumerate(memories.items()):
            self._join(name, words, pause, seed)
        for seed, (name, words) in enumerate(written.items()):
            writes = getattr(engine, f"{name}_writes")
            self.backgrounds.append(collect_writes(writes, words, pause=pause, seed=seed + 10))

    def _join(self, name, words, pause, seed):
        addresses = getattr(self.engine, f"{name}_addresses")
        self.module.submodules[name] = reader = MemoryReader(len(getattr(self.engine, f"{name}_words").payload))
        # The unit checks the extra address bit; here an address that needs it has no word.
        self.module.d.comb += [
            reader.addresses.payload.eq(addresses.payload),
            reader.addresses.valid.eq(addresses.valid),
            addresses.ready.eq(reader.addresses.ready),
        ]
        connect(self.module, reader.words, getattr(self.engine, f"{name}_words"))
        self.backgrounds.append(read_port(reader.port, words, pause=pause, seed=seed))

    async def issue(self, ctx, command):
        """Hand the engine one Descriptor, at once or after a few cycles without one."""
        for _ in range(self._idle_cycles):
            await ctx.tick()
        ctx.set(self.engine.command.payload, vars(command))
        ctx.set(self.engine.command.valid, 1)
        await ctx.tick().until(self.engine.command.ready)
        ctx.set(self.engine.command.valid, 0)

    async def execute(self, ctx, command):
        """Hand the engine one Descriptor and wait until it is done."""
        await self.issue(ctx, command)
        await ctx.tick().until(self.engine.done)

    def run(self, *testbenches, watchers=()):
        """Simulate until the testbenches have returned."""
        run(self.module, *testbenches, backgrounds=[*self.backgrounds, *watchers])


def run_engine(engine, commands, *, inputs, watchers=(), pause=0.0, **memories):
    """Execute the commands (Descriptors) back to back on an engine; return {memory name: written words}.

    inputs {member: value} stay constant; watchers are further backgrounds; memories {name: {address: word}}.
    """
    written = {name.removesuffix("_writes"): {} for name in engine.signature.members if name.endswith("_writes")}
    harness = Harness(engine, memories=memories, written=written, pause=pause)

    async def testbench(ctx):
        for name, value in inputs.items():
            ctx.set(getattr(engine, name), value)
        for command in commands:
            await harness.execute(ctx, command)

    harness.run(testbench, watchers=watchers)
    return written
