"""Fit the polynomial GELU and its int8 codes to the exact GELU that a checkpoint was trained with.

The polynomial of HeatViT Eq. 11-12 and the rounding to int8 differ from GELU by a curve. What of it falls on the
values that a hidden unit really takes depends on where they lie, so each unit gets a scale and a shift of its GELU's
input, the pair whose error varies least; the shift goes into the bias of fc1, the scale into its row and, inverted,
into the column of fc2. What the error is on average is taken back in the bias of fc2. The range of the codes is
searched the same way.

In the last block only CLS reaches the logits, so only its values count there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from quant.approx import gelu_offset
from quant.config import NetworkConfig
from quant.convert import run_float
from quant.fake_quant import Format, Quantized
from quant.fixed import quantize_multiplier, saturate
from quant.float_layers import CODE_MIN, gelu_table
from quant.network import U8
from quant.quantize import FEATURE_SCALE, GELU_SCALE

RANGES = (0.8, 0.9, 1.0, 1.15, 1.3, 1.5, 1.75)
"""Candidates for the range of the codes, relative to that of calibration; CLS in the last block needs the long ones."""
INPUT_SCALES = (0.85, 0.95, 1.0, 1.05, 1.15)
INPUT_SHIFTS = (-0.1, 0.0, 0.1)
ROWS = 2048
"""Tokens of a block that the fit looks at, taken evenly from all pictures."""


class _Fit(NamedTuple):
    """Of each hidden unit: scale and shift of its input, mean and variance of the error that is left, all (hidden,)."""

    scale: Tensor
    shift: Tensor
    mean: Tensor
    variance: Tensor


def fit_gelu(
    parameters: Mapping[str, Tensor],
    config: NetworkConfig,
    scales: Mapping[str, float],
    pictures_u8: U8,
    mean: Sequence[float],
    std: Sequence[float],
    thresholds: Sequence[int] | None = None,
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Return parameters and scales with every block's MLP fitted on pictures (n, C, S, S).

    scales are those of quant.convert.calibrate for these parameters.
    """
    operands: defaultdict[str, list[Tensor]] = defaultdict(list)
    last, stride = f"blocks.{config.depth - 1}", max(len(pictures_u8) * config.num_tokens // ROWS, 1)

    def record(tap: str, tensor: Quantized, valid: Tensor) -> None:
        if tap.startswith("blocks.") and tap.endswith(".norm2"):
            block = tap.removesuffix(".norm2")
            operands[block].append(tensor.value[:, 0] if block == last else tensor.value[valid][::stride])

    run_float(parameters, config, pictures_u8, mean, std, thresholds, record)
    fitted, fitted_scales = dict(parameters), dict(scales)
    for block, parts in operands.items():
        fc1, fc2 = f"{block}.mlp.fc1", f"{block}.mlp.fc2"
        weight, bias, out_weight = parameters[f"{fc1}.weight"], parameters[f"{fc1}.bias"], parameters[f"{fc2}.weight"]
        x = functional.linear(torch.cat(parts), weight, bias)  # (rows, hidden)
        out_scale, fit = _fit(x, scales[fc1], config.delta1, out_weight.square().sum(dim=0))
        fitted_scales[fc1] = out_scale
        fitted[f"{fc1}.weight"] = weight * fit.scale[:, None]
        fitted[f"{fc1}.bias"] = bias * fit.scale + fit.shift
        fitted[f"{fc2}.weight"] = out_weight / fit.scale
        fitted[f"{fc2}.bias"] = parameters[f"{fc2}.bias"] - out_weight @ fit.mean
    return fitted, fitted_scales


def _fit(x: Tensor, out_scale: float, delta1: float, importance: Tensor) -> tuple[float, _Fit]:
    """Return the scale of the codes and the fit for GELU inputs x (rows, hidden); importance (hidden,) weighs units."""
    target = functional.gelu(x)

    def lost(ratio: float) -> float:
        table = _table(out_scale * ratio, delta1, x.device)
        return float((_error(x, target, table, 1.0, 0.0).variance * importance).sum())

    out_scale *= min(RANGES, key=lost)
    table = _table(out_scale, delta1, x.device)
    best = _error(x, target, table, 1.0, 0.0)
    for scale, shift in product(INPUT_SCALES, INPUT_SHIFTS):
        candidate = _error(x, target, table, scale, shift)
        is_better = candidate.variance < best.variance
        best = _Fit(*(torch.where(is_better, new, old) for new, old in zip(candidate, best, strict=True)))
    return out_scale, best


def _table(out_scale: float, delta1: float, device: torch.device) -> Tensor:
    """What the integer GELU's codes stand for, over the codes of its input."""
    form = Format.gelu(out_scale, delta1)
    codes = gelu_table(*quantize_multiplier(GELU_SCALE / out_scale), gelu_offset(out_scale, delta1), delta1, device)
    return form.value(codes)


def _error(x: Tensor, target: Tensor, table: Tensor, scale: float, shift: float) -> _Fit:
    """How the integer GELU of a scaled and shifted input, scaled back, errs against the exact GELU of the input."""
    codes_i16 = saturate(((x * scale + shift) / FEATURE_SCALE).round(), 16).to(torch.int32)
    error = table.index_select(0, (codes_i16 - CODE_MIN).flatten()).view(x.shape) / scale - target
    variance, mean = torch.var_mean(error, dim=0, correction=0)
    return _Fit(torch.full_like(mean, scale), torch.full_like(mean, shift), mean, variance)
