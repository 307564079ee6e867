"""The delta study: whether training with delta1 and delta2 below 1 shrinks the error of quantization, as HeatViT says.

One small network is trained from scratch for every setting and seed, quantized after training and compared with its
own integers on pictures that no training saw. Trainings of one seed begin with the same weights and see the same
pictures in the same order, so settings are compared seed by seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from heatvit import delta_measure
from heatvit.delta_measure import KINDS, SHARES, SIZES, measure
from heatvit.files import file_digest
from heatvit.integers import CALIBRATION_PICTURES
from heatvit.pictures import first, load_all
from heatvit.progress import Report, reporter
from heatvit.seeds import MAX_SEEDS, difference, ratio, spread
from heatvit.steps import run_step, source_digest
from model.checkpoint import load_network
from model.config import load_network_config
from model.data import PixelPictures, load_pictures
from model.recipe import Recipe, load_recipe
from model.resume import Record
from model.train import Run, finish_stage, measure_normalisation
from model.vit import VisionTransformer
from quant.config import NetworkConfig
from quant.network import U8

SETTINGS = ((1.0, 1.0), (0.5, 1.0), (0.5, 0.5))
"""(delta1, delta2): of the plain functions, of the half that GELU takes, and of the paper."""
ORDER_SEED = 0
"""Packs may be sorted by class; calibration and normalisation take the first pictures, in this random order."""
STAGE = "float"


@dataclass(frozen=True)
class Study:
    """What to train and to measure: sources of pictures, network and recipe by name or file.

    settings are pairs (delta1, delta2), of which the others are compared with the first. out keeps what is finished,
    so that a second call goes on. is_compiled trains by torch.compile: several times as fast, but it needs a C++
    compiler and rounds differently.
    """

    train: str
    test: str
    out: Path
    network: str = "cifar10"
    recipe: str = "delta_study"
    settings: tuple[tuple[float, float], ...] = SETTINGS
    seeds: tuple[int, ...] = (0, 1, 2)
    is_compiled: bool = False

    def __post_init__(self) -> None:
        if not 2 <= len(self.seeds) <= MAX_SEEDS or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must be 2 to {MAX_SEEDS} different numbers, not {list(self.seeds)}")
        if len(set(self.settings)) < max(len(self.settings), 2):
            raise ValueError(f"settings must be 2 or more different pairs of deltas, not {list(self.settings)}")


@dataclass(frozen=True)
class _Material:
    """The pictures of a study, and what identifies them."""

    train: PixelPictures
    test: PixelPictures
    calibration_u8: U8
    digests: dict[str, str]

    @classmethod
    def read(cls, study: Study, config: NetworkConfig) -> _Material:
        """Decode all pictures once: they are needed in every epoch of every training."""
        train, test = (_hold(source, config) for source in (study.train, study.test))
        calibration_u8 = load_all(first(train, CALIBRATION_PICTURES))
        return cls(train, test, calibration_u8, {"train": _digest(train), "test": _digest(test)})


def run_study(study: Study, progress: Progress) -> dict[str, Any]:
    """Train and measure what is not finished yet, and compare the settings; returns plain JSON types."""
    config, recipe = load_network_config(study.network), load_recipe(study.recipe)
    if config.selectors:
        raise ValueError(f"network of a delta study must have no selectors, not {list(config.selectors)}")
    report = reporter(progress)
    report("read pictures", 0, 1)
    material = _Material.read(study, config)
    report("read pictures", 1, 1)
    runs = []
    for seed in study.seeds:
        for delta1, delta2 in study.settings:
            name = f"delta1 {delta1:g}, delta2 {delta2:g}, seed {seed}"
            folder = study.out / name.replace(", ", "_").replace(" ", "_")
            setting = replace(config, delta1=delta1, delta2=delta2)
            report(name, 0, 2)
            network_file = _train(study, setting, replace(recipe, seed=seed), material, folder, progress)
            report(name, 1, 2)
            measured = _measure(network_file, material, folder, report)
            report(name, 2, 2)
            runs.append({"delta1": delta1, "delta2": delta2, "seed": seed, **measured})
    return {
        "network": config.to_dict(),
        "recipe": recipe.to_dict(),
        "train": study.train,
        "test": study.test,
        "pictures_sha256": material.digests,
        "num_pictures": {"train": len(material.train.labels), "test": len(material.test.labels)},
        "calibration_pictures": len(material.calibration_u8),
        "is_compiled": study.is_compiled,
        "seeds": list(study.seeds),
        "runs": runs,
        "settings": [_summarise(runs, setting, study.settings[0]) for setting in study.settings],
    }


def _hold(source: str, config: NetworkConfig) -> PixelPictures:
    """Decode all pictures of a source, in random order."""
    pictures = load_pictures(source, config)
    order = np.random.default_rng(ORDER_SEED).permutation(len(pictures.labels))
    return PixelPictures(pictures.load(order), pictures.labels[order])


def _digest(pictures: PixelPictures) -> str:
    return hashlib.sha256(pictures.pictures_u8.tobytes() + pictures.labels.tobytes()).hexdigest()


def _train(
    study: Study, config: NetworkConfig, recipe: Recipe, material: _Material, folder: Path, progress: Progress
) -> Path:
    """Train a network by the dense stage of a recipe, unless its folder has it finished, and return its file.

    Raises ValueError if the folder holds another training.
    """
    description = {
        "config": config.to_dict(),
        "recipe": recipe.to_dict(),
        "pictures_sha256": material.digests["train"],
        "is_compiled": study.is_compiled,
    }
    record = Record.open(folder / "training.json", description)
    torch.manual_seed(recipe.seed)
    network = VisionTransformer(config, measure_normalisation(material.train))
    if study.is_compiled:
        torch.compiler.reset()  # torch compiles the same code for only so many networks
        network.compile()
    finish_stage(Run(recipe, material.train, folder, progress, record), STAGE, recipe.dense, network)
    return folder / f"{STAGE}.safetensors"


def _measure(network_file: Path, material: _Material, folder: Path, report: Report) -> dict[str, Any]:
    """Measure a trained network, unless its folder knows what this code measures of it."""
    inputs = {
        "network": file_digest(network_file),
        "pictures": material.digests,
        "code": [source_digest(("model", "quant")), file_digest(Path(delta_measure.__file__))],
    }

    def action() -> dict[str, Any]:
        return measure(load_network(network_file), material.calibration_u8, material.test, report)

    return run_step(folder / "measured.json", inputs, [], action).values


def _summarise(
    runs: Sequence[dict[str, Any]], setting: tuple[float, float], baseline: tuple[float, float]
) -> dict[str, Any]:
    """Return mean and spread of a setting's measurements over the seeds, and its comparison with the baseline's."""

    def values(name: str, of: tuple[float, float] = setting) -> list[Any]:
        return [run[name] for run in runs if (run["delta1"], run["delta2"]) == of]

    summary: dict[str, Any] = {
        "delta1": setting[0],
        "delta2": setting[1],
        **{name: spread(values(name)) for name in (*SHARES, *SIZES)},
        "layers": {
            kind: {part: spread([layers[kind][part] for layers in values("layers")]) for part in ("error", "rounding")}
            for kind in KINDS
        },
    }
    if setting != baseline:
        compared = {name: difference(values(name), values(name, baseline)) for name in SHARES}
        compared |= {name: ratio(values(name), values(name, baseline)) for name in SIZES}
        summary["against_first"] = compared
    return summary
