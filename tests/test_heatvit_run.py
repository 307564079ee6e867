"""`heatvit run` and `heatvit compile`: networks on the simulated devices through the command line.

Testpoints: help with an example; machine and RTL give the golden model's logits, token counts and kept patches, the RTL
cycles; a compiled network runs on its samples and is compared with them, on other pictures without comparison; JSON; a
difference, an error of the core and a time-out give 1 and say so; without PYNQ, on a board without a bitstream or
without a board, with two configs, with another config than the compiled one's, without samples, with an unknown device,
with a core that is not the network's: one line and 2; more pictures than a chunk; an interrupt gives 130.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import board
import numpy as np
import pytest

from bitstreams.compiled import CompiledNetwork
from heatvit import cli, devices
from heatvit import run as running
from quant import reference
from quant.network_file import save_network
from sim.machine_core import MachineCore
from sim.overlay_files import write_overlay

NETWORK, PICTURES = board.network_and_pictures(5)
GOLDEN = [reference.run(NETWORK, picture, taps=False) for picture in PICTURES]


@pytest.fixture
def network_file(tmp_path: Path) -> Path:
    path = tmp_path / "network.safetensors"
    save_network(NETWORK, path)
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A labelled pack of the pictures."""
    path = tmp_path / "pictures.npz"
    np.savez(path, images=PICTURES[:, 0], labels=[inference.logits_i16.argmax() for inference in GOLDEN])
    return path


@pytest.fixture
def compiled_file(network_file: Path, images: Path, tmp_path: Path) -> Path:
    path = tmp_path / "network.npz"
    arguments = [network_file, "--config", "tiny", "--images", images, "--count", 3, "--out", path]
    assert cli.main(["compile", *map(str, arguments)]) == 0
    return path


def run(*arguments: str | Path | int, code: int = 0) -> dict:
    """Run `heatvit run` with --json and return the result."""
    json_file = Path(str(arguments[0])).with_name("result.json")
    json_file.unlink(missing_ok=True)
    assert cli.main(["run", *map(str, arguments), "--json", str(json_file)]) == code
    return json.loads(json_file.read_text())


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must end with 2, and return its one line."""
    capsys.readouterr()
    assert cli.main(["run", *map(str, arguments)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("heatvit: ")]
    return line


def check(result: dict, count: int = 5) -> None:
    """The pictures of a result must be exactly the golden model's."""
    assert (result["images"], result["mismatches"], result["failure"]) == (count, 0, None)
    for row, inference in zip(result["pictures"], GOLDEN[:count], strict=True):
        assert row["logits"] == inference.logits_i16.tolist() and row["predicted"] == inference.logits_i16.argmax()
        assert row["token_counts"] == inference.num_tokens and row["equals_golden"] is True
        kept = [int(token) - 1 for token in inference.tokens[-1] if 0 < token <= board.SMALL.num_patches]
        assert row["kept_patches"] == kept


@pytest.mark.parametrize("command", ["run", "compile"])
def test_help_explains_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    assert f"Example: heatvit {command}" in " ".join(capsys.readouterr().out.split())


def test_machine_equals_the_golden_model(
    network_file: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "CHUNK", 2)
    result = run(network_file, "--device", "machine", "--images", images, "--config", "tiny")
    check(result)
    assert (result["top1"], result["num_tokens"], result["cycles_mean"]) == (1.0, 17, None)
    assert result["kept_tokens_mean"] == [round(float(np.mean([g.num_tokens[0] for g in GOLDEN])), 3)]
    shown = capsys.readouterr().out
    assert "top1" in shown and "kept_tokens_mean" in shown


@pytest.mark.verilator
def test_rtl_equals_the_golden_model(network_file: Path, images: Path, tmp_path: Path) -> None:
    cache = Path(__file__).parent.parent / "build" / "verilator"
    cache.mkdir(parents=True, exist_ok=True)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "build").symlink_to(cache)
    arguments = ("--device", "rtl", "--images", images, "--count", 3, "--config", "tiny", "--work", tmp_path / "work")
    result = run(network_file, *arguments)
    check(result, 3)
    cycles = [row["cycles"] for row in result["pictures"]]
    assert result["cycles_mean"] == np.mean(cycles) and min(cycles) > 1000


def test_compiled_network_runs_on_its_samples(compiled_file: Path) -> None:
    result = run(compiled_file, "--images", "samples")
    check(result, 3)
    assert result["top1"] == 1.0
    check(run(compiled_file, "--images", "samples", "--count", 2), 2)


def test_compiled_network_on_other_pictures_is_not_compared(compiled_file: Path, images: Path) -> None:
    result = run(compiled_file, "--images", images)
    assert (result["images"], result["mismatches"], result["top1"]) == (5, None, 1.0)
    assert [row["logits"] for row in result["pictures"]] == [g.logits_i16.tolist() for g in GOLDEN]


def test_bitstream_names_its_config(network_file: Path, images: Path, tmp_path: Path) -> None:
    bitstream = write_overlay(tmp_path / "overlay", board.CONFIG)
    check(run(network_file, "--images", images, "--bitstream", bitstream))


def test_unlabelled_pictures_have_no_top1(compiled_file: Path) -> None:
    network = CompiledNetwork.load(compiled_file)
    assert network.samples is not None
    replace(network, samples=replace(network.samples, labels=np.full(3, -1))).save(compiled_file)
    result = run(compiled_file, "--images", "samples")
    assert result["top1"] is None and result["pictures"][0]["label"] is None


def test_difference_gives_1(compiled_file: Path) -> None:
    network = CompiledNetwork.load(compiled_file)
    assert network.samples is not None
    logits = network.samples.logits_i16.copy()
    logits[1, 0] += 1
    counts = network.samples.num_tokens.copy()
    counts[2, 0] += 1
    replace(network, samples=replace(network.samples, logits_i16=logits, num_tokens=counts)).save(compiled_file)
    result = run(compiled_file, "--images", "samples", code=1)
    assert result["mismatches"] == 2
    assert [row["equals_golden"] for row in result["pictures"]] == [True, False, False]


def test_error_of_the_core_gives_1(compiled_file: Path) -> None:
    network = CompiledNetwork.load(compiled_file)
    bad = bytearray(network.descriptors)
    bad[64] = 99
    replace(network, descriptors=bytes(bad)).save(compiled_file)
    result = run(compiled_file, "--images", "samples", code=1)
    assert (result["images"], result["mismatches"]) == (0, None)
    assert "accelerator reports BAD_OPCODE at descriptor 1 (status ERROR)" in result["failure"]


def test_hang_gives_1(compiled_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "SIMULATION_TIMEOUT_S", 0.05)
    monkeypatch.setattr(MachineCore, "_run", lambda self: None)
    assert "waiting for the run to end (status BUSY)" in run(compiled_file, "--images", "samples", code=1)["failure"]


def test_interrupt_gives_130(compiled_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: MachineCore) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MachineCore, "_run", interrupt)
    assert cli.main(["run", str(compiled_file), "--images", "samples"]) == 130


def test_without_pynq(compiled_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynq", None)
    assert "pip install 'heatvit[board]'" in refused(capsys, compiled_file, "--images", "samples")


def test_what_does_not_fit_together(
    compiled_file: Path, network_file: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = ("--images", "samples")
    bitstream = write_overlay(tmp_path / "overlay", board.CONFIG)
    assert "needs --bitstream FILE.bit" in refused(capsys, compiled_file, "--device", "board", *samples)
    assert "--device must be one of machine, rtl, board, not 'fpga'" in refused(
        capsys, network_file, "--device", "fpga"
    )
    both = ("--config", "tiny", "--bitstream", bitstream)
    assert "give either --config or --bitstream" in refused(capsys, network_file, "--images", images, *both)
    assert "compiled for another accelerator" in refused(capsys, compiled_file, *samples, "--config", "demo")
    assert "manifest.json" in refused(capsys, network_file, "--images", images, "--bitstream", tmp_path / "x.bit")
    replace(CompiledNetwork.load(compiled_file), samples=None).save(tmp_path / "plain.npz")
    assert "holds no samples: heatvit compile --images" in refused(capsys, tmp_path / "plain.npz", *samples)
    assert "is no compiled network" in refused(capsys, images, *samples)
    assert "absent" in refused(capsys, tmp_path / "absent.npz", *samples)


def test_board_that_is_none(
    compiled_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pynq

    monkeypatch.setattr(type(pynq.Device), "devices", [])
    monkeypatch.delattr(pynq.Device, "_active_device", raising=False)
    bitstream = write_overlay(tmp_path / "overlay", board.CONFIG)
    arguments = ("--device", "board", "--images", "samples", "--bitstream", bitstream)
    assert "PYNQ finds no board here" in refused(capsys, compiled_file, *arguments)


def test_core_of_another_config(
    compiled_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(board.CONFIG, act_words=2048)
    monkeypatch.setattr(devices, "MachineCore", lambda _: MachineCore(other))
    assert "CONFIG_HASH must be" in refused(capsys, compiled_file, "--images", "samples")


def test_compile_says_what_it_wrote(network_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, json_file = tmp_path / "deep" / "network.npz", tmp_path / "compile.json"
    arguments = [str(network_file), "--config", "tiny", "--out", str(out), "--batch", "3", "--json", str(json_file)]
    assert cli.main(["compile", *arguments]) == 0
    result = json.loads(json_file.read_text())
    network = CompiledNetwork.load(out)
    assert (result["pictures_a_run"], result["samples"], network.pictures) == (3, 0, 3)
    assert result["bytes"] == out.stat().st_size and result["descriptors"] == len(network.descriptors) // 64
    assert cli.main(["compile", *arguments[:-4], "--batch", "9"]) == 2
    assert "pictures must be in 1..4, not 9" in capsys.readouterr().err
