"""`heatvit train` and the training of `heatvit quantize` in two processes, of torchrun or its own.

Testpoints: the weights, the history and the accuracy of one process, with one output and one set of files, also when
two go on where one was interrupted, and with a last batch that leaves one of them nothing; the 8-bit network, too; a
process that fails ends the other one, and says why.
"""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.progress import Progress
from safetensors.torch import load_file
from two_processes import ROOT, run_two_processes

from heatvit import flow
from heatvit.pictures import load_split
from model import train as train_module
from model.checkpoint import save_network
from model.config import NETWORKS
from model.recipe import Recipe, Stage
from model.vit import Normalisation, VisionTransformer

pytestmark = pytest.mark.slow
RECIPE = Recipe(
    keep_ratios=(0.6, 0.4),
    dense=Stage(epochs=2, learning_rate=1e-3),
    select=Stage(epochs=2, learning_rate=1e-3, exploration=0.7),
    quantize=Stage(epochs=1, learning_rate=1e-4),
    batch_size=16,
    max_shift=1,
)


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, str]:
    """A recipe file and a pack of 61 pictures: 49 to train with, one of them in the last batch."""
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (61, 16, 16), np.uint8), rng.integers(0, 3, 61)
    np.savez(tmp_path / "pack.npz", images=images, labels=labels)
    assert len(load_split(str(tmp_path / "pack.npz"), NETWORKS["test_tiny"]).train.labels) % RECIPE.batch_size == 1
    (tmp_path / "recipe.json").write_text(json.dumps(RECIPE.to_dict()))
    return {"recipe": str(tmp_path / "recipe.json"), "network": "test_tiny", "images": str(tmp_path / "pack.npz")}


def train_alone(inputs: dict[str, str], out: Path) -> dict[str, Any]:
    return flow.train_network(**inputs, out=out, progress=Progress(disable=True))


def train_together(
    inputs: dict[str, str], out: Path, result: Path, is_torchrun: bool = True
) -> "subprocess.CompletedProcess[str]":
    options = [f"--{name}={value}" for name, value in inputs.items()]
    words = ["-m", "heatvit", "train", *options, f"--out={out}", f"--json={result}"]
    if is_torchrun:
        return run_two_processes(*words)
    command = [sys.executable, *words, "--processes=2"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("epochs_before, is_torchrun", [(0, True), (1, True), (1, False)])
def test_two_processes_train_as_one(
    tmp_path: Path, inputs: dict[str, str], monkeypatch: pytest.MonkeyPatch, epochs_before: int, is_torchrun: bool
) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    expected = train_alone(inputs, alone)
    if epochs_before:

        def interrupted(run: Any, name: str, stage: Stage, epoch: int, *others: Any) -> Any:
            if epoch == epochs_before:
                raise KeyboardInterrupt
            return train_epoch(run, name, stage, epoch, *others)

        train_epoch = train_module._train_epoch
        monkeypatch.setattr(train_module, "_train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_alone(inputs, together)
        assert (together / "dense.progress.safetensors").exists()

    done = train_together(inputs, together, tmp_path / "result.json", is_torchrun)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained: ") == 1
    assert sorted(path.name for path in together.iterdir()) == sorted(path.name for path in alone.iterdir())
    result = json.loads((tmp_path / "result.json").read_text())
    for name in ("test_images", "dense_top1", "pruned_top1", "macs_ratio"):
        assert result[name] == expected[name]
    for name in ("dense", "pruned"):
        first, second = (load_file(folder / f"{name}.safetensors") for folder in (alone, together))
        assert first.keys() == second.keys()
        for tensor in first:  # the order of sums differs, and Adam enlarges what is near 0
            torch.testing.assert_close(second[tensor], first[tensor], rtol=0, atol=2e-6)
    records = [json.loads((folder / "training.json").read_text()) for folder in (alone, together)]
    assert records[0]["description"] == records[1]["description"]
    for name in ("dense", "pruned"):
        for first, second in zip(*(record["stages"][name] for record in records), strict=True):
            assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
            assert second["keep_ratios"] == pytest.approx(first["keep_ratios"])


def test_8_bit_network_trains_in_two_processes(tmp_path: Path, inputs: dict[str, str]) -> None:
    config = NETWORKS["test_tiny"]
    torch.manual_seed(0)
    pruned = VisionTransformer(config, Normalisation((0.5,), (0.3,)))
    dense = VisionTransformer(replace(config, selectors=()), pruned.normalisation)
    save_network(tmp_path / "pruned.safetensors", pruned)
    save_network(tmp_path / "dense.safetensors", dense)
    files = [tmp_path / name for name in ("alone.safetensors", "together.safetensors")]
    finetuning = flow.Finetuning(inputs["recipe"], tmp_path / "dense.safetensors")
    flow.quantize_network(tmp_path / "pruned.safetensors", inputs["images"], None, files[0], finetuning)
    options = [f"--calibrate={inputs['images']}", f"--finetune={inputs['recipe']}", f"--teacher={finetuning.teacher}"]
    command = ["-m", "heatvit", "quantize", tmp_path / "pruned.safetensors", f"--out={files[1]}", *options]
    done = run_two_processes(*command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("quantized: ") == 1
    first, second = (load_file(file) for file in files)
    assert first.keys() == second.keys()
    weights = [name for name in first if first[name].dtype == torch.int8]
    assert weights
    for name in weights:  # one on the edge of two codes may fall to either side
        assert (first[name].int() - second[name].int()).abs().max() <= 1


def test_process_that_fails_ends_the_other(tmp_path: Path, inputs: dict[str, str]) -> None:
    buffer = io.BytesIO()
    Image.new("L", (16, 16), 99).save(buffer, "PNG")
    files = [buffer.getvalue()] * 1400
    pack = tmp_path / "files.npz"

    def write_pack() -> str:
        offsets = np.cumsum([0, *map(len, files)])
        np.savez(pack, bytes=np.frombuffer(b"".join(files), np.uint8), offsets=offsets, labels=np.arange(1400) % 3)
        return str(pack)

    # One process meets it in a step; all of them see the first ones, whose mean and deviation they measure.
    split = load_split(write_pack(), NETWORKS["test_tiny"])
    broken = int(split.train.indices[train_module.NORMALISATION_PICTURES])
    files[broken] = b"no picture"
    done = train_together({**inputs, "images": write_pack()}, tmp_path / "out", tmp_path / "result.json")
    assert done.returncode != 0 and "trained: " not in done.stdout
    assert f"heatvit: picture number {broken} of the pack cannot be read" in done.stderr
    assert not (tmp_path / "result.json").exists()
