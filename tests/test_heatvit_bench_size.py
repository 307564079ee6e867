"""`heatvit bench size`: a small network through the whole command, and DeiT-Small on the machine.

Testpoints: no mismatch, every key, estimates of the run and of the same network without selectors, token counts near
those asked for; the same seed gives the same result; pictures that share a run; a machine that errs gives exit code 1;
a network that does not fit is refused in one line; the RTL beside the machine; DeiT-Small is exact.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from heatvit import cli
from heatvit.bench_size import Trial, bench_size
from hw.config import CONFIGS
from hw.latency import estimate_network
from hw.memory_model import MemoryModel
from quant.config import NetworkConfig
from sim.machine import Machine
from sim.process import DdrModel

CONFIG = CONFIGS["tiny"]
SMALL = NetworkConfig(16, 4, 3, 5, embed_dim=16, depth=2, num_heads=2, mlp_hidden=24, selectors=(1,))


def nothing(step: str, done: int, total: int) -> None:
    """Report nothing."""


@pytest.fixture
def network(tmp_path: Path) -> str:
    """The file of a small network with one selector."""
    path = tmp_path / "net.json"
    path.write_text(json.dumps(SMALL.to_dict()))
    return str(path)


def test_command_sizes_a_network(network: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "size.json"
    arguments = ["bench", "size", f"--network={network}", "--config=tiny", "--keep=9", "--seed=4", f"--json={path}"]
    assert cli.main(arguments) == 0
    printed, result = capsys.readouterr().out, json.loads(path.read_text())
    assert (result["mismatches"], result["first_problem"]) == (0, None) and result["layers_compared"] > 30
    assert result["config"] == CONFIG.to_dict() and (result["keep"], result["seed"]) == ([9], 4)
    (tokens,) = result["tokens"]
    assert tokens[0] == 17 and 9 <= tokens[1] < 17
    memory = MemoryModel(DdrModel().bytes_per_cycle, DdrModel().latency_cycles)
    for values, counts in ((result, tokens[1:]), (result["dense"], [])):
        expected = estimate_network(SMALL, CONFIG, memory, counts)
        assert values["cycles_per_picture"] == expected.cycles and values["gmac"] == expected.macs / 1e9
        assert values["utilisation"] == expected.macs / CONFIG.macs / expected.cycles
        assert values["fps_at_an_assumed_clock"]["250 MHz"] == round(250e6 / expected.cycles, 1)
        assert f"{expected.cycles:,}" in printed
    assert all(0 < use["used"] <= use["available"] for use in result["memory"].values())
    assert result["bram36"]["used"] == 45 and result["bram36"]["available"] == 912 and "45 of 912" in printed
    assert f"{result['memory']['act']['used']:,}" in printed and "weight_ring" in printed
    assert "rtl_cycles" not in result and result["wall_s"] >= result["machine_s"] > 0


def test_pictures_share_a_run(network: str) -> None:
    one, again = (bench_size(Trial(network, "tiny", (), 1, 5), None, nothing) for _ in range(2))
    three = bench_size(Trial(network, "tiny", (), 3, 5), None, nothing)
    times = ("wall_s", "machine_s")
    assert [value for name, value in one.items() if name not in times] == [
        value for name, value in again.items() if name not in times
    ]
    assert three["tokens"] == [[17]] * 3 and three["mismatches"] == 0
    assert three["layers_compared"] == 3 * one["layers_compared"]
    assert three["ddr_bytes"] < one["ddr_bytes"] and three["gmac"] == pytest.approx(one["gmac"])
    assert one["dense"]["cycles_per_picture"] == one["cycles_per_picture"]


def test_wrong_machine_fails(network: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = Machine.run_pictures

    def wrong(self: Machine, *arguments: Any, **options: Any) -> Any:
        result, output = right(self, *arguments, **options)
        return result, bytes([output[0] ^ 1]) + output[1:]  # the first logit

    monkeypatch.setattr(Machine, "run_pictures", wrong)
    assert cli.main(["bench", "size", f"--network={network}", "--config=tiny"]) == 1
    assert "channel 0" in capsys.readouterr().out


def test_network_that_does_not_fit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "size", "--network=test_tiny", "--config=tiny", "--batch=5"]) == 2
    assert "pictures must be in 1..4, not 5" in capsys.readouterr().err


@pytest.mark.verilator
@pytest.mark.slow
def test_rtl_runs_beside_the_machine(network: str, tmp_path: Path) -> None:
    cache = Path(__file__).parent.parent / "build" / "verilator"
    cache.mkdir(parents=True, exist_ok=True)
    (tmp_path / "build").symlink_to(cache)
    result = bench_size(Trial(network, "tiny", (9,), 2, 4), tmp_path, nothing)
    assert (result["mismatches"], result["rtl_mismatches"], result["first_problem"]) == (0, 0, None)
    assert result["rtl_layers_compared"] == result["layers_compared"] > 60
    assert result["rtl_cycles"] * (1 + result["model_error_total"]) == pytest.approx(result["cycles_per_picture"])
    assert abs(result["model_error_total"]) < 0.1
    assert result["rtl_ddr_bytes"] == pytest.approx(result["ddr_bytes"], rel=0.02)


@pytest.mark.slow
def test_deit_small_is_exact_on_the_machine() -> None:
    result = bench_size(Trial("deit_small", "zcu102_2048", (88, 45, 32), 1, 0), None, nothing)
    assert result["mismatches"] == 0 and result["layers_compared"] == 170
    assert result["tokens"] == [[197, 88, 45, 32]]
    assert result["dense"]["utilisation"] > 0.94
