"""The non-linear functions in float: HeatViT's polynomials, which quant.approx quantizes, or the exact ones.

Source: HeatViT (HPCA 2023) Eq. 13-14. The polynomial GELU and sigmoid are in quant/fake_quant.py.
"""

from __future__ import annotations

import math
from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional

from quant.fake_quant import polynomial_gelu

EXP_SCALE, EXP_CENTRE, EXP_OFFSET = 0.3585, 1.353, 0.344
EXP_MIN = -80.0
"""Distances below this are 2**-115 of the peak; the clamp keeps the power of two a normal float."""


class Kernels(Enum):
    """What computes softmax and GELU.

    TRAINED: the polynomials that networks of this project are trained with. FUSED: torch's own exact functions, which
    are much faster and are what a timm checkpoint was trained with; only for delta1 = delta2 = 1.
    """

    TRAINED = "trained"
    FUSED = "fused"


def check_kernels(kernels: Kernels, delta1: float, delta2: float) -> None:
    """Raise ValueError if a network of these deltas cannot be computed by the kernels."""
    if kernels is Kernels.FUSED and (delta1, delta2) != (1.0, 1.0):
        raise ValueError(f"fused kernels need delta1 and delta2 of 1, not {delta1!r} and {delta2!r}")


def gelu(x: Tensor, delta1: float, kernels: Kernels) -> Tensor:
    """GELU of the MLP by the chosen kernels."""
    return functional.gelu(x) if kernels is Kernels.FUSED else polynomial_gelu(x, delta1)


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


def exact_softmax(scores: Tensor, valid: Tensor) -> Tensor:
    """Softmax over the last axis with the exact exponential; scores and valid as in `softmax`."""
    weight = torch.softmax(scores, -1) * valid
    return weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)
