"""Sequencer with its program in an AXI memory and simulated units around it."""

from amaranth.hdl import Module
from amaranth.lib.wiring import connect
from rtl_axi import AxiMemory, axi_reads
from rtl_streams import run

from hw.config import CONFIGS
from hw.isa import UNIT_OF, Descriptor, ErrorCode, Opcode, Unit
from hw.regmap import Status
from hw.rtl.axi_port import AxiPort
from hw.rtl.sequencer import Sequencer

PROGRAM = 4096 - 192
ANY_OPCODE = {unit: next(opcode for opcode, owner in UNIT_OF.items() if owner is unit) for unit in Unit}
END = Descriptor(Opcode.END)


def job(unit, tag=0, **waits):
    """Return a descriptor for a unit; `tag` travels in a field that the sequencer does not look at."""
    return Descriptor(ANY_OPCODE[unit], src_base=tag, **waits)


class Bench:
    """A Sequencer on its AXI port, the program in DDR, and five units that take `duration(tag)` cycles.

    started, ended : (cycle, unit, tag) of every command. A unit never ends a command whose tag is in `stuck`.
    """

    def __init__(self, program, *, duration=lambda tag: 3, length=None, address=PROGRAM, watchdog=0, **behaviour):
        self.sequencer = Sequencer(CONFIGS["tiny"])
        self.port = AxiPort(8, 1, has_writer=False)
        self.ddr = AxiMemory(bytearray(1 << 16), **behaviour)
        self.dut = m = Module()
        m.submodules.sequencer, m.submodules.port = self.sequencer, self.port
        connect(m, self.sequencer.bursts, self.port.read_bursts[0])
        connect(m, self.port.read_beats[0], self.sequencer.beats)
        m.d.comb += [
            self.port.read_flush.eq(self.sequencer.fetch_flush),
            self.sequencer.fetch_idle.eq(self.port.read_idle),
            self.sequencer.bus_idle.eq(self.port.read_idle),
        ]
        self.duration, self.stuck = duration, set()
        self.started, self.ended, self.resets = [], [], []
        self.load(program, length, address)
        self.watchdog = watchdog

    def load(self, program, length=None, address=PROGRAM):
        """Put a program into DDR."""
        data = b"".join(item if isinstance(item, bytes) else item.pack() for item in program)
        self.ddr.data[address : address + len(data)] = data
        self.length, self.address = len(program) if length is None else length, address

    async def units(self, ctx):
        """Play all five units; a background."""
        sequencer = self.sequencer
        running = dict.fromkeys(Unit)  # (tag, cycles left)
        cycle = 0
        while True:
            done = 0
            for unit, command in running.items():
                ctx.set(sequencer.commands[unit].ready, command is None)
                if command is not None and command[1] == 0 and command[0] not in self.stuck:
                    done |= 1 << unit
            ctx.set(sequencer.done, done)
            streams = sequencer.commands
            sampled = await ctx.tick().sample(
                sequencer.unit_reset,
                *(streams[unit].valid for unit in Unit),
                *(streams[unit].payload.src_base for unit in Unit),
            )
            reset, valid, tags = sampled[2], sampled[3:8], sampled[8:13]
            for unit in Unit:
                if reset:
                    running[unit] = None
                elif running[unit] is None and valid[unit]:
                    running[unit] = (tags[unit], self.duration(tags[unit]) - 1)
                    self.started.append((cycle, unit, tags[unit]))
                elif running[unit] is not None:
                    tag, left = running[unit]
                    running[unit] = None if done >> unit & 1 else (tag, max(left - 1, 0))
                    if done >> unit & 1:
                        self.ended.append((cycle, unit, tag))
            if reset and cycle:  # units are also reset at power-up
                self.resets.append(cycle)
            cycle += 1

    async def start(self, ctx):
        """Start a run; returns in its first busy cycle."""
        ctx.set(self.sequencer.program, self.address)
        ctx.set(self.sequencer.program_length, self.length)
        ctx.set(self.sequencer.watchdog, self.watchdog)
        await self.pulse(ctx, self.sequencer.start)

    async def pulse(self, ctx, signal):
        ctx.set(signal, 1)
        await ctx.tick()
        ctx.set(signal, 0)

    def status(self, ctx):
        return Status(ctx.get(self.sequencer.status.as_value()))

    def failure(self, ctx):
        return ErrorCode(ctx.get(self.sequencer.error)), ctx.get(self.sequencer.error_index)

    async def finish(self, ctx):
        """Wait until the run is over and drained; return the final status."""
        while self.status(ctx) & (Status.BUSY | Status.DRAINING):
            await ctx.tick()
        return self.status(ctx)

    def simulate(self, *testbenches):
        reads = axi_reads(self.port.pins, self.ddr, axi_bytes=8, seed=1)
        run(self.dut, *testbenches, backgrounds=[reads, self.units])

    def run(self):
        """Run the program to its end; return (status, error, index)."""

        async def testbench(ctx):
            await self.start(ctx)
            assert self.status(ctx) == Status.BUSY
            status = await self.finish(ctx)
            self.outcome = (status, *self.failure(ctx))
            sequencer = self.sequencer
            self.cycles = ctx.get(sequencer.cycles)
            self.busy_cycles = [ctx.get(sequencer.busy_cycles[unit]) for unit in Unit]
            self.wait_cycles = [ctx.get(sequencer.wait_cycles[unit]) for unit in Unit]
            await ctx.tick().repeat(30)
            assert (self.status(ctx), *self.failure(ctx)) == self.outcome
            assert ctx.get(sequencer.cycles) == self.cycles

        self.simulate(testbench)
        return self.outcome


DONE = (Status.DONE, ErrorCode.NONE, 0)


def failed(code, index):
    return (Status.ERROR, code, index)
