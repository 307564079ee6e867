"""Let the channels use their int8 codes better before a float network is quantized, without changing its function.

Results of LayerNorm, v and attention contexts have one scale a tensor, and a few of their channels reach much further
than the others. Each channel is divided by a factor, in LayerNorm's vectors or in the rows of v, and the weights of the
next layer, which have a scale for each output channel, take it back. A channel's mean of v passes attention unchanged,
because attention weights sum to one; it moves from the bias of v to that of proj, and leaves more codes to what varies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quant.config import NetworkConfig
from quant.convert import run_float
from quant.fake_quant import Quantized
from quant.network import U8

LEAST_FACTOR = 1e-3
"""Of the largest: a channel that calibration hardly saw is not blown up further."""


@dataclass
class _Channels:
    """What the channels of a tensor were seen to be, each (channels,)."""

    low: Tensor
    high: Tensor
    total: Tensor
    count: int

    @classmethod
    def of(cls, values: Tensor) -> _Channels:
        """Take values (rows, channels)."""
        low, high = values.aminmax(dim=0)
        return cls(low, high, values.sum(dim=0), len(values))

    def join(self, other: _Channels) -> _Channels:
        """Return what both saw."""
        low, high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        return _Channels(low, high, self.total + other.total, self.count + other.count)

    def reach(self, centre: Tensor) -> Tensor:
        """The largest distance from a centre."""
        return torch.maximum(self.high - centre, centre - self.low)


def equalize(
    parameters: Mapping[str, Tensor],
    config: NetworkConfig,
    pictures_u8: U8,
    mean: Sequence[float],
    std: Sequence[float],
    thresholds: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """Return the parameters of the same function, made for the ranges seen on pictures (n, C, S, S)."""
    seen: dict[str, _Channels] = {}

    def record(tap: str, tensor: Quantized, valid: Tensor) -> None:
        if tap.startswith("blocks.") and tap.endswith((".norm1", ".norm2", ".attn.v", ".attn.context")):
            channels = _Channels.of(tensor.value[valid])
            seen[tap] = seen[tap].join(channels) if tap in seen else channels

    run_float(parameters, config, pictures_u8, mean, std, thresholds, record)
    equalized = dict(parameters)
    for number in range(config.depth):
        block = f"blocks.{number}"
        for norm, after in (("norm1", "attn.qkv"), ("norm2", "mlp.fc1")):
            channels = seen[f"{block}.{norm}"]
            _equalize_norm(
                equalized, f"{block}.{norm}", f"{block}.{after}", channels.reach(torch.zeros_like(channels.low))
            )
        _equalize_values(
            equalized, f"{block}.attn", seen[f"{block}.attn.v"], seen[f"{block}.attn.context"], config.delta2
        )
    return equalized


def _equalize_norm(parameters: dict[str, Tensor], norm: str, after: str, reach: Tensor) -> None:
    """Let every channel of a LayerNorm reach equally far."""
    factor = _factors(reach)
    for vector in ("weight", "bias"):
        parameters[f"{norm}.{vector}"] = parameters[f"{norm}.{vector}"] / factor
    parameters[f"{after}.weight"] = parameters[f"{after}.weight"] * factor


def _equalize_values(
    parameters: dict[str, Tensor], attention: str, v: _Channels, context: _Channels, delta2: float
) -> None:
    """Centre v and share the differences of its channels with proj: equal reach alone would spoil proj's weights."""
    weight, centre = parameters[f"{attention}.proj.weight"], v.total / v.count
    reach = context.reach(delta2 * centre)
    factor = _factors((reach / weight.abs().amax(dim=0).clamp(min=1e-12)).sqrt())
    v_rows = slice(2 * len(factor), None)  # behind those of q and k
    qkv_weight, qkv_bias = (parameters[f"{attention}.qkv.{kind}"].clone() for kind in ("weight", "bias"))
    qkv_weight[v_rows] /= factor[:, None]
    qkv_bias[v_rows] = (qkv_bias[v_rows] - centre) / factor
    parameters[f"{attention}.qkv.weight"], parameters[f"{attention}.qkv.bias"] = qkv_weight, qkv_bias
    parameters[f"{attention}.proj.bias"] = parameters[f"{attention}.proj.bias"] + weight @ (delta2 * centre)
    parameters[f"{attention}.proj.weight"] = weight * factor


def _factors(wanted: Tensor) -> Tensor:
    """Bring factors (channels,) to a geometric mean of 1."""
    limited = wanted.clamp(min=max(LEAST_FACTOR * float(wanted.max()), 1e-12))
    return limited / limited.log().mean().exp()
