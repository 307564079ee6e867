"""Quantized tensors for torch: integer codes computed by the contract's functions, gradients by their float twins.

An operation has two sides: `integer` computes the codes with quant.fixed, quant.approx and quant.layers, `real` is the
same function in float. `combine` runs the sides that a mode needs. In training the value is what the codes stand for,
exactly, and the gradient is that of the float side, as if the rounding were not there (straight-through).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from quant.approx import ERF_CURVE, GELU_OFFSET_SCALE, gelu_offset

ERF_KNEE = 1.769 * 2**0.5
"""Where the quadratic erf of HeatViT Eq. 12 saturates, in units of the GELU input."""


class Mode(Enum):
    """Which sides run: FLOAT observes ranges, INTEGER evaluates, TRAIN does both."""

    FLOAT = "float"
    INTEGER = "integer"
    TRAIN = "train"


ABSENT = torch.empty(0)
"""The side of a tensor that the mode does not compute."""


@dataclass(frozen=True)
class Quantized:
    """A tensor as codes, int64, and as value, float32 with gradient; in TRAIN mode value is what codes stand for."""

    codes: Tensor
    value: Tensor

    def map(self, rearrange: Callable[[Tensor], Tensor]) -> Quantized:
        """Apply a rearrangement of elements to the sides that exist."""
        return Quantized(*(side if side is ABSENT else rearrange(side) for side in (self.codes, self.value)))

    def join(self, other: Quantized, dim: int) -> Quantized:
        """Concatenate with a tensor of the same scale along an axis."""
        sides = ((self.codes, other.codes), (self.value, other.value))
        return Quantized(*(ABSENT if mine is ABSENT else torch.cat([mine, theirs], dim=dim) for mine, theirs in sides))


@dataclass(frozen=True)
class Format:
    """Codes low..high, each worth `scale`, from the value `zero` of code 0."""

    scale: float
    low: int
    high: int
    zero: float = 0.0

    @classmethod
    def signed(cls, scale: float, bits: int) -> Format:
        """Two's complement codes of `bits` bits."""
        return cls(scale, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)

    @classmethod
    def gelu(cls, scale: float, delta1: float) -> Format:
        """The int8 codes of an MLP's GELU, which quant.approx.gelu_offset moves."""
        return replace(cls.signed(scale, 8), zero=-gelu_offset(scale, delta1) * GELU_OFFSET_SCALE)

    def value(self, codes: Tensor) -> Tensor:
        """What codes stand for."""
        return codes * self.scale + self.zero


class _StraightThrough(torch.autograd.Function):
    """The second argument forward, the gradient of the first backward."""

    @staticmethod
    def forward(ctx: Any, surrogate: Tensor, exact: Tensor) -> Tensor:
        return exact.to(surrogate.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0], None


def straight_through(surrogate: Tensor, exact: Tensor) -> Tensor:
    """Return a tensor equal to `exact` whose gradient flows to `surrogate`."""
    result: Tensor = _StraightThrough.apply(surrogate, exact)  # type: ignore[no-untyped-call]
    return result


def combine(mode: Mode, integer: Callable[[], Tensor], real: Callable[[], Tensor], form: Format) -> Quantized:
    """Run the sides of an operation that `mode` needs. Where codes saturate, the gradient is zero."""
    if mode is Mode.FLOAT:
        return Quantized(ABSENT, real())
    with torch.no_grad():
        codes = integer()
    if mode is Mode.INTEGER:
        return Quantized(codes, ABSENT)
    surrogate = real().clamp(form.low * form.scale + form.zero, form.high * form.scale + form.zero)
    return Quantized(codes, straight_through(surrogate, form.value(codes)))


def polynomial_gelu(x: Tensor, delta1: float) -> Tensor:
    """HeatViT Eq. 11-12 in float, the twin of quant.approx.gelu."""
    magnitude = x.abs()
    erf = delta1 * (1 - ERF_CURVE * (magnitude.clamp(max=ERF_KNEE) - ERF_KNEE).square())
    return 0.5 * (x + magnitude * erf)  # x * sign(x) is |x|


def plan_sigmoid(x: Tensor) -> Tensor:
    """The piecewise linear sigmoid PLAN (Amin 1997) in float, the twin of quant.approx.sigmoid."""
    magnitude = x.abs()
    upper = torch.where(
        magnitude >= 2.375,
        (magnitude / 32 + 27 / 32).clamp(max=1.0),
        torch.where(magnitude >= 1, magnitude / 8 + 0.625, magnitude / 4 + 0.5),
    )
    return torch.where(x < 0, 1 - upper, upper)


def weighted_softmax(score: Tensor, weight: Tensor) -> Tensor:
    """Softmax to the base 2 over the last axis with a weight 0..1 for each column.

    The weights are the keep masks, so that the loss reaches the score of a token through every attention row it could
    have been in, pruned or not.
    """
    peak = score.detach().masked_fill(weight.detach() == 0, -torch.inf).amax(dim=-1, keepdim=True)
    exponential = torch.exp2((score - peak).clamp(max=0.0)) * weight
    return exponential / exponential.sum(dim=-1, keepdim=True)
