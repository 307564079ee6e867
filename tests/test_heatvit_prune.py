"""The latency-aware training as a command, on a network of seconds.

Testpoints: the latency table comes from the cycle model and predicts the dense network exactly; the folder holds float
and 8-bit networks, the log, which is there before the last network is, the table and the result; a second call loads;
the 8-bit networks are integer networks with the selectors of the limit, which do not change in 8 bits but for
thresholds that hold the held-out pictures' shares; training in 8 bits equals the golden; a file says how many processes
train; without a package token nothing is quantized; a file that is missing or another training's folder is refused in
one line; the study of such a folder gives each ranking the work of the trained network, and draws.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from heatvit import prune
from heatvit.cli import main
from heatvit.integers import compare_with_golden, finetune, quantize_after_training
from heatvit.prune import measure_table
from hw.config import load_config
from hw.latency import estimate_network
from hw.memory_model import MemoryModel
from model import launch
from model.checkpoint import load_network
from model.config import NETWORKS
from model.evaluate import macs
from model.inference import infer
from model.pruning.baselines import Ranking
from model.pruning.plan import load_plan
from model.qat import QatNetwork
from model.resume import History
from model.vit import IMAGENET, VisionTransformer
from quant.keep_thresholds import fit_thresholds
from quant.network_file import load_network as load_integer_network

pytestmark = pytest.mark.slow
CONFIG = replace(NETWORKS["digits"], in_chans=3, selectors=())
RATIO = 0.85
"""The latency limit over the cycles of the dense network."""


def write_inputs(folder: Path, **fields: Any) -> Path:
    """Write weights, pictures and a training file that names them; fields replace those of the file."""
    torch.manual_seed(0)
    state = VisionTransformer(CONFIG, IMAGENET).state_dict()
    np.savez(folder / "weights.npz", **{name: value.numpy() for name, value in state.items()})
    rng = np.random.default_rng(0)
    np.savez(folder / "pictures.npz", images=rng.integers(0, 256, (24, 28, 28, 3), np.uint8), labels=np.arange(24) % 10)
    (folder / "network.json").write_text(json.dumps(CONFIG.to_dict()))
    table = measure_table(CONFIG, "demo")
    values = {
        "network": str(folder / "network.json"),
        "weights": str(folder / "weights.npz"),
        "images": str(folder / "pictures.npz"),
        "held_out": 8,
        "accelerator": "demo",
        "limits": [RATIO * table.cycles(CONFIG, {})],
        "insertion": {"first_block": 1, "max_divergence": [0.5], "merge_below": 0.01},
        "warm_start": {"epochs": 1, "learning_rate": 1e-2},
        "recipe": {
            "batch_size": 8,
            "residual_weight": 1.0,
            "select": {"epochs": 1, "learning_rate": 1e-3},
            "quantize": {"epochs": 1, "learning_rate": 1e-4},
        },
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(values | fields))
    return path


def test_the_table_predicts_the_dense_network() -> None:
    accelerator, memory = load_config("demo"), MemoryModel()
    table = measure_table(CONFIG, "demo")
    assert table.cycles(CONFIG, {}) == estimate_network(CONFIG, accelerator, memory, ()).cycles
    assert table.tokens[-1] == 50
    counts = (42, 30)
    keep = {block: (count - 2) / 49 for block, count in zip((1, 2), counts, strict=True)}
    estimated = estimate_network(replace(CONFIG, selectors=(1, 2)), accelerator, memory, counts).cycles
    assert table.cycles(CONFIG, keep) == pytest.approx(estimated, rel=0.05)


@pytest.fixture(scope="module", autouse=True)
def short_table() -> Iterator[None]:
    """Let the latency table have few rows: each takes a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prune, "TABLE_RATIOS", (0.25, 0.5, 0.75, 1.0))
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prune")
    assert main(["train", "--config", str(write_inputs(folder)), "--out", str(folder / "out")]) == 0
    return folder


def test_the_folder_holds_everything(trained: Path) -> None:
    out = trained / "out"
    result = json.loads((out / "result.json").read_text())
    (point,) = result["points"]
    assert point["predicted_cycles"] == pytest.approx(RATIO * result["dense_cycles"], abs=1)
    assert json.loads((out / "latency_table.json").read_text()) == {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(measure_table(CONFIG, "demo")).items()
    }
    limit = f"{point['limit']:.0f}"
    network = load_network(out / f"limit_{limit}.safetensors")
    integers = load_integer_network(out / f"network_{limit}.safetensors")
    assert network.config.selectors == integers.config.selectors == tuple(point["selectors"])
    assert point["network"] == str(out / f"network_{limit}.safetensors")
    assert (point["qat_pictures"], point["qat_mismatches"]) == (8, 0) and point["qat_layers"] > 8 * 40
    assert f"limit {limit}" in (out / "curves.svg").read_text()
    with (out / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["stage"] for row in rows if row["loss"]] == ["warm start", f"limit {limit}", f"8-bit {limit}"]
    assert all(float(row["loss"]) > 0 for row in rows if row["loss"])


def test_a_second_call_loads(trained: Path) -> None:
    before = {path: path.read_bytes() for path in (trained / "out").glob("*.safetensors")}
    assert main(["train", "--config", str(trained / "plan.json"), "--out", str(trained / "out")]) == 0
    assert before == {path: path.read_bytes() for path in (trained / "out").glob("*.safetensors")}


def test_training_in_8_bits_equals_the_golden(trained: Path) -> None:
    (path,) = (trained / "out").glob("limit_*.safetensors")
    pictures_u8 = np.random.default_rng(1).integers(0, 256, (4, 3, 28, 28), np.uint8)
    network = QatNetwork.calibrated(load_network(path), pictures_u8)
    comparison = compare_with_golden(network, network.export(), pictures_u8)
    assert comparison.layers > 0 and comparison.mismatches == 0


def test_the_float_network_teaches_its_8_bits(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained / "out", tmp_path / "out")
    (missing,) = (tmp_path / "out").glob("network_*")
    missing.unlink()
    calls: list[tuple[Any, ...]] = []

    def recorded(*arguments: Any) -> tuple[QatNetwork, History]:
        calls.append(arguments)
        return finetune(*arguments)

    monkeypatch.setattr(prune, "finetune", recorded)
    assert main(["train", "--config", str(trained / "plan.json"), "--out", str(tmp_path / "out")]) == 0
    ((pruned, teacher, recipe, *_),) = calls
    assert teacher is pruned and recipe.residual_weight == 1 and missing.exists()


def test_the_log_is_there_before_training_ends(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained / "out", tmp_path / "out")
    for name in ("log.csv", "curves.svg", *(path.name for path in (trained / "out").glob("network_*"))):
        (tmp_path / "out" / name).unlink()

    def interrupted(*arguments: Any) -> QatNetwork:
        raise KeyboardInterrupt

    monkeypatch.setattr(prune, "finetune", interrupted)
    assert main(["train", "--config", str(trained / "plan.json"), "--out", str(tmp_path / "out")]) == 130
    assert "limit" in (tmp_path / "out" / "log.csv").read_text() and (tmp_path / "out" / "curves.svg").exists()


def test_selectors_stay_as_they_were_trained_in_float(trained: Path) -> None:
    (float_path,), (path,) = ((trained / "out").glob(pattern) for pattern in ("limit_*.safetensors", "network_*"))
    (point,) = json.loads((trained / "out" / "result.json").read_text())["points"]
    with np.load(trained / "pictures.npz") as pack:
        pictures_u8 = np.ascontiguousarray(pack["images"].transpose(0, 3, 1, 2))
    held_out_u8, training_u8 = pictures_u8[:8], pictures_u8[8:]
    integers = load_integer_network(path)
    before = quantize_after_training(load_network(float_path), training_u8).integers
    for trained_selector, selector in zip(integers.selectors, before.selectors, strict=True):
        assert np.array_equal(trained_selector.token1.linear.weight_i8, selector.token1.linear.weight_i8)
    assert not np.array_equal(integers.blocks[0].fc1.linear.weight_i8, before.blocks[0].fc1.linear.weight_i8)
    thresholds = tuple(selector.threshold_u16 for selector in integers.selectors)
    assert thresholds == fit_thresholds(integers, held_out_u8, point["keep_ratios"])


@pytest.fixture(scope="module")
def without_package(trained: Path) -> Path:
    out = trained / "without"
    assert main(["train", "--config", str(trained / "plan.json"), "--no-package", "--out", str(out)]) == 0
    return out


def test_without_a_package_token_nothing_is_quantized(without_package: Path) -> None:
    assert not list(without_package.glob("network_*"))
    (path,) = without_package.glob("limit_*.safetensors")
    assert not load_network(path).has_package


def test_study_compares_at_equal_work(trained: Path, without_package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["study", "pruning", str(trained / "out"), "--images", str(trained / "pictures.npz")]
    words += ["--no-package", str(without_package), "--json", str(trained / "study.json")]
    assert main([*words, "--svg", str(trained / "study.svg")]) == 0
    result = json.loads((trained / "study.json").read_text())
    dense, point = result["points"]
    assert result["n"] == 24 and [row["name"] for row in dense["rows"]] == ["dense, float", "dense, integer"]
    assert [row["name"] for row in point["rows"]] == [
        "ours, float",
        "ours, integer",
        "ours, package token left out",
        "ours, trained without package token",
        *(ranking.value for ranking in Ranking),
    ]
    ours, integers, left_out, without, *rankings = point["rows"]
    assert 0 < ours["num_tokens"][0] - left_out["num_tokens"][0] <= 1
    assert ours["difference"] == 0 and ours["p"] == 1 and ours["agreement"] == 1
    for row in rankings:
        assert row["gmac"] == pytest.approx(ours["gmac"], rel=0.02)
    # Scores of selectors that hardly learned differ by a few codes: many patches tie at an integer threshold.
    assert 0 < integers["gmac"] < dense["rows"][1]["gmac"] and without["gmac"] > 0
    (path,) = (trained / "out").glob("limit_*.safetensors")
    network, pack = load_network(path), np.load(trained / "pictures.npz")
    found = infer(network.eval(), torch.from_numpy(pack["images"].transpose(0, 3, 1, 2).copy()), network.kernels)
    assert ours["top1"] == (found.logits.argmax(1).numpy() == pack["labels"]).mean()
    counts = list(zip(*(stage.tolist() for stage in found.num_tokens), strict=True))
    assert ours["gmac"] == pytest.approx(np.mean([macs(network.config, each) for each in counts]) / 1e9)
    assert "received attention" in (trained / "study.svg").read_text() and "24 pictures" in capsys.readouterr().out


def test_study_refuses_other_folders(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "pruning", str(trained), "--images", str(trained / "pictures.npz")]) == 2
    assert "must be the record of heatvit train --config" in capsys.readouterr().err


def test_another_training_is_refused(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = write_inputs(tmp_path, held_out=4)
    assert main(["train", "--config", str(plan), "--out", str(trained / "out")]) == 2
    assert "must be of the same training to be resumed; it differs in plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, gpus, expected",
    [
        ([], 0, 3),
        (["--processes", "2"], 0, 2),
        (["--device", "cuda"], 2, 2),
        (["--processes=4", "--device=cuda"], 2, 4),
    ],
)
def test_a_file_asks_for_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], gpus: int, expected: int
) -> None:
    started: list[int] = []

    def start(count: int, *others: Any) -> tuple[dict[str, Any], bool]:
        started.append(count)
        return {}, True

    monkeypatch.setattr(launch, "run_together", start)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    plan = write_inputs(tmp_path, processes=3)
    assert main(["train", "--config", str(plan), "--out", str(tmp_path / "out"), *words]) == 0
    assert started == [expected]
    with pytest.raises(ValueError, match="processes must be an integer of at least 1, not 0"):
        load_plan(write_inputs(tmp_path, processes=0))


@pytest.mark.parametrize(
    "words, message",
    [(["--config", "a.toml", "--recipe", "b.toml"], "says everything"), (["--no-package"], "needs --config")],
)
def test_options_that_would_be_ignored_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "none.toml"]) == 2
    assert "settings must be a .json or .toml file that exists, not 'none.toml'" in capsys.readouterr().err
