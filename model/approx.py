"""Float twins of the integer non-linear functions: what the network computes while it trains.

Same polynomials and knees as quant/approx.py, without quantization and differentiable.
Sources: HeatViT (HPCA 2023) Eq. 11-14; PLAN (Amin 1997).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ERF_KNEE = 1.769
ERF_CURVE = 0.2888
EXP_SCALE, EXP_CENTRE, EXP_OFFSET = 0.3585, 1.353, 0.344
EXP_MIN = -80.0
"""Distances below this are 2**-115 of the peak; the clamp keeps the power of two a normal float."""


def gelu(x: Tensor, delta1: float) -> Tensor:
    """Polynomial GELU: x/2 * (1 + L_erf(x / sqrt(2))).

    L_erf(u) = sign(u) * delta1 * (1 - 0.2888 * (min(|u|, 1.769) - 1.769)**2);
    delta1 in (0, 1]; 1 is within 0.0182 of GELU on [-3, 3], 0.5 is a function that a network must be trained with.
    """
    below_knee = ERF_KNEE - x.abs().mul(math.sqrt(0.5)).clamp(max=ERF_KNEE)
    erf = delta1 * (1 - ERF_CURVE * below_knee.square())
    return 0.5 * (x + x.abs() * erf)  # x * sign(x) is |x|


def exp_negative(x: Tensor) -> Tensor:
    """Polynomial exponential of x <= 0, relative error < 0.32 %.

    L_exp(p) * 2**-z with z = floor(-x / ln 2) and p = x + z ln 2; L_exp(p) = 0.3585 * (p + 1.353)**2 + 0.344.
    """
    x = x.clamp(min=EXP_MIN)
    whole = (-x.detach() / math.log(2)).floor()
    fraction = x + whole * math.log(2)
    return (EXP_SCALE * (fraction + EXP_CENTRE).square() + EXP_OFFSET) * torch.exp2(-whole)


def softmax(scores: Tensor, valid: Tensor, delta2: float) -> Tensor:
    """Softmax over the last axis, times delta2, with weights only on valid columns.

    scores (..., N) in natural units; valid float 0 or 1 that broadcasts, at least one 1 per row. It is a factor of the
    exponential, so a straight-through mask learns from the attention that it removes. The peak is taken over
    the valid columns only, as in the integer function: the polynomial is not invariant to shifts.
    """
    peak = scores.detach().masked_fill(valid == 0, -math.inf).amax(-1, keepdim=True)
    exponential = exp_negative((scores - peak).clamp(max=0)) * valid
    return exponential * (delta2 / exponential.sum(-1, keepdim=True))


def sigmoid(x: Tensor) -> Tensor:
    """PLAN sigmoid: four straight lines a side, 0 and 1 beyond |x| = 5. Error < 0.0189."""
    magnitude = x.abs()
    # The function is concave, so it is the lowest of its lines but for a step of 1/64 at 2.375 (Amin 1997).
    y = torch.where(
        magnitude >= 2.375,
        (magnitude / 32 + 27 / 32).clamp(max=1),
        torch.minimum(magnitude / 4 + 1 / 2, magnitude / 8 + 5 / 8),
    )
    return torch.where(x < 0, 1 - y, y)
