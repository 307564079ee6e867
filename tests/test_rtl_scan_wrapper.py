"""Scan wrapper: every input and output of a core hangs on the chain.

Testpoints: the pins of an accelerator but clock and reset, each once; simulated, with a core that copies its inputs,
bits shifted in reach the inputs in order, capture holds one moment and comes out lowest output first.
"""

from amaranth.back import verilog
from amaranth.hdl import Module
from amaranth.lib.wiring import Flow, In, Out, Signature
from amaranth.sim import Simulator

from hw.config import CONFIGS
from hw.rtl import scan_wrapper
from hw.rtl.scan_wrapper import CLOCK, RESET, ScanWrapper
from hw.rtl.top import top_signature

SMALL = Signature({"clk": In(1), "rst": In(1), "a": In(3), "b": In(5), "y": Out(8)})


def test_pins_of_an_accelerator():
    signature = top_signature(CONFIGS["tiny"])
    wrapper = ScanWrapper("heatvit_core", signature)
    assert not set(wrapper.inputs) & set(wrapper.outputs)
    assert {*wrapper.inputs, *wrapper.outputs, CLOCK, RESET} == set(signature.members)
    assert all((signature.members[name].flow is Flow.In) == (name in wrapper.inputs) for name in signature.members
               if name not in (CLOCK, RESET))  # fmt: skip
    assert wrapper.outputs["interrupt"] == 1 and "m_axi_gmem0_rdata" in wrapper.inputs
    assert "heatvit_core" in verilog.convert(wrapper, name="chip", emit_src=False)


def test_bits_go_in_and_come_out(monkeypatch):
    ports = {}

    def instance(module, **pins):
        ports.update(pins)
        return Module()  # a core without contents: the bench plays it

    monkeypatch.setattr(scan_wrapper, "Instance", instance)
    wrapper = ScanWrapper("core", SMALL)
    bits = [1, 0, 1, 1, 0, 0, 1, 0]
    seen = []

    async def bench(ctx):
        for index in range(20):
            ctx.set(wrapper.scan_in, bits[index] if index < len(bits) else 0)
            if index == 9:  # one register in front of the chain: all eight bits are in
                value = ctx.get(ports["i_a"]) | ctx.get(ports["i_b"]) << 3
                assert value == sum(bit << (7 - place) for place, bit in enumerate(bits))
            ctx.set(ports["o_y"], 0xA6 if index == 3 else 0)
            ctx.set(wrapper.capture, index == 3)
            await ctx.tick()
            if index >= 4:
                seen.append(ctx.get(wrapper.scan_out))

    simulator = Simulator(wrapper)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    assert seen[:8] == [0xA6 >> place & 1 for place in range(8)] and not any(seen[8:])
