"""The HLS route end to end: blocks of random networks in C simulation against the golden model, and its commands.

Testpoints: mlp, selector (also one that sees a changing number of tokens), softmax and head give the golden's
integers, arrays and streams; unused rows and columns do not matter; delta1 0.5 and an odd number of heads; every
block of a network converts, both ways; a changed constant is found and its layer named, exit code 1; the project has
part, Vitis scripts, test vectors, kernels and the types of the interface; the test bench reproduces its vectors as
C++11; names that no block has, too many heads, options of the other backend, no hls4ml, no compiler: one line.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("hls4ml")

from heatvit import cli, hls
from hw.hls.block import HlsBlock, Io
from hw.hls.blocks import make_block
from hw.hls.layers import KERNELS
from hw.hls.project import make_project
from hw.overlay import PART
from model.config import NETWORKS
from quant.network import IntegerNetwork
from quant.network_file import load_network, save_network
from quant.reference import PACKAGE_TOKEN, run
from quant.synthetic import random_network

CONFIG = replace(NETWORKS["test_tiny"], embed_dim=24, num_heads=3, selectors=(0, 2), delta1=0.5)
"""Three heads, so that half of them is rounded, and another GELU in the blocks than in the selectors."""
PICTURES = 4
OUTPUTS = {"keep_score": "ap_uint<16> [17, 1]", "result": "ap_int<16> [18, 24]"}
"""Those of a selector of CONFIG: after the scores a header row and the tokens that stay."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.safetensors and pictures.npz; builds go to work."""
    path = tmp_path_factory.mktemp("hls")
    rng = np.random.default_rng(9)
    save_network(random_network(rng, CONFIG), path / "net.safetensors")
    images = rng.integers(0, 256, (PICTURES, CONFIG.image_size, CONFIG.image_size), dtype=np.uint8)
    np.savez(path / "pictures.npz", images=images, labels=np.arange(PICTURES) % CONFIG.num_classes)
    return path


@pytest.fixture(scope="module")
def network(folder: Path) -> IntegerNetwork:
    return load_network(folder / "net.safetensors")


def simulate(folder: Path, block: str, io: Io, json_file: Path) -> tuple[int, dict[str, Any]]:
    """Run the command and return its exit code and its result."""
    sources = ["--images", str(folder / "pictures.npz"), "--work", str(folder / "work"), "--json", str(json_file)]
    words = ["simulate", "--backend", "hls", str(folder / "net.safetensors"), "--block", block, "--io", io.value]
    code = cli.main([*words, *sources])
    return code, json.loads(json_file.read_text())


def tokens_seen(network: IntegerNetwork, folder: Path, block: str) -> int:
    """Return how many rows a block must compare: tokens, or rows of scores."""
    total = 0
    for image in np.load(folder / "pictures.npz")["images"]:
        result = run(network, image[None])
        live = [CONFIG.num_tokens, result.num_tokens[0]]
        total += {
            "mlp:0": live[1],
            "selector:0": live[0],
            "selector:1": live[1],
            "softmax:2": CONFIG.num_heads * result.num_tokens[1],
            "head": 1,
        }[block]
    return total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block", "io"),
    [
        ("mlp:0", Io.STREAM),
        ("selector:0", Io.PARALLEL),
        ("selector:1", Io.STREAM),
        ("softmax:2", Io.STREAM),
        ("head", Io.PARALLEL),
    ],
)
def test_block_equals_golden(block: str, io: Io, folder: Path, network: IntegerNetwork, tmp_path: Path) -> None:
    code, result = simulate(folder, block, io, tmp_path / "result.json")
    assert code == 0 and result["mismatches"] == 0 and result["first_difference"] is None
    assert result["tokens"] == tokens_seen(network, folder, block) and result["values"] >= result["tokens"]
    assert (result["block"], result["io"], result["images"]) == (block, io.value, PICTURES)
    assert result["compile_seconds"] > 0


@pytest.mark.slow
def test_first_layer_that_differs_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def wrong_block(network: IntegerNetwork, name: str) -> HlsBlock:
        block = make_block(network, name)
        layers = list(block.layers)
        index = next(number for number, layer in enumerate(layers) if layer.name == "fc1")
        constants = {**layers[index].constants, "out_shift": layers[index].constants["out_shift"] + 1}
        layers[index] = replace(layers[index], constants=constants)
        return replace(block, layers=tuple(layers))

    monkeypatch.setattr(hls, "make_block", wrong_block)
    code, result = simulate(folder, "mlp:1", Io.PARALLEL, tmp_path / "result.json")
    assert code == 1 and 0 < result["mismatches"] <= result["values"]
    difference = result["first_difference"]
    assert difference["layer"] == "fc1" and difference["tap"] == "blocks.1.mlp.fc1"
    network = load_network(folder / "net.safetensors")
    image = np.load(folder / "pictures.npz")["images"][difference["picture"]]
    golden = run(network, image[None]).taps["blocks.1.mlp.fc1"][difference["call"]]
    assert golden[difference["place"][0]] == difference["expected"] != difference["found"]


@pytest.mark.parametrize("io", Io)
def test_every_block_converts(io: Io, network: IntegerNetwork, tmp_path: Path) -> None:
    names = [f"{kind}:{number}" for kind in ("mlp", "softmax") for number in range(CONFIG.depth)]
    for name in [*names, "selector:0", "selector:1", "head"]:
        make_project(make_block(network, name), io, tmp_path)  # checks itself


def test_generated_project(folder: Path, network: IntegerNetwork, tmp_path: Path) -> None:
    out, result_file = tmp_path / "project", tmp_path / "result.json"
    words = ["generate", "--backend", "hls", str(folder / "net.safetensors"), "--block", "selector:1"]
    images = str(folder / "pictures.npz")
    assert cli.main([*words, "--out", str(out), "--images", images, "--json", str(result_file)]) == 0
    result = json.loads(result_file.read_text())
    assert result["top"] == "heatvit_selector_1" and result["outputs"] == OUTPUTS
    assert result["inputs"] == {"residual": "ap_int<16> [17, 24]", "live": "ap_uint<16> [2]"}
    assert result["multipliers"]["local_q10_acc"] == 12 and "none without Vitis" in result["estimates"]
    assert f'set part "{PART}"' in (out / "project.tcl").read_text()
    build = (out / "build_prj.tcl").read_text()
    assert all(step in build for step in ("csim_design", "csynth_design", "cosim_design", "export_design"))
    options = dict(line.split() for line in (out / "build_opt.tcl").read_text().splitlines() if len(line.split()) == 2)
    assert {options[step] for step in ("csim", "synth", "cosim", "validation", "export")} == {"1"}
    for kernel in KERNELS.glob("*.h"):
        assert (out / "firmware" / "nnet_utils" / kernel.name).read_text() == kernel.read_text()
    top = (out / "firmware" / "heatvit_selector_1.h").read_text()
    assert "hls::stream<input_t> &residual" in top and "hls::stream<input2_t> &live" in top

    taps = run(network, np.load(images)["images"][:1]).taps
    vectors = [np.loadtxt(out / "tb_data" / f"{name}.dat") for name in ("tb_input_features", "tb_output_predictions")]
    residual, package, width = taps["blocks.1.mlp.fc2"], taps["selectors.1.package"], CONFIG.embed_dim
    assert vectors[0].size == CONFIG.num_tokens * width + 2
    assert np.array_equal(vectors[0][: residual.size], residual.ravel()) and vectors[0][-2] == len(residual)
    assert vectors[0][-1] == (taps["selectors.0.tokens"][-1] == PACKAGE_TOKEN)
    assert np.array_equal(vectors[1][: len(residual)], taps["selectors.1.keep_score"])
    rows = vectors[1][CONFIG.num_tokens :].reshape(-1, width)
    assert rows[0, 0] == len(package) and np.array_equal(rows[1 : 1 + len(package)], package)


@pytest.mark.slow
def test_bench_for_vitis_reproduces_the_vectors(folder: Path, tmp_path: Path) -> None:
    """The test bench, compiled with the flags of build_prj.tcl: Vitis takes C++11."""
    words = ["generate", "--backend", "hls", str(folder / "net.safetensors"), "--block", "selector:1"]
    assert cli.main([*words, "--out", str(tmp_path), "--images", str(folder / "pictures.npz")]) == 0
    assert '-cflags "-std=c++0x"' in (tmp_path / "build_prj.tcl").read_text()
    sources = ["firmware/heatvit_selector_1.cpp", "heatvit_selector_1_test.cpp"]
    weights = f'-DWEIGHTS_DIR="{tmp_path / "firmware" / "weights"}"'
    command = ["g++", "-std=c++0x", "-O0", "-Ifirmware/ap_types", weights, *sources, "-o", "bench"]
    subprocess.run(command, cwd=tmp_path, check=True)
    subprocess.run(["./bench"], cwd=tmp_path, check=True, capture_output=True)
    data = tmp_path / "tb_data"
    given, found, expected = (
        (data / name).read_text().split()
        for name in ("tb_input_features.dat", "csim_results.log", "tb_output_predictions.dat")
    )
    live, tokens = int(given[-2]), CONFIG.num_tokens
    assert found[:live] == expected[:live] and found[tokens:] == expected[tokens:] and len(found) > tokens > live
    assert cli.main([*words, "--out", str(tmp_path)]) == 0
    assert not list(data.glob("*.dat"))


def fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must end with code 2 and one line on stderr; return the line."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("heatvit: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["generate", "NET"], "NETWORK cannot come with --backend rtl"),
        (["generate", "--block", "head", "--io", "stream"], "--block and --io cannot come with --backend rtl"),
        (["generate", "--images", "x"], "--images cannot come with --backend rtl"),
        (["generate", "--backend", "hls", "NET", "--config", "demo"], "--config cannot come with --backend hls"),
        (["generate", "--backend", "hls", "NET", "--dsp", "dsp48"], "--dsp cannot come with --backend hls"),
        (["generate", "--backend", "hls", "NET"], "needs a NETWORK and --block"),
        (["generate", "--backend", "hls", "--block", "head"], "needs a NETWORK and --block"),
        (["simulate", "NET", "--block", "head"], "--block cannot come with --backend rtl"),
        (["simulate", "NET", "--backend", "hls"], "needs --block"),
        (
            ["simulate", "NET", "--backend", "hls", "--block", "head", "--config", "demo", "--stall-seed", "1"],
            "--config and --stall-seed cannot come with --backend hls",
        ),
        (["simulate", "NET", "--backend", "hls", "--block", "attention:0"], "selector:S, mlp:B, softmax:B or head"),
        (["simulate", "NET", "--backend", "hls", "--block", "mlp:x"], "selector:S, mlp:B, softmax:B or head"),
        (["generate", "NET", "--backend", "hls", "--block", "selector:2"], "there is no 'selector:2'"),
        (["generate", "NET", "--backend", "hls", "--block", "mlp:3"], "the network has 3 mlp blocks"),
        (["generate", "--backend", "verilog"], "'verilog' is not one of 'rtl', 'hls'"),
        (["generate", "--io", "axi"], "--io"),
    ],
)
def test_bad_input(words: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network, images = folder / "net.safetensors", str(folder / "pictures.npz")
    given = [str(network) if word == "NET" else word for word in words]
    if words[0] == "simulate":
        given += ["--images", images]
    assert message in fails(capsys, *given)


def test_without_hls4ml(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "hls4ml", None)
    for command in (["generate", "--out", tmp_path / "out"], ["simulate", "--images", folder / "pictures.npz"]):
        words = [*command, folder / "net.safetensors", "--backend", "hls", "--block", "head"]
        assert "the HLS backend needs hls4ml: pip install 'heatvit[hls]'" in fails(capsys, *words)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A PATH that has what the build script calls, but no g++."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "sh", "dirname", "pwd", "rm", "env"):
        for place in ("/bin", "/usr/bin"):
            if (Path(place) / name).exists() and not (tools / name).exists():
                (tools / name).symlink_to(Path(place) / name)
    monkeypatch.setenv("PATH", str(tools))
    yield


@pytest.mark.usefixtures("no_compiler")
def test_without_a_compiler(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    sources = ["--images", folder / "pictures.npz", "--work", tmp_path]
    network = folder / "net.safetensors"
    message = fails(capsys, "simulate", "--backend", "hls", network, "--block", "softmax:0", *sources)
    assert "g++" in message and "not found" in message


def test_too_many_heads() -> None:
    config = replace(NETWORKS["test_tiny"], embed_dim=68, num_heads=17)
    network = random_network(np.random.default_rng(1), config)
    with pytest.raises(ValueError, match="at most 16 heads, not 17"):
        make_block(network, "selector:0")
