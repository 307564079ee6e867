"""Integer layers whose integers are carried in floating point: the same numbers, at the speed of a float network.

Every function here returns, exactly, what its twin in quant.layers and quant.approx returns. Codes of at most 16 bits
are held in float32. A product of matrices runs in float32 where the sum of its weights proves that no partial sum
reaches 2**24, and in float64 elsewhere. A requantize runs in float64: with factor = mult * 2**-shift it is
floor(acc * factor + 1/2), and as |acc * mult| < 2**47 each of its steps is a multiple of 2**-shift that float64 holds.
GELU, sigmoid and the exponential take codes of 16 bits, so each is a table that quant.approx computes once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from quant.approx import exp2_negative, gelu, gelu_constants, reciprocal_sqrt, row_scale, sigmoid
from quant.bounds import product_bound
from quant.fixed import WEIGHT_MAX, requantize
from quant.network import GeluLayer, LinearLayer, NormLayer

EXACT_FLOAT32 = 1 << 24
"""float32 holds every integer up to this magnitude."""
CODE_MIN = -(1 << 15)
"""Smallest code of 16 bits, the one that the first entry of a table belongs to."""


@dataclass(frozen=True)
class FloatLinear:
    """A linear layer: weight (..., in, out) float32 or float64, factor and offset (..., 1, out) float64.

    The result is floor(x @ weight * factor + offset), saturated.
    """

    weight: Tensor
    factor: Tensor
    offset: Tensor

    @classmethod
    def of(cls, layer: LinearLayer, device: torch.device) -> FloatLinear:
        """Take a layer of an integer network of arrays."""
        dtype = torch.float32 if product_bound(layer) < EXACT_FLOAT32 else torch.float64
        weight = _tensor(layer.weight_i8, device).to(dtype).mT.contiguous()
        factor = (_tensor(layer.mult_u16, device) * torch.exp2(-_tensor(layer.shift_u8, device)))[..., None, :]
        return cls(weight, factor, _tensor(layer.bias_i32, device)[..., None, :] * factor + 0.5)


@dataclass(frozen=True)
class FloatGelu:
    """A linear layer and the table (65536,) float32 of GELU and its requantize over the codes of 16 bits."""

    linear: FloatLinear
    table: Tensor

    @classmethod
    def of(cls, layer: GeluLayer, delta1: float, device: torch.device) -> FloatGelu:
        """Take a layer of an integer network of arrays."""
        table = gelu_table(layer.out_mult, layer.out_shift, layer.out_offset, delta1, device)
        return cls(FloatLinear.of(layer.linear, device), table)


@dataclass(frozen=True)
class FloatNorm:
    """LayerNorm: out = floor(normalised * gain + offset), saturated; gain and offset (D,) float64."""

    gain: Tensor
    offset: Tensor
    eps: int

    @classmethod
    def of(cls, layer: NormLayer, device: torch.device) -> FloatNorm:
        """Take a layer of an integer network of arrays."""
        unit = 2.0**-layer.shift
        return cls(_tensor(layer.gamma_i16, device) * unit, _tensor(layer.beta_i32, device) * unit + 0.5, layer.eps)


@dataclass(frozen=True)
class Tables:
    """The functions of 16-bit codes that have no parameters: float32 tables.

    exponential[d] for a distance d of scores, up to the first distance beyond which all are zero; sigmoid (65536,).
    """

    exponential: Tensor
    sigmoid: Tensor

    @classmethod
    def on(cls, device: torch.device) -> Tables:
        """Compute them."""
        exponential = exp2_negative(torch.arange(1 << 16, device=device))
        last = int(exponential.nonzero().max())
        return cls(exponential[: last + 2].to(torch.float32), sigmoid(_codes_i16(device)).to(torch.float32))


def gelu_table(out_mult: int, out_shift: int, out_offset: int, delta1: float, device: torch.device) -> Tensor:
    """The int8 codes that GELU gives for every code of 16 bits from CODE_MIN, (65536,) float32."""
    activated_q26 = gelu(_codes_i16(device), *gelu_constants(delta1), out_offset)
    table: Tensor = requantize(activated_q26, out_mult, out_shift, 8).to(torch.float32)
    return table


def _tensor(array: NDArray[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device=device, dtype=torch.float64)


def _codes_i16(device: torch.device) -> Tensor:
    """Every code of 16 bits, ascending."""
    return torch.arange(CODE_MIN, -CODE_MIN, device=device)


def linear(x_i8: Tensor, layer: FloatLinear, bits: int) -> Tensor:
    """quant.layers.linear: (..., N, in) -> (..., N, out) float32."""
    return _linear(x_i8, layer, bits).to(torch.float32)


def gelu_linear(x_i8: Tensor, layer: FloatGelu) -> Tensor:
    """quant.layers.gelu_linear."""
    return _look_up(layer.table, _linear(x_i8, layer.linear, 16))


def sigmoid_linear(x_i8: Tensor, layer: FloatLinear, tables: Tables) -> Tensor:
    """quant.layers.sigmoid_linear."""
    return _look_up(tables.sigmoid, _linear(x_i8, layer, 16))


def residual_linear(residual_i16: Tensor, x_i8: Tensor, layer: FloatLinear) -> Tensor:
    """quant.layers.residual_linear."""
    return _saturate(linear(x_i8, layer, 16).add_(residual_i16), 16)


def as_weights(x_i8: Tensor) -> Tensor:
    """quant.layers.as_weights."""
    return x_i8.clamp(min=-WEIGHT_MAX)


def norm(x_i16: Tensor, layer: FloatNorm) -> Tensor:
    """quant.layers.norm: (..., N, D) -> (..., N, D)."""
    x, size = x_i16.to(torch.float64), x_i16.shape[-1]
    total = x.sum(dim=-1, keepdim=True)
    variance = x.square().sum(dim=-1, keepdim=True).mul_(size).sub_(total.square()).add_(layer.eps)
    factor = _factor(*reciprocal_sqrt(variance.to(torch.int64)))
    centred = torch.addcmul(0.5 - total * factor, x, factor * size)  # (D * x - total) * factor + 1/2
    normalised = _saturate(centred.floor_(), 16)
    return _saturate(torch.addcmul(layer.offset, normalised, layer.gain).floor_(), 8).to(torch.float32)


def attention_scores(
    q_i8: Tensor, k_i8: Tensor, is_package: Tensor, package_bias: Tensor, mult: int, shift: int
) -> Tensor:
    """quant.layers.attention_scores, in float64: q, k (B, H, N, d), is_package (B, N), bias (H, 1) -> (B, H, N, N)."""
    acc = (q_i8 @ as_weights(k_i8).mT).to(torch.float64)
    picture, column = is_package.nonzero(as_tuple=True)
    acc[picture, :, :, column] += package_bias
    return _saturate(acc.mul_(mult * 2.0**-shift).add_(0.5).floor_(), 16)


def softmax_rows(score_i16: Tensor, valid: Tensor | None, tables: Tables) -> tuple[Tensor, Tensor]:
    """quant.approx.softmax_rows; it overwrites the scores. valid (B, N) bool; None: every column is valid."""
    if valid is not None:
        score_i16.masked_fill_(~valid[:, None, None, :], CODE_MIN)
    peak = score_i16.amax(dim=-1, keepdim=True)
    distance = torch.sub(peak, score_i16, out=score_i16).clamp_(max=len(tables.exponential) - 1)
    exponential = _take(tables.exponential, distance)
    if valid is not None:  # a score may be as small as those of invalid columns
        exponential *= valid[:, None, None, :]
    return exponential, exponential.sum(dim=-1)


def attention_context(exp_u8: Tensor, row_sum: Tensor, v_i8: Tensor, mult: int, shift: int) -> Tensor:
    """quant.layers.attention_context: exponentials (B, H, N, N), v (B, H, N, d) -> (B, H, N, d)."""
    factor = _factor(*row_scale(row_sum.to(torch.int64), mult, shift))
    acc = (exp_u8 @ as_weights(v_i8)).to(torch.float64)
    return _saturate(acc.mul_(factor[..., None]).add_(0.5).floor_(), 8).to(torch.float32)


def _linear(x_i8: Tensor, layer: FloatLinear, bits: int) -> Tensor:
    acc = (x_i8.to(layer.weight.dtype) @ layer.weight).to(torch.float64)
    return _saturate(torch.addcmul(layer.offset, acc, layer.factor, out=acc).floor_(), bits)


def _factor(mult_u16: Tensor, shift: Tensor) -> Tensor:
    """mult * 2**-shift as float64."""
    return mult_u16.to(torch.float64) * torch.exp2(-shift.to(torch.float64))


def _saturate(x: Tensor, bits: int) -> Tensor:
    """quant.fixed.saturate in place."""
    return x.clamp_(-(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def _look_up(table: Tensor, codes_i16: Tensor) -> Tensor:
    """Return the entries that codes of 16 bits, overwritten, have in a table over all of them."""
    return _take(table, codes_i16.sub_(CODE_MIN))


def _take(table: Tensor, index: Tensor) -> Tensor:
    return table.index_select(0, index.to(torch.int32).flatten()).view(index.shape)
