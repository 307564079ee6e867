"""`heatvit cycles`: the table says that it is an estimate, the JSON holds the parts, bad counts are refused.

Testpoints: parts and layers add up; one line for tokens that are no counts or too few, and a network that does not fit.
"""

import json

import pytest

from heatvit import cli
from hw.config import CONFIGS
from hw.isa import Unit
from hw.latency import estimate_network
from hw.memory_model import MemoryModel
from model.config import NETWORKS


def test_json_and_table(tmp_path, capsys):
    path = tmp_path / "cycles.json"
    arguments = ["--network", "digits", "--config", "demo", "--tokens", "30,12", "--table", "12,30"]
    assert cli.main(["cycles", *arguments, "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "cycle model estimate, no RTL was run" in printed and "blocks.3" in printed and "gemm busy" in printed
    result = json.loads(path.read_text())
    expected = estimate_network(NETWORKS["digits"], CONFIGS["demo"], MemoryModel(), [30, 12])
    assert result["cycles"] == expected.cycles and result["layers"] == expected.layers
    assert sum(result["parts"].values()) == result["cycles"] and result["tokens"] == [50, 30, 12]
    assert result["utilisation"] == round(expected.macs / 256 / expected.cycles, 4)
    assert result["fps_at_an_assumed_clock"]["250 MHz"] == round(250e6 / expected.cycles, 1)
    assert [row["tokens"] for row in result["latency_table"]] == [12, 30]
    assert result["units"]["gemm"]["busy"] == expected.units[Unit.GEMM].busy


def test_dense_network_has_no_selectors(tmp_path):
    path = tmp_path / "cycles.json"
    assert cli.main(["cycles", "--network", "digits", "--config", "demo", "--json", str(path)]) == 0
    result = json.loads(path.read_text())
    assert not [part for part in result["parts"] if part.startswith("selectors")] and result["latency_table"] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tokens", "88"], "one count for each of 3 selectors, not 1"),
        (["--tokens", "88,x,3"], "--tokens must be whole numbers with commas between them, not '88,x,3'"),
        (["--network", "deit_base", "--config", "demo"], "max_tokens must be at least 197"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    assert cli.main(["cycles", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]
