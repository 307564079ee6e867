"""From float networks to integers: after training, or by training on in 8 bits and proving the export equal to it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress
from torch import Tensor

from heatvit.pictures import first, load_all
from heatvit.progress import reporter
from model.approx import Kernels
from model.checkpoint import weights_digest
from model.data import Pictures
from model.distributed import ALONE, Processes
from model.pruning.plan import NO_STAGE
from model.qat import QatNetwork
from model.recipe import Recipe, Stage
from model.resume import History, Record
from model.train import Run, fit, threads
from model.vit import VisionTransformer
from quant.convert import calibrate, check_parameters, export
from quant.fake_quant import Quantized
from quant.keep_thresholds import fit_thresholds
from quant.network import U8, IntegerNetwork
from quant.post_training import adapt
from quant.reference import run as run_golden

CALIBRATION_PICTURES = 128
"""Pictures that fix the activation scales unless a count is given."""
RECONSTRUCTION_PICTURES = 1000
"""On as many the integers learn to answer as the float network does; DeiT-Tiny takes about seven minutes of a core."""
RECONSTRUCTION = Recipe(
    keep_ratios=(),
    dense=NO_STAGE,
    select=NO_STAGE,
    quantize=Stage(epochs=1, learning_rate=1e-5, vector_factor=10.0),
    batch_size=16,
    weight_decay=0.0,
    class_weight=0.0,
    regression_weight=1.0,
    ratio_weight=0.0,
)
COMPARISON_BATCH = 20


class PostTraining(NamedTuple):
    """An integer network, and the float parameters and activation scales that it is the rounding of."""

    integers: IntegerNetwork
    parameters: dict[str, Tensor]
    scales: dict[str, float]


def quantize_after_training(network: VisionTransformer, pictures_u8: U8) -> PostTraining:
    """Quantize a float network with ranges from pictures (n, C, S, S).

    One that was trained with the exact GELU and softmax is first adapted to the polynomial ones. One thread, whatever
    the machine has: a sum in another order can move a scale, and with it the codes of a whole layer.
    """
    parameters, config = check_parameters(network.state_dict(), network.config), network.config
    mean, std = network.normalisation.mean, network.normalisation.std
    with threads(1):
        if network.kernels is Kernels.FUSED:
            parameters, scales = adapt(parameters, config, pictures_u8, mean, std)
        else:
            scales = calibrate(parameters, config, pictures_u8, mean, std)
    return PostTraining(export(parameters, config, scales, mean, std), parameters, scales)


def reconstruct(
    network: VisionTransformer, pictures: Pictures, progress: Progress, calibration_count: int = CALIBRATION_PICTURES
) -> PostTraining:
    """Quantize a float network, then adjust its parameters until its integers answer as it does, without labels.

    Scales come from the first calibration_count pictures, the answers from the first RECONSTRUCTION_PICTURES. Only
    checkpoints that were trained with the exact GELU and softmax have something to make up for; others are
    quantized as they are. Selectors stay. In the manner of BRECQ (ICLR 2021), but through the whole network at once.
    """
    report = reporter(progress)
    report("calibrate", 0, 1)
    start = quantize_after_training(network, load_all(first(pictures, calibration_count)))
    report("calibrate", 1, 1)
    if network.kernels is not Kernels.FUSED:
        return start
    trained = _trainable(network, start, network.cls_token.device.type)
    trained.network.selectors.requires_grad_(False)
    recipe = replace(RECONSTRUCTION, keep_ratios=(1.0,) * len(network.config.selectors))
    with TemporaryDirectory() as name:
        folder = Path(name)
        record, processes = Record.open(folder / "training.json", {}), Processes(device=network.cls_token.device.type)
        run = Run(recipe, first(pictures, RECONSTRUCTION_PICTURES), folder, progress, record, processes)
        fit(run, "reconstruct", recipe.quantize, trained, folder / "state.safetensors", network)
    parameters = {name: value.detach() for name, value in trained.network.state_dict().items()}
    return PostTraining(trained.export(), parameters, trained.scales)


def _trainable(network: VisionTransformer, start: PostTraining, device: str) -> QatNetwork:
    copied = VisionTransformer(network.config, network.normalisation)
    copied.load_state_dict(start.parameters)
    return QatNetwork(copied.to(device), start.scales)


@dataclass(frozen=True)
class QatComparison:
    """How a network in training compares with the golden model of its export, over `pictures` and `layers` results."""

    pictures: int
    layers: int
    mismatches: int


def finetune(
    pruned: VisionTransformer,
    teacher: VisionTransformer,
    recipe: Recipe,
    train_pictures: Pictures,
    calibration_u8: U8,
    folder: Path,
    progress: Progress,
    processes: Processes = ALONE,
    held_out_u8: U8 | None = None,
) -> tuple[QatNetwork, History]:
    """Train the 8-bit network for recipe.quantize; folder keeps the state by which an interrupted run goes on.

    It starts from what post-training quantization makes of `pruned`; the teacher is `pruned` itself or what that was
    trained against. With held-out pictures the selectors stay as they are, and before and after the training their
    thresholds are set so that these pictures keep recipe.keep_ratios; without, the selectors learn on. Several
    processes train as one. Returns the network and the history of its epochs. Raises ValueError if folder holds
    another training.
    """
    if len(recipe.keep_ratios) != (count := len(pruned.config.selectors)):
        raise ValueError(f"keep_ratios must have {count} entries, not {recipe.keep_ratios!r}")
    description = {
        "recipe": recipe.to_dict(),
        "config": pruned.config.to_dict(),
        "start_sha256": weights_digest(pruned),
        "teacher_sha256": weights_digest(teacher),
        "calibration_sha256": hashlib.sha256(calibration_u8.tobytes()).hexdigest(),
        "num_pictures": len(train_pictures.labels),
    }
    description = processes.from_main(description)
    with processes.main_first():
        record = Record.open(folder / "training.json", description)
    start = quantize_after_training(pruned, calibration_u8)
    network = _trainable(pruned, start, processes.device)
    if held_out_u8 is not None:
        network.network.selectors.requires_grad_(False)
        recipe = replace(recipe, ratio_weight=0.0)  # the thresholds see to it
        network.thresholds = fit_thresholds(start.integers, held_out_u8, recipe.keep_ratios)
    run = Run(recipe, train_pictures, folder, progress, record, processes)
    history = fit(run, "8-bit", recipe.quantize, network, folder / "integer.progress.safetensors", teacher)
    if held_out_u8 is not None:
        network.thresholds = fit_thresholds(network.export(), held_out_u8, recipe.keep_ratios)
    return network, history


def compare_with_golden(network: QatNetwork, exported: IntegerNetwork, pictures_u8: U8) -> QatComparison:
    """Run the training forward, gradients on, and the golden model on pictures (B, C, S, S); compare every result."""
    num_layers = mismatches = 0
    for start in range(0, len(pictures_u8), COMPARISON_BATCH):
        batch_u8 = pictures_u8[start : start + COMPARISON_BATCH]
        taps: dict[str, tuple[Tensor, Tensor]] = {}

        def record(name: str, value: Quantized, valid: Tensor, taps: dict[str, tuple[Tensor, Tensor]] = taps) -> None:
            taps[name] = (value.codes, valid)

        with torch.enable_grad():
            network(torch.from_numpy(batch_u8).to(network.network.cls_token.device), record)
        for index, picture_u8 in enumerate(batch_u8):
            for name, expected in run_golden(exported, picture_u8).taps.items():
                codes, valid = taps[name]
                num_layers += 1
                mismatches += _count_differences(codes[index].cpu().numpy(), valid[index].cpu().numpy(), expected)
    return QatComparison(len(pictures_u8), num_layers, mismatches)


def _count_differences(codes: NDArray[Any], valid: NDArray[np.bool_], expected: NDArray[Any]) -> int:
    """Compare a result over all slots with the golden one over live tokens; one of another shape differs as a whole.

    codes (N, C), (N,), or (H, N, N) for attention; valid (N,).
    """
    live = codes[:, valid][:, :, valid] if codes.ndim == 3 else codes[valid]
    return int((live != expected).sum()) if live.shape == expected.shape else max(live.size, expected.size)
