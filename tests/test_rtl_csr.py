"""Register file on AXI4-Lite against hw.regmap.

Testpoints: ID and hash; every register by its access kind: host registers keep what was written and reach the core,
core registers show the core's value and ignore writes; write strobes; CONTROL pulses START and ABORT for one cycle
and keeps IRQ_ENABLE; outside the map reads 0 and changes nothing; address and data in any order; stalled responses
hold and are not lost, and the next access waits for them.
"""

from random import Random

import pytest
from rtl_axi import lite_read as read
from rtl_axi import lite_write as write
from rtl_streams import run

from hw.config import CONFIGS
from hw.regmap import ADDRESS_BITS, ID_VALUE, REGISTERS, Access, Control
from hw.rtl.csr import INPUTS, OUTPUTS, Csr

CONFIG = CONFIGS["tiny"]


def simulate(testbench):
    """Run testbench(ctx, csr) with distinct values on all inputs."""
    csr = Csr(CONFIG)

    async def prepared(ctx):
        for index, name in enumerate(INPUTS):
            ctx.set(getattr(csr, name.lower()), 0xC0DE0000 + index)
        await testbench(ctx, csr)

    run(csr, prepared)


def test_every_register_is_covered():
    assert set(INPUTS) | set(OUTPUTS) | {"ID", "CONFIG_HASH", "CONTROL"} == set(REGISTERS)
    assert all(REGISTERS[name].access is Access.READ_ONLY for name in INPUTS)
    assert all(REGISTERS[name].access is Access.READ_WRITE for name in OUTPUTS)


@pytest.mark.parametrize("delay", [0, 3])
def test_identity_and_core_registers(delay):
    async def testbench(ctx, csr):
        assert await read(ctx, csr.bus, REGISTERS["ID"].offset, response_delay=delay) == ID_VALUE
        assert await read(ctx, csr.bus, REGISTERS["CONFIG_HASH"].offset, response_delay=delay) == CONFIG.hash32
        for index, name in enumerate(INPUTS):
            await write(ctx, csr.bus, REGISTERS[name].offset, 0xFFFFFFFF)
            assert await read(ctx, csr.bus, REGISTERS[name].offset, response_delay=delay) == 0xC0DE0000 + index
        await write(ctx, csr.bus, REGISTERS["ID"].offset, 0)
        assert await read(ctx, csr.bus, REGISTERS["ID"].offset) == ID_VALUE

    simulate(testbench)


@pytest.mark.parametrize("delays", [(0, 0, 0), (3, 0, 0), (0, 3, 0), (0, 0, 3), (2, 1, 2)])
def test_host_registers_keep_what_was_written(delays):
    random = Random(sum(delays))
    values = {name: random.getrandbits(32) for name in OUTPUTS}
    keys = ("address_delay", "data_delay", "response_delay")

    async def testbench(ctx, csr):
        for name, value in values.items():
            await write(ctx, csr.bus, REGISTERS[name].offset, value, **dict(zip(keys, delays, strict=True)))
        for name, value in values.items():
            assert await read(ctx, csr.bus, REGISTERS[name].offset) == value
            assert ctx.get(getattr(csr, name.lower())) == value

    simulate(testbench)


def test_write_strobes():
    async def testbench(ctx, csr):
        offset, value = REGISTERS["WATCHDOG"].offset, 0
        for strobe in range(16):
            await write(ctx, csr.bus, offset, 0x11111111 * strobe, strobe)
            mask = sum(0xFF << (8 * byte) for byte in range(4) if strobe >> byte & 1)
            value = (value & ~mask) | (0x11111111 * strobe & mask)
            assert await read(ctx, csr.bus, offset) == value
        await write(ctx, csr.bus, REGISTERS["CONTROL"].offset, Control.IRQ_ENABLE, 0b1110)
        assert await read(ctx, csr.bus, REGISTERS["CONTROL"].offset) == 0

    simulate(testbench)


@pytest.mark.parametrize("value", range(8))
def test_control(value):
    pulses = []
    csr = Csr(CONFIG)

    async def watch(ctx):
        async for _, _, start, abort in ctx.tick().sample(csr.start, csr.abort):
            pulses.append((start, abort))

    async def testbench(ctx):
        await write(ctx, csr.bus, REGISTERS["CONTROL"].offset, value)
        assert await read(ctx, csr.bus, REGISTERS["CONTROL"].offset) == value & Control.IRQ_ENABLE
        assert ctx.get(csr.irq_enable) == (value & Control.IRQ_ENABLE != 0)

    run(csr, testbench, backgrounds=[watch])
    expected = (value & Control.START != 0, value & Control.ABORT != 0)
    assert [pulse for pulse in pulses if any(pulse)] == [expected] * any(expected)


def test_outside_the_map():
    first = 4 * len(REGISTERS)

    async def testbench(ctx, csr):
        for offset in (first, first + 4, 1 << (ADDRESS_BITS - 1), (1 << ADDRESS_BITS) - 4):
            await write(ctx, csr.bus, offset, 0xFFFFFFFF)
            assert await read(ctx, csr.bus, offset) == 0
        for name in (*OUTPUTS, "CONTROL"):
            assert await read(ctx, csr.bus, REGISTERS[name].offset) == 0

    simulate(testbench)


def test_reads_without_a_pause():
    """A master that is always ready gets one value per cycle."""

    async def testbench(ctx, csr):
        ctx.set(csr.bus.rready, 1)
        ctx.set(csr.bus.arvalid, 1)
        values = []
        for name in INPUTS:
            ctx.set(csr.bus.araddr, REGISTERS[name].offset)
            await ctx.tick()
            assert ctx.get(csr.bus.rvalid)
            values.append(ctx.get(csr.bus.rdata))
        assert values == [0xC0DE0000 + index for index in range(len(INPUTS))]

    simulate(testbench)


def test_an_access_waits_for_the_response_before_it():
    async def testbench(ctx, csr):
        bus, watchdog = csr.bus, REGISTERS["WATCHDOG"].offset
        ctx.set(bus.awaddr, watchdog)
        ctx.set(bus.wdata, 1)
        ctx.set(bus.wstrb, 0b1111)
        ctx.set(bus.awvalid, 1)
        ctx.set(bus.wvalid, 1)
        await ctx.tick()
        ctx.set(bus.wdata, 2)
        for _ in range(3):
            assert (ctx.get(bus.bvalid), ctx.get(bus.awready), ctx.get(bus.wready)) == (1, 0, 0)
            assert ctx.get(csr.watchdog) == 1
            await ctx.tick()
        ctx.set(bus.awvalid, 0)
        ctx.set(bus.wvalid, 0)
        ctx.set(bus.bready, 1)
        ctx.set(bus.araddr, watchdog)
        ctx.set(bus.arvalid, 1)
        await ctx.tick()
        ctx.set(bus.araddr, REGISTERS["ID"].offset)
        for _ in range(3):
            assert (ctx.get(bus.rvalid), ctx.get(bus.arready), ctx.get(bus.rdata)) == (1, 0, 1)
            await ctx.tick()

    simulate(testbench)
