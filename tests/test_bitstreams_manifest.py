"""The manifest of a bitstream: one file, read back as it was written, and refused when it is not one.

Testpoints: round trip, built and simulated; the hash is the register's; every wrong value, a missing and an unknown
field, a config that does not fit its hash, no JSON, no UTF-8 and no object are told with the file's name.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bitstreams.manifest import MANIFEST_NAME, SIMULATED_TOOL, Manifest
from hw.config import CONFIGS
from hw.overlay import CLOCK_MHZ, VLNV

TINY = CONFIGS["tiny"]
SIMULATED = Manifest(TINY, "0" * 64, VLNV, SIMULATED_TOOL, CLOCK_MHZ)
USED = {"dsp": 70, "lut": 1000, "ff": 2000, "bram36": 12.5}
BUILT = replace(SIMULATED, tool="Vivado 2024.1", worst_slack_ns=0.125, utilisation=USED)


@pytest.mark.parametrize("manifest", [SIMULATED, BUILT], ids=["simulated", "built"])
def test_round_trip(manifest: Manifest, tmp_path: Path) -> None:
    manifest.save(tmp_path / MANIFEST_NAME)
    assert Manifest.load(tmp_path / MANIFEST_NAME) == manifest


def test_fields_of_the_file(tmp_path: Path) -> None:
    BUILT.save(tmp_path / MANIFEST_NAME)
    assert json.loads((tmp_path / MANIFEST_NAME).read_text()) == {
        "config": TINY.to_dict(),
        "config_hash": f"0x{TINY.hash32:08x}",
        "verilog_sha256": "0" * 64,
        "vlnv": VLNV,
        "tool": "Vivado 2024.1",
        "clock_mhz": CLOCK_MHZ,
        "worst_slack_ns": 0.125,
        "utilisation": USED,
    }


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("config", [], "config must be a JSON object, not []"),
        ("config", {**TINY.to_dict(), "rows": 3}, "rows must be a power of two in 2..16, not 3"),
        ("config_hash", "0x00000000", f"config_hash must be 0x{TINY.hash32:08x} for its config, not '0x00000000'"),
        ("verilog_sha256", "0" * 63 + "G", "verilog_sha256 must be 64 lower-case hexadecimal digits, not "),
        ("verilog_sha256", None, "verilog_sha256 must be 64 lower-case hexadecimal digits, not None"),
        ("vlnv", "a:b:c", "vlnv must be vendor:library:name:version, not 'a:b:c'"),
        ("tool", "", "tool must be a name, not ''"),
        ("clock_mhz", 0, "clock_mhz must be a positive number, not 0"),
        ("clock_mhz", True, "clock_mhz must be a positive number, not True"),
        ("clock_mhz", float("nan"), "clock_mhz must be a positive number, not nan"),
        ("worst_slack_ns", "0.1", "worst_slack_ns must be a number or null, not '0.1'"),
        ("utilisation", {"dsp": 1}, "utilisation must have dsp, lut, ff, bram36 or nothing, not {'dsp': 1}"),
        ("utilisation", {**USED, "lut": -1}, "utilisation of lut must be a number from 0, not -1"),
        ("colour", 1, "unknown field 'colour', allowed: "),
    ],
)
def test_wrong_values_are_refused(name: str, value: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_text(json.dumps({**BUILT.to_dict(), name: value}))
    with pytest.raises(ValueError) as error:
        Manifest.load(path)
    assert str(error.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize("name", BUILT.to_dict())
def test_missing_field_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} is missing$"):
        Manifest.from_dict({key: value for key, value in BUILT.to_dict().items() if key != name})


@pytest.mark.parametrize("contents", [b"", b"{", b"[]", b"\xff"], ids=["empty", "cut off", "list", "no UTF-8"])
def test_other_files_are_refused(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_NAME
    path.write_bytes(contents)
    with pytest.raises(ValueError) as error:
        Manifest.load(path)
    assert str(error.value).startswith(f"{path}: ")
