"""Units of the accelerator for synthesis: the Verilog of each on its own, with the units inside it as black boxes.

A unit is synthesized once however often it occurs, and its text changes only when it does: module names carry the
place of the unit in the hierarchy and numbers of the whole file, and both are taken out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hw.rtl.modules import RAM_MODULE, TOP_MODULE

INNER_UNITS = ("array", "drain", "activation", "layer_norm", "softmax", "select", "compact", "sigmoid")
"""Units below the instances of the top, by the last part of their place in the hierarchy."""

SELECTOR_UNITS = ("select", "compact", "sigmoid")
"""What an accelerator without token selectors would leave out: decision, move, and the sigmoid of the scores.

BEGIN and the live count, a few registers, belong to compact and are counted with it; the opcodes' share of
multiplexers and of the command decoders is not.
"""

UNIT_NAME = "unit"
"""What a unit's top module is called in its text."""

_MODULE = re.compile(r"^module (\\\S+|\w+)\s*[(#].*?^endmodule\n", re.MULTILINE | re.DOTALL)
_INSTANCE = re.compile(r"^ +(\\\S+|[A-Za-z]\w*) +(?:#\(|\S+ *\()", re.MULTILINE)
_HEADER = re.compile(r".*?;", re.DOTALL)
_PORT = re.compile(r"^ *(?:input|output)\b.*;\n", re.MULTILINE)
_PARAMETER = re.compile(r"\.(\w+)\(32'd(\d+)\)")
_FILE_COUNTER = re.compile(r"(dump_module\$)\d+")


@dataclass(frozen=True)
class VerilogModule:
    """One module of a design: its text and how often it instantiates each other module of the design."""

    name: str
    text: str
    children: Mapping[str, int]

    @property
    def stub(self) -> str:
        """The module without its contents: what a tool needs to know of a black box."""
        header = _HEADER.match(self.text)
        assert header is not None
        return header[0] + "\n" + "".join(_PORT.findall(self.text[header.end() :])) + "endmodule\n"


@dataclass(frozen=True)
class SynthesisUnit:
    """A unit to synthesize: Verilog text whose top module is UNIT_NAME, except for a RAM.

    name: place in the hierarchy. count: occurrences in the accelerator. stubs: text of the black boxes. inside: how
    often each black box, by module name, occurs in one unit. parameters: of RAM_MODULE, for one part of a memory.
    """

    name: str
    count: int
    text: str
    stubs: str
    inside: Mapping[str, int]
    parameters: Mapping[str, int]

    @property
    def is_selector(self) -> bool:
        """Whether only token selection uses it."""
        return _last_part(self.name) in SELECTOR_UNITS


def read_modules(texts: Sequence[str]) -> dict[str, VerilogModule]:
    """Return the modules of Verilog text as Yosys writes it (and of ram.v), by name without escape."""
    found = {match[1].lstrip("\\"): match[0] for text in texts for match in _MODULE.finditer(text)}
    modules = {}
    for name, text in found.items():
        types = Counter(match[1].lstrip("\\") for match in _INSTANCE.finditer(text))
        children = {child: count for child, count in types.items() if child in found}
        modules[name] = VerilogModule(name, _FILE_COUNTER.sub(r"\g<1>0", text), children)
    return modules


def find_units(modules: Mapping[str, VerilogModule]) -> list[SynthesisUnit]:
    """Split a core into units: the top, its instances, INNER_UNITS, the separate modules and one part of each memory.

    Raises ValueError if a unit of INNER_UNITS does not exist.
    """
    tops = _unit_modules(modules)
    missing = set(INNER_UNITS) - set(map(_last_part, tops))
    if missing:
        raise ValueError(f"no unit is called {', '.join(sorted(missing))}")
    inside = {name: _closure(modules, name, tops) for name in tops}
    counts = _count_units(inside)
    units = []
    for name in tops:
        own, boxes = inside[name]
        if RAM_MODULE in modules[name].children:
            units.append(_memory_part(modules, name, counts[name]))
            continue
        text = _renamed("".join(modules[module].text for module in sorted(own)), name)
        stubs = _renamed("".join(modules[box].stub for box in sorted(boxes)), name)
        inside_one = {_renamed(f"{box} ", name).strip().lstrip("\\"): number for box, number in boxes.items()}
        units.append(SynthesisUnit(_place(name), counts[name], text, stubs, inside_one, {}))
    return units


def _unit_modules(modules: Mapping[str, VerilogModule]) -> list[str]:
    """Return the names of the modules that are the tops of units, in the order of the design's text."""
    instances = modules[TOP_MODULE].children
    memories = [name for name, module in modules.items() if RAM_MODULE in module.children]
    separate = [name for name in modules if "." not in name and name != RAM_MODULE]
    inner = [name for name in modules if _last_part(name) in INNER_UNITS]
    wanted = {*instances, *memories, *separate, *inner}
    return [name for name in modules if name in wanted]


def _place(name: str) -> str:
    """Return the place of a module in the hierarchy: heatvit_core.gemm_unit.array is gemm_unit.array."""
    if name == TOP_MODULE:
        return "top"
    return name.removeprefix(f"{TOP_MODULE}.").removeprefix("heatvit_")


def _last_part(name: str) -> str:
    return name.rpartition(".")[2]


def _closure(modules: Mapping[str, VerilogModule], top: str, tops: Sequence[str]) -> tuple[Counter[str], Counter[str]]:
    """Return how often one unit holds each of its own modules, and each other unit."""
    own, boxes = Counter({top: 1}), Counter[str]()
    waiting = [top]
    while waiting:
        for child, count in modules[waiting.pop()].children.items():
            if child in tops:
                boxes[child] += count
            elif child != RAM_MODULE:
                # Amaranth writes a module for every instance, so that below a unit each occurs once.
                assert count == 1 and child not in own
                own[child] = 1
                waiting.append(child)
    return own, boxes


def _count_units(inside: Mapping[str, tuple[Counter[str], Counter[str]]]) -> dict[str, int]:
    """Return how often each unit occurs in the whole design."""

    def count(name: str) -> int:
        if name == TOP_MODULE:
            return 1
        return sum(boxes[name] * count(parent) for parent, (_, boxes) in inside.items() if boxes[name])

    return {name: count(name) for name in inside}


def _memory_part(modules: Mapping[str, VerilogModule], name: str, count: int) -> SynthesisUnit:
    """Return one part of a memory: its write enables cut it into equal RAMs, of which one tells the cost of all."""
    values = {key: int(value) for key, value in _PARAMETER.findall(modules[name].text)}
    enables = values["ENABLES"]
    values |= {"WIDTH": values["WIDTH"] // enables, "ENABLES": 1}
    return SynthesisUnit(_place(name), count * enables, modules[RAM_MODULE].text, "", {}, values)


def _renamed(text: str, name: str) -> str:
    """Replace the name of a unit's top, which begins the names of its own modules too, by UNIT_NAME."""
    pattern = re.compile(rf"\\?{re.escape(name)}(\.|(?![\w$.]))")
    return pattern.sub(lambda match: f"\\{UNIT_NAME}." if match[1] else UNIT_NAME, text)
