"""Assumptions of the platform comparison, from one file, and the power model that they make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.recipe import read_settings

ASSUMPTIONS = Path(__file__).parents[1] / "configs" / "platforms.json"
RESOURCES = ("dsp", "lut", "ff", "bram36")


@dataclass(frozen=True)
class Platforms:
    """Numbers that no run here can give. Power in W, clocks in MHz.

    anchor: a published accelerator's power, clock and resources. relative_power: of one busy resource. resources: of
    each accelerator by the name of its config. sources: where each number comes from, by its name.
    """

    clock_mhz: float
    clocks_mhz: tuple[float, ...]
    power_factors: tuple[float, ...]
    cpu_package_w: float
    fpga_static_w: float
    anchor: Mapping[str, float]
    relative_power: Mapping[str, float]
    resources: Mapping[str, Mapping[str, float]]
    sources: Mapping[str, str]

    def fpga_w(self, config: str, clock_mhz: float) -> float:
        """Return static power plus the anchor's dynamic power, scaled by weighted resources and by the clock."""
        dynamic = self.anchor["power_w"] - self.fpga_static_w
        scale = self._weight(self.resources[config]) / self._weight(self.anchor)
        return self.fpga_static_w + dynamic * scale * clock_mhz / self.anchor["clock_mhz"]

    def _weight(self, resources: Mapping[str, float]) -> float:
        return sum(self.relative_power[name] * resources[name] for name in RESOURCES)


def load_platforms(path: Path = ASSUMPTIONS) -> Platforms:
    """Read a file of {name: {value, source}}. Raises ValueError naming what is missing, unknown or wrong."""
    settings = read_settings(path)
    names = [name for name in Platforms.__dataclass_fields__ if name != "sources"]
    if wrong := sorted(set(names) ^ set(settings)):
        raise ValueError(f"{path}: {wrong[0]!r} is missing or unknown, needed: {', '.join(names)}")
    values: dict[str, Any] = {}
    for name in names:
        entry = settings[name]
        if not isinstance(entry, dict) or not {"value", "source"} <= set(entry) or not entry["source"]:
            raise ValueError(f"{path}: {name} must have a value and a source, not {entry!r}")
        values[name] = tuple(entry["value"]) if isinstance(entry["value"], list) else entry["value"]
    shapes = {"anchor": ("power_w", "clock_mhz", *RESOURCES), "relative_power": RESOURCES}
    try:
        tables = {name: (values[name], keys) for name, keys in shapes.items()}
        tables |= {f"resources.{name}": (table, RESOURCES) for name, table in values["resources"].items()}
        for name, (table, keys) in tables.items():
            for key in keys:
                _check(path, f"{name}.{key}", table[key])
        for name in ("clock_mhz", "cpu_package_w", "fpga_static_w"):
            _check(path, name, values[name])
        for name in ("clocks_mhz", "power_factors"):
            for value in values[name]:
                _check(path, name, value)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: a table is incomplete or of a wrong type: {error}") from error
    if values["anchor"]["power_w"] <= values["fpga_static_w"]:
        raise ValueError(f"{path}: anchor.power_w must be above fpga_static_w, not {values['anchor']['power_w']!r}")
    return Platforms(**values, sources={name: settings[name]["source"] for name in names})


def _check(path: Path, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"{path}: {name} must be a positive number, not {value!r}")
