"""`heatvit compare`: rows, power model, sweep, and the file of assumptions.

Testpoints: energy is power over rate, labels tell measured from assumed; the model gives the anchor its own power,
static power stays at other clocks and busier resources cost more; the sweep multiplies power, energy falls with the
clock, cells know whether they are below the processor; RAPL counters that wrap, sub-zones, missing ones; assumptions
with a missing, unsourced, negative or unknown entry are told in one line; table, JSON and picture of the command.
"""

import json

import pytest

from heatvit import cli, compare
from heatvit.platforms import ASSUMPTIONS, load_platforms
from heatvit.rapl import PackagePower

SPEED = {
    "tokens": [197, 88, 45, 32],
    "threads": 1,
    "batch_1": {"dense_images_per_s": 10.0, "pruned_images_per_s": 20.0},
    "batch_32": {"dense_images_per_s": 40.0, "pruned_images_per_s": 80.0},
}
PLATFORMS = load_platforms()


class Cycles:
    """What the cycle model would return."""

    cycles = 500_000


@pytest.fixture
def fixed(monkeypatch):
    """Replace measurement, package counters and cycle model by numbers; return a setter of the package power."""
    monkeypatch.setattr(compare, "bench_torch", lambda *_: SPEED)
    monkeypatch.setattr(compare, "estimate_network", lambda *_: Cycles)
    power = [None]
    monkeypatch.setattr(PackagePower, "mean_w", lambda self: power[0])
    return lambda watts: power.__setitem__(0, watts)


def run():
    return compare.compare_platforms("deit_tiny", [88, 45, 32], PLATFORMS, lambda *_: None)


def test_processor_rows(fixed):
    rows = run()["rows"]
    assert [row["energy_mj"] for row in rows[:4]] == pytest.approx([6500, 3250, 1625, 812.5])
    assert rows[3]["latency_ms"] == pytest.approx(400) and rows[3]["pictures_per_s"] == 80
    assert {(row["time"], row["power"]) for row in rows[:4]} == {("measured", "assumed")}
    fixed(20.0)
    rows = run()["rows"]
    assert rows[0]["energy_mj"] == pytest.approx(2000) and rows[0]["power"] == "measured"


def test_fpga_rows(fixed):
    rows = run()["rows"][4:]
    assert len(rows) == 4 and {row["power"] for row in rows} == {"modelled, assumed"}
    assert all("assumed" in row["time"] for row in rows)
    for row in rows:
        assert row["latency_ms"] == pytest.approx(500_000 / 200e3)
        assert row["energy_mj"] == pytest.approx(row["power_w"] * row["latency_ms"])


def test_power_model():
    anchored = load_platforms()
    resources = {"anchor": {name: anchored.anchor[name] for name in ("dsp", "lut", "ff", "bram36")}}
    object.__setattr__(anchored, "resources", {**anchored.resources, **resources})
    assert anchored.fpga_w("anchor", anchored.anchor["clock_mhz"]) == pytest.approx(anchored.anchor["power_w"])
    dynamic = anchored.anchor["power_w"] - anchored.fpga_static_w
    assert anchored.fpga_w("anchor", 300) == pytest.approx(anchored.fpga_static_w + 2 * dynamic)
    assert anchored.fpga_w("zcu102_4096", 200) > anchored.fpga_w("zcu102_2048", 200) > anchored.fpga_static_w


def test_sweep(fixed):
    sweep = run()["sweep"]
    assert len(sweep) == 4 * len(PLATFORMS.clocks_mhz) * len(PLATFORMS.power_factors)
    cells = {(case["platform"], case["clock_mhz"], case["power_factor"]): case["energy_mj"] for case in sweep}
    name = "zcu102_2048, W8A8, pruned"
    assert cells[name, 200, 1.5] == pytest.approx(3 * cells[name, 200, 0.5])
    assert cells[name, 150, 1.0] > cells[name, 300, 1.0]
    assert all(case["is_below_processor"] for case in sweep)
    fixed(1e-3)
    assert not any(case["is_below_processor"] for case in run()["sweep"])


def test_package_counters(tmp_path):
    for name, energy in (("intel-rapl:0", 90), ("intel-rapl:1", 10), ("intel-rapl:0:0", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(str(energy))
        (tmp_path / name / "max_energy_range_uj").write_text("99")
    power = PackagePower(tmp_path)
    power._seconds -= 1e3  # as if the run had taken that long
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("20")  # wrapped: 30 used
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("30")
    assert power.mean_w() == pytest.approx(50e-6 / 1e3, rel=1e-3)
    (tmp_path / "intel-rapl:1" / "energy_uj").unlink()
    assert power.mean_w() is None and PackagePower(tmp_path / "none").mean_w() is None


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("clock_mhz", None, "'clock_mhz' is missing or unknown"),
        ("clock_hz", {"value": 1, "source": "x"}, "'clock_hz' is missing or unknown"),
        ("clock_mhz", {"value": 200, "source": ""}, "clock_mhz must have a value and a source"),
        ("cpu_package_w", {"value": -5, "source": "x"}, "cpu_package_w must be a positive number, not -5"),
        ("relative_power", {"value": {"dsp": 1}, "source": "x"}, "incomplete or of a wrong type: 'lut'"),
        ("fpga_static_w", {"value": 30, "source": "x"}, "anchor.power_w must be above fpga_static_w"),
    ],
)
def test_wrong_assumptions(tmp_path, capsys, name, value, text):
    settings = json.loads(ASSUMPTIONS.read_text())
    settings.pop(name, None)
    if value is not None:
        settings[name] = value
    path = tmp_path / "own.json"
    path.write_text(json.dumps(settings))
    assert cli.main(["compare", "--assumptions", str(path)]) == 2
    assert text in capsys.readouterr().err


def test_command(fixed, tmp_path, capsys):
    svg, path = tmp_path / "energy.svg", tmp_path / "compare.json"
    assert cli.main(["compare", "--svg", str(svg), "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert set(result["assumptions"]["sources"]) == set(json.loads(ASSUMPTIONS.read_text()))
    assert len(result["rows"]) == 8 and result["cycles"]["zcu102_4096, W8A8, dense"] == 500_000
    assert svg.read_text().count("<polyline") == 5
    printed = " ".join(capsys.readouterr().out.split())
    assert len(compare.sweep_rows(result)) == 4 * len(PLATFORMS.clocks_mhz) and "at 3 of 3 powers" in printed
    assert "no board ran" in printed and "measured" in printed and "assumed" in printed
