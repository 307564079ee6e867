"""The pipeline as plain functions, from pictures to the integer network; heatvit/hardware.py goes on from there.

Each command is one function: names and paths in, plain JSON types out. Everything raises ValueError or OSError, in one
line, for what the caller got wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import Progress
from safetensors import SafetensorError, safe_open

from heatvit.files import file_digest, new_file
from heatvit.golden import evaluate_golden
from heatvit.integers import CALIBRATION_PICTURES, finetune, reconstruct
from heatvit.pictures import first, load_all, load_split, open_pictures
from heatvit.progress import Report
from model import checkpoint
from model.config import load_network_config
from model.distributed import ALONE, Processes
from model.evaluate import Evaluation, evaluate
from model.recipe import load_recipe
from model.train import train
from model.vit import IMAGENET
from quant.network import IntegerNetwork
from quant.network_file import METADATA_KEY, load_network, save_network


def train_network(
    recipe: str, network: str, images: str, out: Path, progress: Progress, processes: Processes = ALONE
) -> dict[str, Any]:
    """Train a float network on a fixed random 80 % of labelled pictures and measure it on the others.

    Writes dense.safetensors and pruned.safetensors to `out`; goes on where an interrupted run of the same training
    stopped. Several processes train as one.
    """
    config = load_network_config(network)
    split = load_split(images, config)
    trained = train(config, load_recipe(recipe), split.train, split.test, out, progress, processes=processes)
    return {
        "dense": str(out / "dense.safetensors"),
        "pruned": str(out / "pruned.safetensors"),
        "test_images": len(split.test.labels),
        "dense_top1": trained.dense_result.top1,
        "pruned_top1": trained.pruned_result.top1,
        "macs_ratio": trained.pruned_result.macs_ratio,
    }


@dataclass(frozen=True)
class Finetuning:
    """Quantization-aware training after calibration: a recipe by name or file, and the float network that teaches."""

    recipe: str
    teacher: Path


def quantize_network(
    checkpoint_file: Path,
    calibrate: str,
    count: int | None,
    out: Path,
    finetuning: Finetuning | None = None,
    progress: Progress | None = None,
    processes: Processes = ALONE,
    topology: str = "deit_tiny",
) -> dict[str, Any]:
    """Turn a float network into integers with scales from calibration pictures, and write it.

    A checkpoint with timm's names has the topology of that name. With finetuning the 8-bit network is first trained on
    all pictures of the source, which must then have labels; an interrupted training goes on from the folder
    <out>.training. Several processes train as one.
    """
    named = load_network_config(topology)
    network = checkpoint.load_any(checkpoint_file, named, IMAGENET)
    pictures, is_labelled = open_pictures(calibrate, network.config, None if finetuning else count)
    calibration = first(pictures, count or CALIBRATION_PICTURES)
    bars = progress or Progress(disable=True)
    if finetuning is None:
        integer_network = reconstruct(network, pictures, bars, len(calibration.labels)).integers
    else:
        if not is_labelled:
            raise ValueError(f"training needs labelled pictures: one sub-folder a class, or a pack, not {calibrate!r}")
        recipe, teacher = load_recipe(finetuning.recipe), checkpoint.load_any(finetuning.teacher, named, IMAGENET)
        folder = out.with_name(f"{out.name}.training")
        trained, _ = finetune(network, teacher, recipe, pictures, load_all(calibration), folder, bars, processes)
        integer_network = trained.export()
    with processes.main_first():
        if processes.is_main:
            write_network(integer_network, out)
    return {
        "network": str(out),
        "network_sha256": file_digest(out),
        "calibration_pictures": len(calibration.labels),
        "finetuned_on": len(pictures.labels) if finetuning else 0,
        "config": network.config.to_dict(),
    }


def evaluate_network(network_file: Path, images: str, count: int | None, report: Report) -> dict[str, Any]:
    """Measure a float or an integer network: top-1 (None without labels), live tokens, multiply-accumulates."""
    is_integer = is_integer_network(network_file)
    if is_integer:
        integer_network = load_network(network_file)
        config = integer_network.config
        pictures, is_labelled = open_pictures(images, config, count)
        result = evaluate_golden(integer_network, pictures, lambda done, total: report("evaluate", done, total))
    else:
        float_network = checkpoint.load_network(network_file)
        config = float_network.config
        pictures, is_labelled = open_pictures(images, config, count)
        result = evaluate(float_network, config, pictures)
    return {
        "network": str(network_file),
        "arithmetic": "integer" if is_integer else "float",
        "images": len(pictures.labels),
        "top1": result.top1 if is_labelled else None,
        "num_tokens": config.num_tokens,
        **work_of(result),
    }


def write_network(network: IntegerNetwork, path: Path) -> None:
    """Write an integer network, whole or not at all."""
    with new_file(path) as temporary:
        save_network(network, temporary)


def is_integer_network(path: Path) -> bool:
    """Tell an integer network from anything else by its metadata. Raises OSError if the file cannot be read."""
    try:
        with safe_open(path, framework="numpy") as file:
            return METADATA_KEY in (file.metadata() or {})
    except SafetensorError:
        return False


def work_of(result: Evaluation) -> dict[str, Any]:
    """Return live tokens and multiply-accumulates of an evaluation as JSON types."""
    return {
        "kept_tokens_mean": [round(float(mean), 3) for mean in result.num_tokens.mean(axis=0)],
        "macs_dense": result.dense_macs,
        "macs_mean": float(result.macs.mean()),
        "macs_ratio": result.macs_ratio,
    }
