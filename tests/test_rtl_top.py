"""The whole core in Amaranth's simulator: pins to pins, against the numpy machine.

Testpoints: pin names, widths and directions; a program of every unit gives the machine's output, token counts and
an interrupt, with stalls on every channel and on several AXI ports; a unit fault, a bus error, and an abort end the
run with their code and index, and the run after it is exact.

Whole networks run in Verilator (test_sim_cosim.py).
"""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.hdl import Fragment
from amaranth.lib.wiring import Flow
from amaranth.sim import Simulator
from rtl_axi import AxiMemory, axi_reads, axi_writes, lite_read, lite_write

from hw.config import CONFIGS
from hw.isa import Descriptor, Drain, ErrorCode, Memory, Opcode, Region
from hw.regmap import REGISTERS, Control, Status
from hw.rtl.axi import axi4_signature, axi_lite_signature
from hw.rtl.packed_dot import Multiplier
from hw.rtl.top import CONTROL_PREFIX, Top, memory_prefix
from hw.weights import PARAM_DTYPE
from sim.machine import Machine

TINY = replace(CONFIGS["tiny"], act_words=256, wide_words=256, weight_words=128, param_words=64)
PROGRAM, REGION_BYTES = 0, 2048
BASES = {Region.WEIGHTS: 4096 - 192, Region.INPUT: 8192, Region.OUTPUT: 1 << 14}
TOKENS = 5


def program():
    """Return descriptors that use every unit and memory: attention of one head, d = 4, on random operands."""
    return [
        Descriptor(Opcode.BEGIN, rows=TOKENS),
        Descriptor(Opcode.LOAD, memory=Memory.ACT, region=Region.INPUT, length=128),
        Descriptor(Opcode.LOAD, memory=Memory.WEIGHT, region=Region.WEIGHTS, length=64, dst_base=60),
        Descriptor(Opcode.LOAD, memory=Memory.PARAM, region=Region.WEIGHTS, length=128, offset=64, dst_base=2),
        Descriptor(Opcode.LOAD, memory=Memory.WIDE, region=Region.INPUT, length=256, offset=128, dst_base=100),
        Descriptor(Opcode.KEYS, wait_load=1, wait_vector=1, src_words=1, src_stride=1, dst_stride=1),
        Descriptor(
            Opcode.GEMM,
            mode=Drain.SCORE,
            wait_operand=1,
            src_words=1,
            src_stride=1,
            aux_stride=1,
            dst_base=8,
            dst_stride=2,
            mult=1 << 15,
            shift=21,
        ),
        Descriptor(
            Opcode.SOFTMAX, wait_gemm=1, src_base=8, src_stride=2, dst_base=32, dst_stride=2, mult=1 << 15, shift=15
        ),
        Descriptor(Opcode.VALUES, wait_gemm=1, src_words=1, src_stride=1, dst_base=20, dst_stride=2),
        Descriptor(
            Opcode.GEMM,
            mode=Drain.ROW_SCALE,
            wait_operand=2,
            wait_vector=2,
            src_base=32,
            src_stride=2,
            aux_base=20,
            aux_stride=2,
            dst_base=48,
            dst_stride=1,
            cols=4,
        ),
        Descriptor(
            Opcode.GEMM,
            mode=Drain.RESIDUAL,
            wait_load=4,
            wait_gemm=2,
            src_base=48,
            src_stride=1,
            src_words=1,
            aux_base=60,
            dst_base=100,
            dst_stride=1,
            cols=4,
            param_base=2,
        ),
        Descriptor(Opcode.STORE, memory=Memory.WIDE, region=Region.OUTPUT, wait_gemm=3, src_base=100, length=64),
        Descriptor(Opcode.STORE, memory=Memory.ACT, region=Region.OUTPUT, offset=64, src_base=48, length=64),
        Descriptor(Opcode.STORE, memory=Memory.TOKEN, region=Region.OUTPUT, offset=192, wait_vector=1, length=64),
        Descriptor(Opcode.END),
    ]


def regions():
    """Return the contents of every region: weights in range, biases small, activations and residual random."""
    rng = np.random.default_rng(1)
    params = np.zeros(16, PARAM_DTYPE)
    params["bias"] = rng.integers(-(1 << 15), 1 << 15, 16)
    params["mult"] = rng.integers(1 << 15, 1 << 16, 16)
    params["shift"] = 20
    weights = rng.integers(-127, 128, 64, dtype=np.int8).tobytes() + params.tobytes()
    return {
        Region.WEIGHTS: bytearray(weights.ljust(REGION_BYTES, b"\0")),
        Region.INPUT: bytearray(rng.bytes(REGION_BYTES)),
        Region.OUTPUT: bytearray(rng.bytes(REGION_BYTES)),
    }


def live_part(output):
    """Return the OUTPUT bytes that the program defines: all but the lane beyond the last token."""
    wide = np.frombuffer(output[:64], np.int16).reshape(-1, TINY.depth)
    act = np.frombuffer(output[64:128], np.int8).reshape(-1, TINY.depth)
    tokens = np.frombuffer(output[192:256], np.uint16)
    return (wide[:TOKENS].tolist(), act[:TOKENS].tolist(), tokens[:TOKENS].tolist(), output[256:])


def expected():
    """Return the machine's OUTPUT region; every row of every result is different, so that no mix-up goes unseen."""
    contents = regions()
    result = Machine(TINY).run(b"".join(descriptor.pack() for descriptor in program()), contents)
    assert result.error is ErrorCode.NONE
    output = bytes(contents[Region.OUTPUT])
    for rows in live_part(output)[:2]:
        assert len(set(map(tuple, rows))) == TOKENS
    return output


class Host:
    """The core with a host on its register port and a DDR on its memory ports."""

    def __init__(self, config, *, pause=0.0):
        self.config = config
        self.top = Top(config, Multiplier.BEHAVIOURAL)
        self.control = self._pins(CONTROL_PREFIX, axi_lite_signature())
        self.ddr = AxiMemory(bytearray(1 << 15), pause=pause)
        self.reset_ddr()

    def _pins(self, prefix, signature):
        return SimpleNamespace(**{name: getattr(self.top, prefix + name) for name in signature.members})

    def reset_ddr(self, descriptors=None):
        """Put the program and the regions into DDR."""
        data = b"".join(descriptor.pack() for descriptor in (program() if descriptors is None else descriptors))
        self.length = len(data) // 64
        self.ddr.data[PROGRAM : PROGRAM + len(data)] = data
        for region, contents in regions().items():
            self.ddr.data[BASES[region] : BASES[region] + REGION_BYTES] = contents

    @property
    def output(self):
        return bytes(self.ddr.data[BASES[Region.OUTPUT] : BASES[Region.OUTPUT] + REGION_BYTES])

    async def write(self, ctx, name, value):
        await lite_write(ctx, self.control, REGISTERS[name].offset, value)

    async def read(self, ctx, name):
        return await lite_read(ctx, self.control, REGISTERS[name].offset)

    async def start(self, ctx):
        await self.write(ctx, "PROGRAM_LO", PROGRAM)
        await self.write(ctx, "PROGRAM_LENGTH", self.length)
        for region, base in BASES.items():
            await self.write(ctx, f"{region.name}_LO", base)
            await self.write(ctx, f"{region.name}_SIZE", REGION_BYTES)
        await self.write(ctx, "CONTROL", Control.START | Control.IRQ_ENABLE)

    async def finish(self, ctx):
        """Wait for the interrupt and the end of the bus traffic; return (status, error, index)."""
        await ctx.tick().until(self.top.interrupt)
        while (status := await self.read(ctx, "STATUS")) & Status.DRAINING:
            pass
        return status, await self.read(ctx, "ERROR"), await self.read(ctx, "ERROR_INDEX")

    def simulate(self, testbench):
        simulator = Simulator(self.top)
        simulator.add_clock(1e-6)
        config = self.config
        for port in range(config.axi_ports):
            pins = self._pins(memory_prefix(port), axi4_signature(config.axi_bytes))
            simulator.add_testbench(
                axi_reads(pins, self.ddr, port, axi_bytes=config.axi_bytes, seed=port), background=True
            )
            simulator.add_testbench(
                axi_writes(pins, self.ddr, port, axi_bytes=config.axi_bytes, seed=9), background=True
            )
        simulator.add_testbench(testbench)
        simulator.run()


DONE = (Status.DONE, ErrorCode.NONE, 0)


def test_pins():
    top = Top(replace(TINY, axi_ports=2, axi_bytes=16), Multiplier.BEHAVIOURAL)
    pins = {name: (member.flow, member.shape) for name, member in top.signature.members.items()}
    assert pins["clk"] == pins["rst"] == (Flow.In, 1)
    assert pins["interrupt"] == (Flow.Out, 1)
    assert pins["s_axi_control_awaddr"] == (Flow.In, 12)
    assert pins["s_axi_control_rdata"] == (Flow.Out, 32)
    for port in range(2):
        assert pins[f"m_axi_gmem{port}_araddr"] == (Flow.Out, 40)
        assert pins[f"m_axi_gmem{port}_rdata"] == (Flow.In, 128)
        assert pins[f"m_axi_gmem{port}_wstrb"] == (Flow.Out, 16)
        assert pins[f"m_axi_gmem{port}_bready"] == (Flow.Out, 1)
    assert "m_axi_gmem2_araddr" not in pins
    Fragment.get(top, None)


@pytest.mark.slow
@pytest.mark.parametrize("ports, pause", [(1, 0.0), (2, 0.3)])
def test_program_of_every_unit(ports, pause):
    host = Host(replace(TINY, axi_ports=ports), pause=pause)

    async def testbench(ctx):
        await host.start(ctx)
        assert await host.finish(ctx) == DONE
        assert await host.read(ctx, "CYCLES") > 0
        for name in ("LOAD", "OPERAND", "GEMM", "VECTOR", "STORE"):
            assert 0 < await host.read(ctx, f"BUSY_{name}") < await host.read(ctx, "CYCLES")

    host.simulate(testbench)
    assert live_part(host.output) == live_part(expected())
    assert {port for port, _, _ in host.ddr.reads} == set(range(ports))


@pytest.mark.slow
def test_failures_and_the_runs_after_them():
    host = Host(TINY)
    outcomes = []

    async def good_run(ctx):
        host.reset_ddr()
        await host.start(ctx)
        assert await host.finish(ctx) == DONE
        outcomes.append(live_part(host.output))

    async def testbench(ctx):
        beyond = replace(program()[2], dst_base=TINY.weight_words - 1)
        host.reset_ddr([*program()[:2], beyond, *program()[3:]])
        await host.start(ctx)
        assert await host.finish(ctx) == (Status.ERROR, ErrorCode.BAD_ADDRESS, 2)
        await good_run(ctx)

        host.reset_ddr([*program()[:6], replace(program()[6], dst_base=TINY.wide_words - 2), *program()[7:]])
        await host.start(ctx)
        assert await host.finish(ctx) == (Status.ERROR, ErrorCode.BAD_ADDRESS, 6)
        await good_run(ctx)

        host.reset_ddr()
        host.ddr.read_errors = {BASES[Region.WEIGHTS] + 64}
        await host.start(ctx)
        assert await host.finish(ctx) == (Status.ERROR, ErrorCode.AXI_READ, 3)
        host.ddr.read_errors = set()
        await good_run(ctx)

        host.reset_ddr()
        host.ddr.write_errors = {BASES[Region.OUTPUT] + 64}
        await host.start(ctx)
        assert await host.finish(ctx) == (Status.ERROR, ErrorCode.AXI_WRITE, 12)
        host.ddr.write_errors = set()

        host.reset_ddr()
        await host.start(ctx)
        await ctx.tick().repeat(60)
        await host.write(ctx, "CONTROL", Control.ABORT | Control.IRQ_ENABLE)
        status, error, _ = await host.finish(ctx)
        assert (status, error) == (Status.ERROR, ErrorCode.ABORTED)
        await good_run(ctx)

    host.simulate(testbench)
    assert outcomes == [live_part(expected())] * 4


@pytest.mark.slow
def test_interrupt_needs_its_enable():
    host = Host(TINY)

    async def testbench(ctx):
        host.reset_ddr([Descriptor(Opcode.END)])
        await host.start(ctx)
        assert await host.finish(ctx) == DONE
        await host.write(ctx, "CONTROL", 0)
        assert not ctx.get(host.top.interrupt)
        await host.write(ctx, "CONTROL", Control.IRQ_ENABLE)
        assert ctx.get(host.top.interrupt)
        await host.write(ctx, "CONTROL", Control.START | Control.IRQ_ENABLE)
        assert not ctx.get(host.top.interrupt)
        await ctx.tick().until(host.top.interrupt)

    host.simulate(testbench)
