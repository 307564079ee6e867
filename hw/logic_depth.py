"""Logic depth of a mapped unit: the longest way from a register to a register, counted in cells.

A ranking, not a clock: no tool that is open knows the delays of UltraScale+ cells and wires, so each LUT, wide
multiplexer and carry block counts one, and the wires between them nothing. Registers, block RAMs, pipelined multipliers
and the unit's own ports are ends. Source of the cells: UltraScale Architecture Libraries Guide (UG974).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hw.synth_resources import SynthesisError

KINDS = {
    "LUT": re.compile(r"LUT[1-6]|INV"),
    "carry": re.compile(r"CARRY[48]"),
    "mux": re.compile(r"MUXF[789]"),
    "LUT RAM": re.compile(r"RAM\d+(M\d*|X1[SD])|SRLC?\d+E"),
    "DSP": re.compile(r"DSP48E2"),
}
"""Cells that a signal passes within a cycle, by what they are."""

ADDRESS_PORT = re.compile(r"ADDR\w*|DPRA\d*|A\d*")
"""Ports of a LUT RAM that its output follows; what is written waits for the clock."""

DSP_REGISTERS = ("MREG", "PREG")
"""A DSP48E2 with either has a register between its operands and its sum."""


@dataclass(frozen=True)
class LogicDepth:
    """The deepest path: cells by kind in the order of KINDS, and the signals at which it starts and ends."""

    cells: Mapping[str, int]
    start: str
    end: str

    @property
    def levels(self) -> int:
        """Cells on the path."""
        return sum(self.cells.values())


def logic_depth(netlist: Mapping[str, Any], top: str) -> LogicDepth:
    """Return the deepest path of a flat module in Yosys's JSON. Raises SynthesisError if there is a loop."""
    module = netlist["modules"][top]
    cells = {name: cell for name, cell in module["cells"].items() if _is_passed(cell)}
    driver = {bit: name for name, cell in cells.items() for bit in _bits(cell, "output")}
    sources = {name: list(dict.fromkeys(_followed(cell))) for name, cell in cells.items()}
    before = {name: {driver[bit] for bit in bits if bit in driver} for name, bits in sources.items()}
    behind = defaultdict(list)
    for name, names in before.items():
        for each in names:
            behind[each].append(name)

    waiting = {name: len(names) for name, names in before.items()}
    ready = [name for name, count in waiting.items() if count == 0]
    depth: dict[str, int] = {}
    while ready:
        name = ready.pop()
        depth[name] = 1 + max((depth[each] for each in before[name]), default=0)
        for each in behind[name]:
            waiting[each] -= 1
            if waiting[each] == 0:
                ready.append(each)
    if len(depth) != len(cells):
        raise SynthesisError(f"a combinational loop goes through {min(set(cells) - set(depth))}")
    if not depth:
        return LogicDepth(dict.fromkeys(KINDS, 0), "", "")

    last = max(depth, key=lambda name: (depth[name], name))
    path = [last]
    while before[path[-1]]:
        path.append(max(before[path[-1]], key=lambda name: (depth[name], name)))
    counts = dict.fromkeys(KINDS, 0)
    for name in path:
        counts[_kind(cells[name])] += 1
    signals = _signal_names(module)
    start = next((bit for bit in sources[path[-1]] if isinstance(bit, int)), None)
    end = next(_bits(cells[last], "output"), None)
    return LogicDepth(counts, signals.get(start, "a constant"), signals.get(end, "a port of a cell"))


def _is_passed(cell: Mapping[str, Any]) -> bool:
    """Tell whether a signal passes the cell within a cycle."""
    if cell["type"] != "DSP48E2":
        return any(pattern.fullmatch(cell["type"]) for pattern in KINDS.values())
    return not any(int(str(cell["parameters"].get(name, "1")), 2) for name in DSP_REGISTERS)


def _kind(cell: Mapping[str, Any]) -> str:
    return next(name for name, pattern in KINDS.items() if pattern.fullmatch(cell["type"]))


def _bits(cell: Mapping[str, Any], direction: str) -> Iterator[int | str]:
    for port, bits in cell["connections"].items():
        if cell["port_directions"][port] == direction:
            yield from bits


def _followed(cell: Mapping[str, Any]) -> Iterator[int | str]:
    """Yield the inputs that the cell's outputs follow."""
    is_memory = _kind(cell) == "LUT RAM"
    for port, bits in cell["connections"].items():
        if cell["port_directions"][port] == "input" and not (is_memory and not ADDRESS_PORT.fullmatch(port)):
            yield from bits


def _signal_names(module: Mapping[str, Any]) -> dict[int | str | None, str]:
    """Return a name of each bit: of several, one that the tool did not make up, nearest to the top."""
    names: dict[int | str | None, str] = {}
    ranked = sorted(
        module["netnames"].items(), key=lambda item: (item[1].get("hide_name", 0), item[0].count("."), item[0])
    )
    for name, net in ranked:
        for bit in net["bits"]:
            names.setdefault(bit, name)
    return names
