"""Accelerator geometry: one frozen, validated, hashed config for RTL, compiler, driver and reports."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any


def _is_power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True)
class AccelConfig:
    """Sizes of one accelerator; docs/architecture.md explains each memory.

    rows R token rows, columns C output channels, depth K dot-product depth: R*C*K MACs per cycle. R divides K and
    K divides C, all powers of two, R >= 2 (a DSP serves a pair of rows). *_words are memory depths in that memory's
    own words; max_tokens bounds the token count of a picture, pictures how many of them one program may work on.
    axi_bytes is the width of each of axi_ports AXI4 masters.
    """

    rows: int
    columns: int
    depth: int
    act_words: int
    wide_words: int
    weight_words: int
    param_words: int
    max_tokens: int
    pictures: int = 1
    axi_bytes: int = 16
    axi_ports: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"{field.name} must be an integer, not {value!r}")
        for name, low, high in (("rows", 2, 16), ("columns", 4, 64), ("depth", 2, 16), ("axi_bytes", 4, 16)):
            value = getattr(self, name)
            if not (_is_power_of_two(value) and low <= value <= high):
                raise ValueError(f"{name} must be a power of two in {low}..{high}, not {value!r}")
        if self.depth % self.rows or self.columns % self.depth:
            raise ValueError(
                f"rows must divide depth and depth must divide columns, not {self.rows} x {self.columns} x {self.depth}"
            )
        for name in ("act_words", "wide_words", "weight_words", "param_words"):
            value = getattr(self, name)
            if not 16 <= value <= 65535:
                raise ValueError(f"{name} must be in 16..65535, not {value!r}")
        if not 2 <= self.max_tokens <= 256:
            raise ValueError(f"max_tokens must be in 2..256, not {self.max_tokens!r}")
        if not 1 <= self.pictures <= 8:
            raise ValueError(f"pictures must be in 1..8, not {self.pictures!r}")
        if not 1 <= self.axi_ports <= 4:
            raise ValueError(f"axi_ports must be in 1..4, not {self.axi_ports!r}")

    @property
    def macs(self) -> int:
        """Multiply-accumulates per cycle of the gemm array."""
        return self.rows * self.columns * self.depth

    @property
    def row_tiles(self) -> int:
        """Row tiles of a full token set; the row-scale memory has this many entries per buffer."""
        return -(-self.max_tokens // self.rows)

    @property
    def row_scale_words(self) -> int:
        """Entries of the row-scale memory: two sets, so that a head's softmax runs while the last head's AV reads."""
        return 2 * self.row_tiles

    @property
    def token_stride(self) -> int:
        """Words of TOKEN from the list of one picture to the next: a power of two of whole 64-byte blocks."""
        return max(1 << (self.max_tokens - 1).bit_length(), 32)

    @property
    def token_words(self) -> int:
        """Words of the TOKEN memory: a list for each picture."""
        return self.pictures * self.token_stride

    @property
    def act_bytes(self) -> int:
        """Bytes of one ACT word: R lanes of K int8."""
        return self.rows * self.depth

    @property
    def wide_bytes(self) -> int:
        """Bytes of one WIDE word: R lanes of K int16."""
        return 2 * self.rows * self.depth

    @property
    def weight_bytes(self) -> int:
        """Bytes of one WEIGHT word: C columns of K int8."""
        return self.columns * self.depth

    @property
    def param_bytes(self) -> int:
        """Bytes of one PARAM word: K entries of 8 bytes."""
        return 8 * self.depth

    def to_dict(self) -> dict[str, int]:
        """Return the fields as plain integers."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AccelConfig:
        """Inverse of to_dict. Raises ValueError naming an unknown or missing field."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"unknown config field {unknown[0]!r}, allowed: {', '.join(sorted(known))}")
        try:
            return cls(**values)
        except TypeError as error:
            raise ValueError(f"config is incomplete: {error}") from error

    @property
    def hash32(self) -> int:
        """First 32 bits of the SHA-256 of the canonical JSON; the CONFIG_HASH register holds it."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return int.from_bytes(hashlib.sha256(canonical.encode()).digest()[:4], "big")


CONFIGS: dict[str, AccelConfig] = {
    # Few multipliers: unit tests and the end-to-end corner cases.
    "tiny": AccelConfig(
        rows=2,
        columns=8,
        depth=4,
        act_words=4096,
        wide_words=4096,
        weight_words=2048,
        param_words=512,
        max_tokens=64,
        pictures=4,
        axi_bytes=8,
    ),
    # The demo: 256 MACs, large enough to show tiling, small enough to build in a minute.
    "demo": AccelConfig(
        rows=4,
        columns=8,
        depth=8,
        act_words=4096,
        wide_words=4096,
        weight_words=2048,
        param_words=256,
        max_tokens=64,
        pictures=4,
    ),
    # The smallest array, with memories for the demo's network: what an ECP5 is filled with.
    "ecp5": AccelConfig(
        rows=2,
        columns=4,
        depth=2,
        act_words=4096,
        wide_words=4096,
        weight_words=1024,
        param_words=256,
        max_tokens=64,
        axi_bytes=4,
    ),
    # ZCU102 (912 BRAM36): 2048 MACs, 785 blocks of memory at 4 KiB each; DeiT-Tiny in batches of 8, DeiT-Base in ones.
    "zcu102_2048": AccelConfig(
        rows=8,
        columns=32,
        depth=8,
        act_words=12288,
        wide_words=6144,
        weight_words=6144,
        param_words=1024,
        max_tokens=256,
        pictures=8,
        axi_ports=4,
    ),
    # The same memories in words twice as wide: 4096 MACs, the cheapest array of that size.
    "zcu102_4096": AccelConfig(
        rows=8,
        columns=32,
        depth=16,
        act_words=6144,
        wide_words=3072,
        weight_words=3072,
        param_words=512,
        max_tokens=256,
        pictures=8,
        axi_ports=4,
    ),
}


def load_config(name_or_path: str) -> AccelConfig:
    """Return a named config, or read one from a JSON file. Raises ValueError naming what is allowed."""
    if name_or_path in CONFIGS:
        return CONFIGS[name_or_path]
    path = Path(name_or_path)
    if path.suffix != ".json" or not path.is_file():
        raise ValueError(f"config must be one of {', '.join(CONFIGS)} or a .json file, not {name_or_path!r}")
    try:
        values = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"config file {name_or_path!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"config file {name_or_path!r} must hold a JSON object")
    return AccelConfig.from_dict(values)
