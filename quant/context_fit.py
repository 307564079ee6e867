"""Fit attention contexts of the integer softmax to those of the exact one that a checkpoint was trained with.

Exponentials are 7-bit codes (HeatViT Eq. 14): a token that weighs less than 2**-8 of the heaviest counts as nothing,
and its share goes to the others. Contexts therefore reach too far from the mean of v, most where a head looks at many
tokens. Each channel of a context gets the line, a slope and an offset, that brings it closest to the exact one; the
slope goes into the column of proj and the offset into its bias.

In the last block only CLS reaches the logits, so only its row counts there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from quant.approx import softmax_rows
from quant.config import NetworkConfig
from quant.convert import run_float
from quant.fake_quant import Quantized, weighted_softmax
from quant.fixed import saturate
from quant.layers import merge_heads, split_heads
from quant.network import U8
from quant.torch_forward import SCORE

PICTURES = 32
"""The fit looks at the first of the pictures: each has thousands of contexts."""
ROW_STRIDE = 2
"""And at every second token of them."""
LEAST_VARIANCE = 1e-12
"""A channel that varies less keeps its slope."""


def fit_contexts(
    parameters: Mapping[str, Tensor],
    config: NetworkConfig,
    pictures_u8: U8,
    mean: Sequence[float],
    std: Sequence[float],
    thresholds: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Return parameters with every block's proj fitted on pictures (n, C, S, S)."""
    values: dict[str, Tensor] = {}
    contexts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    last = f"blocks.{config.depth - 1}.attn"

    def record(tap: str, tensor: Quantized, valid: Tensor) -> None:
        attention, _, part = tap.rpartition(".")
        if attention.endswith(".attn") and part == "v":
            values[attention] = split_heads(tensor.value, config.num_heads)
        elif attention.endswith(".attn") and part == "scores":
            rows = slice(1) if attention == last else slice(None, None, ROW_STRIDE)
            pair = _contexts(tensor.value[:, :, rows], valid, values.pop(attention))
            contexts.setdefault(attention, []).append((pair[0][valid[:, rows]], pair[1][valid[:, rows]]))

    run_float(parameters, config, pictures_u8[:PICTURES], mean, std, thresholds, record)
    fitted = dict(parameters)
    for attention, pairs in contexts.items():
        found, exact = (torch.cat(side) for side in zip(*pairs, strict=True))
        slope, offset = _line(found, exact)
        weight, bias = parameters[f"{attention}.proj.weight"], parameters[f"{attention}.proj.bias"]
        fitted[f"{attention}.proj.weight"] = weight * slope
        fitted[f"{attention}.proj.bias"] = bias + weight @ (config.delta2 * offset)
    return fitted


def _contexts(score: Tensor, valid: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Contexts (B, rows, D) by the integer and by the exact softmax of scores (B, H, rows, N) in log2 units.

    valid (B, N) bool; v (B, H, N, d).
    """
    is_seen = valid[:, None, None]
    codes = saturate((score / SCORE.scale).round(), 16).to(torch.int32)
    exponential, row_sum = softmax_rows(codes, is_seen)
    found = exponential.to(v.dtype) @ v / row_sum[..., None]
    return merge_heads(found), merge_heads(weighted_softmax(score, is_seen.to(v.dtype)) @ v)


def _line(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset of the least-squares line from x to y, (rows, channels) each, for every channel."""
    x_mean, y_mean = x.mean(dim=0), y.mean(dim=0)
    variance = (x - x_mean).square().mean(dim=0)
    covariance = ((x - x_mean) * (y - y_mean)).mean(dim=0)
    slope = torch.where(
        variance > LEAST_VARIANCE, covariance / variance.clamp(min=LEAST_VARIANCE), torch.ones_like(variance)
    )
    return slope, y_mean - slope * x_mean
