"""The manifest beside a bitstream: which core it holds, from which Verilog, by which tool, and how it met its clock.

Imports: the standard library and hw.config, so that it also runs on the board.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hw.config import AccelConfig

MANIFEST_NAME = "manifest.json"
"""A bitstream's folder holds one."""

SIMULATED_TOOL = "simulated"
"""The tool of an overlay whose core runs in a simulator."""

UTILISATION = ("dsp", "lut", "ff", "bram36")
"""What a routed design reports: DSP48E2, LUTs, flip-flops, block RAMs of 36 Kbit."""


@dataclass(frozen=True)
class Manifest:
    """What is known of a bitstream.

    config is the core's; verilog_sha256 the digest of hw.generate (64 hexadecimal digits); vlnv what a driver binds to;
    tool such as "Vivado 2024.1" or SIMULATED_TOOL; clock_mhz what the core runs at. worst_slack_ns is that of all setup
    and hold paths after routing, None where nothing was routed; utilisation holds UTILISATION or nothing.
    Raises ValueError naming what is wrong.
    """

    config: AccelConfig
    verilog_sha256: str
    vlnv: str
    tool: str
    clock_mhz: float
    worst_slack_ns: float | None = None
    utilisation: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        digest = self.verilog_sha256
        if not isinstance(digest, str) or len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise ValueError(f"verilog_sha256 must be 64 lower-case hexadecimal digits, not {digest!r}")
        if not isinstance(self.vlnv, str) or len([part for part in self.vlnv.split(":") if part]) != 4:
            raise ValueError(f"vlnv must be vendor:library:name:version, not {self.vlnv!r}")
        if not isinstance(self.tool, str) or not self.tool:
            raise ValueError(f"tool must be a name, not {self.tool!r}")
        if not _is_number(self.clock_mhz) or self.clock_mhz <= 0:
            raise ValueError(f"clock_mhz must be a positive number, not {self.clock_mhz!r}")
        if self.worst_slack_ns is not None and not _is_number(self.worst_slack_ns):
            raise ValueError(f"worst_slack_ns must be a number or null, not {self.worst_slack_ns!r}")
        if not isinstance(self.utilisation, Mapping) or set(self.utilisation) not in (set(), set(UTILISATION)):
            raise ValueError(f"utilisation must have {', '.join(UTILISATION)} or nothing, not {self.utilisation!r}")
        for name, value in self.utilisation.items():
            if not _is_number(value) or value < 0:
                raise ValueError(f"utilisation of {name} must be a number from 0, not {value!r}")

    @property
    def config_hash(self) -> str:
        """What the CONFIG_HASH register of the core reads, as 0x and eight digits."""
        return f"0x{self.config.hash32:08x}"

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of the file as plain JSON types."""
        return {
            "config": self.config.to_dict(),
            "config_hash": self.config_hash,
            "verilog_sha256": self.verilog_sha256,
            "vlnv": self.vlnv,
            "tool": self.tool,
            "clock_mhz": self.clock_mhz,
            "worst_slack_ns": self.worst_slack_ns,
            "utilisation": dict(self.utilisation),
        }

    @classmethod
    def from_dict(cls, values: Any) -> Manifest:
        """Inverse of to_dict. Raises ValueError naming an unknown, missing or wrong field."""
        if not isinstance(values, dict):
            raise ValueError(f"a manifest must be a JSON object, not {values!r}")
        names = {field.name for field in fields(cls)} | {"config_hash"}
        if missing := sorted(names - set(values)):
            raise ValueError(f"{missing[0]} is missing")
        if unknown := sorted(set(values) - names):
            raise ValueError(f"unknown field {unknown[0]!r}, allowed: {', '.join(sorted(names))}")
        if not isinstance(values["config"], dict):
            raise ValueError(f"config must be a JSON object, not {values['config']!r}")
        config = AccelConfig.from_dict(values["config"])
        rest = {name: value for name, value in values.items() if name not in ("config", "config_hash")}
        manifest = cls(config=config, **rest)
        if values["config_hash"] != manifest.config_hash:
            raise ValueError(
                f"config_hash must be {manifest.config_hash} for its config, not {values['config_hash']!r}"
            )
        return manifest

    def save(self, path: Path) -> None:
        """Write the file. Raises OSError."""
        path.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a file. Raises OSError if it cannot be read, ValueError naming the file and what is wrong in it."""
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:  # not UTF-8, no JSON, or not a manifest
            raise ValueError(f"{path}: {error}") from error


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
