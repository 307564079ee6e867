"""What quantization after training does to one network: accuracy, error of the logits, error by kind of layer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from heatvit.paired import rms_within_pictures
from heatvit.progress import Report
from model.data import Pictures, batches
from model.inference import infer
from model.vit import VisionTransformer
from quant.convert import calibrate, check_parameters, export
from quant.fake_quant import polynomial_gelu
from quant.fast_golden import FastGolden
from quant.network import U8
from quant.signal_to_noise import LayerNoise, signal_to_noise

BATCH = 50
"""Pictures at once; small networks lose their time between kernels if there are fewer."""
SHARES = {
    "float_top1": "top-1, float, %",
    "golden_top1": "top-1, golden, %",
    "top1_loss": "top-1 lost, points",
    "agreement": "same class, %",
}
"""What is measured as a share of the pictures, in words; settings are compared by differences."""
SIZES = {
    "relative_error": "logit error / logits",
    "error_rms": "logit error",
    "logit_rms": "logits",
    "gelu_peak_gain": "GELU slope, largest",
    "gelu_gain": "GELU slope, rms",
    "gelu_relative_gain": "GELU gain of error / signal",
}
"""What is measured as a size, in words; settings are compared by ratios. error_rms is relative_error * logit_rms."""
KINDS = {
    "residual stream": ("patch_embed", "proj", "fc2"),
    "LayerNorm": ("norm1", "norm2", "norm"),
    "q, k, v": ("q", "k", "v"),
    "attention scores": ("scores",),
    "attention context": ("context",),
    "GELU": ("fc1",),
}
"""Kinds of layers by the last word of their taps' names; the head is measured apart, as logits."""


def measure(network: VisionTransformer, calibration_u8: U8, pictures: Pictures, report: Report) -> dict[str, Any]:
    """Quantize a network without selectors after training and compare it with its integer golden; plain JSON types.

    float_top1, golden_top1, top1_loss (the first less the second) and agreement are shares of the pictures. logit_rms
    is the root mean square of the float logits and error_rms that of golden - float, both less their mean over the
    classes of each picture, which no decision depends on; relative_error is error_rms / logit_rms. layers: see
    `_noise_by_kind`; gelu_...: see `gelu_gains`. Both on the calibration pictures.
    """
    mean, std = network.normalisation.mean, network.normalisation.std
    parameters = check_parameters(network.state_dict(), network.config)
    scales = calibrate(parameters, network.config, calibration_u8, mean, std)
    integers = export(parameters, network.config, scales, mean, std)
    noise = signal_to_noise(
        parameters, integers, scales, mean, std, calibration_u8, partial(report, "error of every layer")
    )
    logits = _logits(network, FastGolden(integers), scales["head"], pictures, partial(report, "float and golden"))
    return {
        **compare_logits(*logits, pictures.labels),
        **gelu_gains(network, calibration_u8),
        "layers": _noise_by_kind(noise),
    }


def _logits(
    network: VisionTransformer,
    golden: FastGolden,
    scale: float,
    pictures: Pictures,
    progress: Callable[[int, int], None],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the logits (pictures, classes) of the float network and of its golden; scale is what a code is worth."""
    floats, codes = [], []
    for pictures_u8, _ in batches(pictures, BATCH):
        batch = torch.from_numpy(pictures_u8)
        floats.append(infer(network, batch).logits.numpy())
        codes.append(golden.run(batch).logits_i16.numpy())
        progress(min(len(floats) * BATCH, len(pictures.labels)), len(pictures.labels))
    return np.concatenate(floats).astype(np.float64), np.concatenate(codes) * scale


def compare_logits(
    floats: NDArray[np.float64], golden: NDArray[np.float64], labels: NDArray[np.int64]
) -> dict[str, float]:
    """Compare logits (pictures, classes); the values are those that `measure` describes."""
    chosen, golden_chosen = floats.argmax(axis=1), golden.argmax(axis=1)
    top1, golden_top1 = (float((classes == labels).mean()) for classes in (chosen, golden_chosen))
    logit_rms, error_rms = rms_within_pictures(floats), rms_within_pictures(golden - floats)
    return {
        "float_top1": top1,
        "golden_top1": golden_top1,
        "top1_loss": top1 - golden_top1,
        "agreement": float((chosen == golden_chosen).mean()),
        "logit_rms": logit_rms,
        "error_rms": error_rms,
        "relative_error": error_rms / logit_rms,
    }


def _noise_by_kind(noise: list[LayerNoise]) -> dict[str, dict[str, float]]:
    """Return, of each kind of layer, errors relative to the float values, root mean square over its layers.

    error holds all that was lost up to a layer; rounding is what the 8 or 16 bits of its own result lose alone.
    """
    by_kind = defaultdict(list)
    for layer in noise:
        for kind, names in KINDS.items():
            if layer.name.rpartition(".")[2] in names:
                by_kind[kind].append(layer)
    return {
        kind: {
            "error": _rms_ratio([layer.snr_db for layer in by_kind[kind]]),
            "rounding": _rms_ratio([layer.rounding_db for layer in by_kind[kind]]),
        }
        for kind in KINDS
    }


def _rms_ratio(decibels: list[float]) -> float:
    """Root mean square of noise / signal."""
    return math.sqrt(sum(10 ** (-value / 10) for value in decibels) / len(decibels))


def gelu_gains(network: VisionTransformer, pictures_u8: U8) -> dict[str, float]:
    """Return how much the GELUs of a network scale a small error of their input, over the values x that occur.

    HeatViT's argument is about f'(x): gelu_peak_gain is its largest magnitude, and gelu_gain its root mean square, on
    average over the blocks. But f makes the signal smaller, too: gelu_relative_gain is what becomes of the error
    relative to the signal, gelu_gain * rms(x) / rms(f(x)), on average over the blocks.
    """
    peaks, gains, relative_gains = [], [], []
    for x in _gelu_inputs(network, pictures_u8):
        x.requires_grad_(True)
        result = polynomial_gelu(x, network.config.delta1)
        (slope,) = torch.autograd.grad(result.sum(), x)
        gain = _rms(slope)
        peaks.append(float(slope.abs().max()))
        gains.append(gain)
        relative_gains.append(gain * _rms(x) / _rms(result))
    return {
        "gelu_peak_gain": max(peaks),
        "gelu_gain": float(np.mean(gains)),
        "gelu_relative_gain": float(np.mean(relative_gains)),
    }


def _gelu_inputs(network: VisionTransformer, pictures_u8: U8) -> list[Tensor]:
    """Return what enters the GELU of every block, (pictures, tokens, hidden) each."""
    inputs: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda module, arguments, result: inputs.append(result.clone()))
        for name, module in network.named_modules()
        if name.endswith("mlp.fc1")
    ]
    with torch.no_grad():
        network(torch.from_numpy(pictures_u8))
    for handle in handles:
        handle.remove()
    return inputs


def _rms(values: Tensor) -> float:
    return float(values.detach().square().mean().sqrt())
