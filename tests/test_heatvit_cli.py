"""Command line: help, exit codes, and one clear line for everything that can be wrong with the input.

Testpoints: every command's help has an example and starts without torch; unknown command, option and value; missing,
corrupt and foreign files; a misshapen, missing, extra or non-finite tensor named; accumulator bound; a picture that is
none; unknown config and field, value out of range; network too large for the buffers; no C++ compiler; nothing is left
half-written; --json holds the result; --debug gives a traceback; an interrupt ends with 130 and one line, and training
goes on where it stopped; a failed comparison gives 1.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from heatvit import cli, flow, hardware
from hw.config import CONFIGS
from model import checkpoint
from model.config import NETWORKS
from model.vit import Normalisation, VisionTransformer
from quant.network_file import load_network, save_network
from quant.synthetic import random_network

TINY = NETWORKS["test_tiny"]
COMMANDS = ["train", "quantize", "evaluate", "generate", "cycles", "synth", "simulate", "fuzz", "demo", "bitstream"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A pack of six labelled pictures for TINY."""
    path = tmp_path / "pictures.npz"
    images = np.random.default_rng(3).integers(0, 256, (6, 16, 16), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(6) % 3)
    return path


@pytest.fixture
def integer_file(tmp_path: Path) -> Path:
    path = tmp_path / "integer.safetensors"
    save_network(random_network(np.random.default_rng(1), TINY), path)
    return path


@pytest.fixture
def float_file(tmp_path: Path) -> Path:
    path = tmp_path / "float.safetensors"
    torch.manual_seed(0)
    checkpoint.save_network(path, VisionTransformer(TINY, Normalisation((0.5,), (0.5,))))
    return path


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must end with code 2, one line on stderr and nothing on stdout; return the line."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("heatvit: ")]
    assert captured.out == "" and len(lines) == 1 and "Traceback" not in captured.err
    return lines[0]


def edit_tensors(path: Path, **changes: np.ndarray[Any, Any] | None) -> None:
    """Replace tensors of a safetensors file, or drop those that are None; "." is written as "__"."""
    with safe_open(path, "numpy") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
    for name, value in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if value is not None:
            tensors[name.replace("__", ".")] = value
    save_file(tensors, path, metadata)


@pytest.mark.parametrize("command", [*COMMANDS, "bench cycles", "bench model", "bench torch", "study delta"])
def test_help_explains_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    assert f"Example: heatvit {command}" in " ".join(capsys.readouterr().out.split())


def test_no_command_shows_help_without_loading_torch() -> None:
    code = "import sys; from heatvit.cli import main; code = main([]); sys.exit(code + ('torch' in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and all(command in result.stdout for command in COMMANDS)


def test_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert "No such command 'simulat'" in fails(capsys, "simulat")
    assert "No such option: --sed" in fails(capsys, "fuzz", "--sed", "1")
    assert "either NETWORK or --weights" in fails(capsys, "evaluate")
    assert "either NETWORK or --weights" in fails(capsys, "evaluate", "x", "--weights", "y")
    assert "--weights needs --calibrate" in fails(capsys, "evaluate", "--weights", "y")
    assert "Missing argument" in fails(capsys, "simulate")
    assert "--runs" in fails(capsys, "fuzz", "--runs", "0")


@pytest.mark.parametrize("command", ["evaluate", "simulate", "quantize"])
@pytest.mark.parametrize("content", [None, b"", b"\x10\0\0\0\0\0\0\0{broken", b"a" * 100])
def test_missing_and_corrupt_networks(
    command: str, content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "network.safetensors"
    if content is not None:
        path.write_bytes(content)
    extra = ["--out", tmp_path / "out.safetensors"] if command == "quantize" else []
    assert "network.safetensors" in fails(capsys, command, path, *extra)
    assert not (tmp_path / "out.safetensors").exists()


def test_foreign_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": np.zeros(3, np.float32)}, path)
    for command in ("evaluate", "simulate"):
        assert "other.safetensors" in fails(capsys, command, path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"norm__weight": np.ones(5, np.float32)}, "norm.weight"),
        ({"head__bias": None}, "head.bias"),
        ({"surprise": np.ones(5, np.float32)}, "surprise"),
        ({"head__bias": np.array([0, np.nan, 0], np.float32)}, "head.bias"),
    ],
)
def test_bad_float_tensor_is_named(
    change: dict[str, Any], expected: str, float_file: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_tensors(float_file, **change)
    assert expected in fails(capsys, "evaluate", float_file, "--images", pictures)
    out = float_file.parent / "out.safetensors"
    assert expected in fails(capsys, "quantize", float_file, "--calibrate", pictures, "--out", out)
    assert not out.exists()


def test_bad_integer_tensor_is_named(integer_file: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = load_network(integer_file)
    edit_tensors(integer_file, head__bias_i32=np.zeros(5, np.int32))
    assert "head.bias_i32" in fails(capsys, "simulate", integer_file, "--images", pictures)
    edit_tensors(integer_file, head__bias_i32=np.full(3, 2**31 - 1, np.int32))
    assert "accumulator of head" in fails(capsys, "evaluate", integer_file, "--images", pictures)
    edit_tensors(integer_file, head__bias_i32=good.head.bias_i32)
    assert cli.main(["evaluate", str(integer_file), "--images", str(pictures)]) == 0


def test_pictures_that_are_none(integer_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    assert "holds no picture" in fails(capsys, "evaluate", integer_file, "--images", folder)
    (folder / "note.png").write_text("not a picture")
    assert "note.png" in fails(capsys, "evaluate", integer_file, "--images", folder)
    (tmp_path / "pack.npz").write_bytes(b"PK\x03\x04 broken")
    assert "pack.npz" in fails(capsys, "evaluate", integer_file, "--images", tmp_path / "pack.npz")
    assert "absent" in fails(capsys, "evaluate", integer_file, "--images", tmp_path / "absent")


def test_bad_accelerator_configs(
    integer_file: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(values: Any) -> str:
        path = tmp_path / "config.json"
        path.write_text(values if isinstance(values, str) else json.dumps(values))
        return fails(capsys, "simulate", integer_file, "--images", pictures, "--config", path)

    tiny = CONFIGS["tiny"].to_dict()
    assert "tiny, demo" in fails(capsys, "generate", "--config", "huge", "--out", tmp_path / "verilog")
    assert "not JSON" in told("{")
    assert "unknown config field 'colums'" in told({**tiny, "colums": 3})
    assert "rows must be a power of two" in told({**tiny, "rows": 3})
    assert "act_words must be at least" in told({**tiny, "act_words": 16})
    assert "max_tokens must be at least" in told({**tiny, "max_tokens": 16})
    assert not (tmp_path / "verilog").exists()


def test_missing_compiler_is_told(
    integer_file: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    line = fails(capsys, "simulate", integer_file, "--images", pictures, "--config", "tiny", "--work", tmp_path / "w")
    assert "g++" in line and "install" in line


def test_evaluate_writes_the_same_result_as_json(
    float_file: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, result = tmp_path / "net" / "integer.safetensors", tmp_path / "result.json"
    calibrate = ["--calibrate", str(pictures), "--out", str(out)]
    assert cli.main(["quantize", str(float_file), *calibrate, "--json", str(result)]) == 0
    assert json.loads(result.read_text())["calibration_pictures"] == 6
    assert cli.main(["evaluate", str(out), "--images", str(pictures), "--count", "4", "--json", str(result)]) == 0
    values = json.loads(result.read_text())
    assert values["images"] == 4 and values["arithmetic"] == "integer" and 0 <= values["top1"] <= 1
    assert len(values["kept_tokens_mean"]) == 2 and values["macs_dense"] > 0
    assert "evaluated" in capsys.readouterr().out


def test_quantize_trains_on_in_8_bits(float_file: Path, pictures: Path, tmp_path: Path) -> None:
    stage = {"epochs": 2, "learning_rate": 0.01}
    recipe = {"keep_ratios": [0.7, 0.5], "dense": stage, "select": stage, "quantize": stage, "batch_size": 2}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    base = ["quantize", str(float_file), "--calibrate", str(pictures), "--json", str(tmp_path / "result.json")]
    assert cli.main([*base, "--out", str(tmp_path / "plain.safetensors")]) == 0
    tune = ["--finetune", str(tmp_path / "recipe.json"), "--teacher", str(float_file)]
    assert cli.main([*base, *tune, "--out", str(tmp_path / "tuned.safetensors")]) == 0
    assert json.loads((tmp_path / "result.json").read_text())["finetuned_on"] == 6
    assert (tmp_path / "plain.safetensors").read_bytes() != (tmp_path / "tuned.safetensors").read_bytes()


def test_finetune_goes_on_with_the_same_training_only(
    float_file: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = {"epochs": 1, "learning_rate": 0.01}
    recipe = {"keep_ratios": [0.7, 0.5], "dense": stage, "select": stage, "quantize": stage, "batch_size": 2}
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    options = ["--calibrate", pictures, "--finetune", tmp_path / "recipe.json", "--out", tmp_path / "tuned.safetensors"]
    words = [str(word) for word in ("quantize", float_file, *options)]
    assert cli.main([*words, "--teacher", str(float_file)]) == 0
    before = (tmp_path / "tuned.safetensors").read_bytes()
    assert cli.main([*words, "--teacher", str(float_file)]) == 0
    assert (tmp_path / "tuned.safetensors").read_bytes() == before
    other = checkpoint.load_network(float_file)
    other.head.bias.data += 1
    checkpoint.save_network(tmp_path / "other.safetensors", other)
    capsys.readouterr()
    line = fails(capsys, *words, "--teacher", tmp_path / "other.safetensors")
    assert "must be of the same training to be resumed; it differs in teacher_sha256" in line
    words[1] = str(tmp_path / "other.safetensors")
    line = fails(capsys, *words, "--teacher", float_file)
    assert "it differs in start_sha256" in line
    recipe["keep_ratios"] = [0.7]
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    line = fails(capsys, *words, "--teacher", float_file)
    assert "keep_ratios must have 2 entries, not (0.7,)" in line


def test_finetune_needs_its_teacher(float_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = fails(capsys, "quantize", float_file, "--finetune", "digits", "--out", tmp_path / "x.safetensors")
    assert "--teacher" in line


def test_unlabelled_pictures_have_no_accuracy(integer_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    Image.new("L", (40, 30), 128).save(folder / "x.png")
    result = tmp_path / "result.json"
    assert cli.main(["evaluate", str(integer_file), "--images", str(folder), "--json", str(result)]) == 0
    assert json.loads(result.read_text())["top1"] is None


def test_failed_comparison_exits_with_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def simulate(*arguments: Any) -> dict[str, Any]:
        return {"mismatches": 3, "first_divergence": "picture 0, head"}

    monkeypatch.setattr(hardware, "simulate_network", simulate)
    result = tmp_path / "result.json"
    assert cli.main(["simulate", "network.safetensors", "--json", str(result)]) == 1
    assert json.loads(result.read_text())["mismatches"] == 3


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "absent.safetensors", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_internal_error_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(*arguments: Any) -> dict[str, Any]:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr(flow, "evaluate_network", broken)
    assert cli.main(["evaluate", "x"]) == 1
    assert "internal error" in capsys.readouterr().err


@contextmanager
def training(folder: Path, epochs: int) -> Iterator[subprocess.Popen[str]]:
    """Start `heatvit train` in a process of its own; it is gone at the end of the block."""
    stage = {"epochs": epochs, "learning_rate": 0.001}
    recipe = {"keep_ratios": [0.7, 0.5], "dense": stage, "select": stage, "quantize": stage, "batch_size": 2}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "tiny.json").write_text(json.dumps(replace(TINY, num_classes=10).to_dict()))
    command = [sys.executable, "-m", "heatvit", "train", "--recipe", "recipe.json", "--network", "tiny.json"]
    command += ["--images", "pack.npz", "--out", "trained"]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # several are slower on a network this small
    with subprocess.Popen(
        command, cwd=folder, env=one_thread, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_interrupted_training_says_so_and_goes_on(tmp_path: Path) -> None:
    images = np.random.default_rng(3).integers(0, 256, (40, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "pack.npz", images=images, labels=np.arange(40) % 10)
    trained = tmp_path / "trained"
    with training(tmp_path, epochs=6) as process:
        deadline = time.monotonic() + 100
        while not (trained / "dense.progress.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "heatvit: interrupted" in errors and "Traceback" not in errors
    assert not (trained / "pruned.safetensors").exists()

    with training(tmp_path, epochs=6) as process:
        output, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "pruned_top1" in output and (trained / "pruned.safetensors").exists()
