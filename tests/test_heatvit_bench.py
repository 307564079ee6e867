"""Cycle benchmark: attribution of cycles to layers, and the whole command on a small network.

Testpoints
- the cycles of the layers sum to the run, in the order in which layers end; a layer hidden under others has none
- ideal cycles follow the tiles, also of a pruned picture; the stall names the unit that the array waited for
- times that are not one run's are refused
- the command measures a float network on the RTL: no mismatch, every key of the result, rates that follow the cycles
- a network with selectors is measured with the work of its token counts, and against the same one without them
- the report's files are written; wrong options are refused in one line
- a run that differs gives exit code 1
- the cycle model is compared in every setting of the token counts; twelve distinct ones by default
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from heatvit import bench, cli
from heatvit.bench_model import default_settings
from hw.config import CONFIGS
from hw.isa import Descriptor, Opcode, Unit
from model.config import NETWORKS
from model.evaluate import layer_macs, macs
from model.vit import IMAGENET, VisionTransformer
from quant.config import NetworkConfig
from quant.network_file import save_network
from quant.reference import run
from quant.synthetic import random_network
from sim.process import DescriptorTimes
from sim.profile import profile_run

CONFIG = CONFIGS["tiny"]  # 2 rows x 8 columns x depth 4
SMALL = NetworkConfig(
    image_size=8,
    patch_size=4,
    in_chans=3,
    num_classes=5,
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_hidden=24,
    selectors=(1,),
)
DENSE = replace(SMALL, selectors=())
NO_TIMES: dict[Unit, list[int]] = {unit: [] for unit in Unit}


def program(*descriptors: tuple[str, Descriptor]) -> Any:
    """What profile_run needs of a program: descriptors with their layers, of a network of 5 tokens."""
    layers, work = zip(*descriptors, strict=True)
    network = SimpleNamespace(num_tokens=5)
    return SimpleNamespace(config=CONFIG, network_config=network, pictures=1, layers=layers, descriptors=work)


def gemm(**fields: int) -> Descriptor:
    return Descriptor(Opcode.GEMM, **fields)


def test_layers_share_the_cycles_of_a_run() -> None:
    work = program(
        ("b", Descriptor(Opcode.LOAD)),
        ("a", gemm(src_words=3, cols=9)),
        ("b", gemm(src_words=1, cols=8, rows=2)),
        ("hidden", Descriptor(Opcode.LAYER_NORM)),
        ("end", Descriptor(Opcode.END)),
    )
    starts = NO_TIMES | {Unit.LOAD: [1010], Unit.GEMM: [1020, 1060], Unit.VECTOR: [1025]}
    ends = NO_TIMES | {Unit.LOAD: [1055], Unit.GEMM: [1040, 1100], Unit.VECTOR: [1100]}
    layers = profile_run(work, DescriptorTimes(starts, ends), 100, [], {"a": 7})
    assert [(layer.name, layer.macs, layer.cycles) for layer in layers] == [
        ("a", 7, 40),
        ("b", 0, 60),
        ("hidden", 0, 0),
    ]
    assert [layer.ideal_cycles for layer in layers] == [3 * 2 * 3, 1, 0]  # row tiles x column tiles x words
    # In a, LOAD is busy for 10 of the 20 cycles before the array starts; in b for 15 of 20, VECTOR for all.
    assert [layer.stall for layer in layers] == ["load", "vector", ""]


def test_waits_without_any_unit_are_dependencies() -> None:
    work = program(("a", gemm(src_words=1, cols=8)), ("a", gemm(src_words=1, cols=8)))
    times = DescriptorTimes(NO_TIMES | {Unit.GEMM: [0, 20]}, NO_TIMES | {Unit.GEMM: [10, 30]})
    assert profile_run(work, times, 30, [], {})[0].stall == "dependency"


def test_ideal_cycles_follow_the_live_tokens() -> None:
    work = program(
        ("a", gemm(src_words=1, cols=8)), ("c", Descriptor(Opcode.COMPACT)), ("b", gemm(aux_stride=1, cols=16))
    )
    times = DescriptorTimes(
        NO_TIMES | {Unit.GEMM: [0, 20], Unit.VECTOR: [10]}, NO_TIMES | {Unit.GEMM: [10, 30], Unit.VECTOR: [20]}
    )
    layers = profile_run(work, times, 30, [3], {})
    assert [layer.ideal_cycles for layer in layers] == [3, 0, 2 * 2 * 1]  # 3 live tokens: 2 row tiles, 1 word deep


def test_times_of_another_run_are_refused() -> None:
    with pytest.raises(ValueError, match="times must hold 1 descriptors of gemm, one run's"):
        profile_run(program(("a", gemm(cols=8))), DescriptorTimes(NO_TIMES, NO_TIMES), 10, [], {})


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """Arguments of a benchmark of a small network with random weights on two random pictures."""
    (tmp_path / "net.json").write_text(json.dumps(SMALL.to_dict()))
    torch.manual_seed(1)
    weights = {name: tensor.numpy() for name, tensor in VisionTransformer(SMALL, IMAGENET).state_dict().items()}
    np.savez(tmp_path / "weights.npz", **weights)
    (tmp_path / "pictures").mkdir()
    rng = np.random.default_rng(0)
    for index in range(2):
        pixels = rng.integers(0, 256, (SMALL.image_size, SMALL.image_size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{index}.png")
    work = tmp_path / "work"
    work.mkdir()
    cache = Path(__file__).parent.parent / "build" / "verilator"
    cache.mkdir(parents=True, exist_ok=True)
    (work / "build").symlink_to(cache)
    files = {"network": "net.json", "weights": "weights.npz", "images": "pictures", "work": "work"}
    paths = [f"--{option}={tmp_path / name}" for option, name in files.items()]
    return ["bench", "cycles", *paths, "--config=tiny", "--count=2", f"--json={tmp_path / 'result.json'}"]


@pytest.mark.verilator
@pytest.mark.slow
def test_command_measures_a_network(
    inputs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(inputs) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["mismatches"], result["first_problem"], result["count"]) == (0, None, 2)
    assert result["tokens"] == [[SMALL.num_tokens]] * 2 and result["layers_compared"] > 30
    assert result["gmac"] == macs(DENSE, ()) / 1e9
    assert {row["layer"] for row in result["layers"]} > set(layer_macs(DENSE, ()))
    cycles = result["cycles_per_picture"]
    assert sum(row["cycles"] for row in result["layers"]) == cycles > result["ideal_cycles"] > 0
    assert result["utilisation"] == pytest.approx(1e9 * result["gmac"] / CONFIG.macs / cycles)
    assert result["fps_at_an_assumed_clock"]["250 MHz"] == pytest.approx(250e6 / cycles)
    for row in result["layers"]:
        assert row["utilisation"] is None if row["macs"] == 0 else 0 < row["utilisation"] < 1, row
    assert result["ddr_bytes"] <= cycles * result["ddr"]["bytes_per_cycle"]
    assert result["wall_s"] > 0 and result["config"] == CONFIG.to_dict()
    assert "blocks.1.mlp.fc2" in capsys.readouterr().out

    assert "selector_cost" not in result and not (tmp_path / "report").exists()

    assert cli.main([*inputs, "--keep=4", f"--report={tmp_path / 'report'}"]) == 0
    pruned = json.loads((tmp_path / "result.json").read_text())
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "descriptors.csv",
        "report.html",
        "result.json",
        "roofline.svg",
        "timeline.svg",
    }
    assert json.loads((tmp_path / "report" / "result.json").read_text()) == pruned
    heading, *lines = (tmp_path / "report" / "descriptors.csv").read_text().splitlines()
    assert heading == "index,layer,unit,opcode,start,end,operand,weight,drain,memory,dependency"
    gemms = [list(map(int, line.split(",")[4:])) for line in lines if ",gemm,GEMM," in line]
    weight = sum(numbers[3] for numbers in gemms)
    assert weight > 0 and pruned["unit_stall"]["gemm"]["weight"] == pytest.approx(
        weight / pruned["cycles_per_picture"], rel=0.2
    )
    for row in pruned["layers"]:
        lost = row["array_cycles"] - row["ideal_cycles"]
        assert sum(row["stalls"].values()) == pytest.approx(lost, abs=0.02 * cycles) or not row["macs"]
    assert abs(pruned["dense_cycles"] - cycles) < 0.01 * cycles and pruned["dense_gmac"] == result["gmac"]
    selectors = [row["cycles"] for row in pruned["layers"] if row["layer"].startswith("selectors.")]
    assert pruned["selector_cost"] == pytest.approx(sum(selectors) / pruned["cycles_per_picture"]) and selectors
    saving = pruned["dense_cycles"] / pruned["cycles_per_picture"]
    assert pruned["pruning_efficiency"] == pytest.approx(saving * pruned["gmac"] / result["gmac"])
    assert pruned["scale_gmac"] == macs(SMALL, [4]) / 1e9
    rate = pruned["cycles_per_picture"] / pruned["gmac"]
    assert pruned["scaled_cycles"] == pytest.approx(pruned["scale_gmac"] * rate)
    counts = [tokens[1] for tokens in pruned["tokens"]]  # random selectors: equal scores may keep more than wanted
    assert 4 <= min(counts) <= max(counts) <= SMALL.num_tokens and pruned["mismatches"] == 0
    assert pruned["gmac"] == pytest.approx(np.mean([macs(SMALL, [count]) for count in counts]) / 1e9)

    assert cli.main([*inputs, "--keep=4", "--batch=2"]) == 0
    batch = json.loads((tmp_path / "result.json").read_text())
    assert batch["mismatches"] == 0 and (batch["batch"], batch["count"]) == (2, 2)
    same = ("tokens", "gmac", "ideal_cycles", "layers_compared")
    assert {name: batch[name] for name in same} == {name: pruned[name] for name in same}
    assert sum(row["cycles"] for row in batch["layers"]) == pytest.approx(batch["cycles_per_picture"])
    assert batch["cycles_per_picture"] < pruned["cycles_per_picture"]
    assert batch["ddr_bytes"] < 0.7 * pruned["ddr_bytes"]  # weights are read once for both
    assert cli.main([*inputs, "--batch=2", "--count=1"]) == 2

    measure = bench.measure

    def wrong(network: Any, *arguments: Any) -> Any:
        """Measure, and claim that values differ."""
        result = measure(network, *arguments)
        first = result.checked[0]
        comparisons = (replace(first.comparisons[0], mismatches=3), *first.comparisons[1:])
        return replace(result, checked=(replace(first, comparisons=comparisons), *result.checked[1:]))

    monkeypatch.setattr(bench, "measure", wrong)
    assert cli.main(inputs) == 1
    assert json.loads((tmp_path / "result.json").read_text())["mismatches"] == 3


@pytest.mark.verilator
def test_command_measures_an_integer_network(
    inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = random_network(np.random.default_rng(3), SMALL)
    save_network(network, tmp_path / "network.safetensors")
    assert cli.main([*inputs, f"--weights={tmp_path / 'network.safetensors'}", "--network=none"]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    pictures = [np.asarray(Image.open(tmp_path / "pictures" / f"{index}.png")).transpose(2, 0, 1) for index in (0, 1)]
    kept = [run(network, picture).tokens for picture in pictures]
    assert result["tokens"] == [[5, len(tokens[0])] for tokens in kept] and result["mismatches"] == 0
    assert result["scaled_cycles"] == pytest.approx(result["cycles_per_picture"]) and "selector_cost" in result
    assert cli.main([*inputs, f"--weights={tmp_path / 'network.safetensors'}", "--keep=4"]) == 2
    assert "--keep needs float weights" in capsys.readouterr().err


def test_default_settings() -> None:
    settings = default_settings(NETWORKS["deit_tiny"])
    assert len(settings) == 12 and settings[0] == [] and [89, 71, 57] in settings
    for keep in settings[1:]:
        assert 197 >= keep[0] >= keep[1] >= keep[2] >= 3
    assert default_settings(DENSE) == [[]]


@pytest.mark.verilator
@pytest.mark.slow
def test_command_compares_the_model(inputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [option for option in inputs[2:] if not option.startswith("--count")]
    assert cli.main(["bench", "model", *paths, "--keep=4", "--keep="]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    pruned, dense = result["settings"]
    assert result["mismatches"] == 0 and (pruned["keep"], dense["keep"]) == ([4], [])
    assert pruned["tokens"][0] == 5 > pruned["tokens"][1] - 1 and dense["tokens"] == [5]
    printed = capsys.readouterr().out
    for row in result["settings"]:
        assert row["model_error_total"] == pytest.approx(row["model_cycles"] / row["cycles"] - 1)
        assert abs(row["model_error_total"]) < 0.1 and f"{row['cycles']:,}" in printed and row["worst_layer"]
        assert abs(row["model_error_total"]) <= abs(result["model_error_total"])
        assert 0 < row["model_error_worst_layer"] <= result["model_error_worst_layer"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keep=4,x"], "--keep must be whole numbers with commas between them"),
        (["--keep=4,3"], "token counts must be 1 falling"),
        (["--scale-gmac=0.5"], "--scale-gmac needs --keep"),
    ],
)
def test_wrong_options_are_refused(
    inputs: list[str], options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*inputs, *options]) == 2
    assert message in capsys.readouterr().err
