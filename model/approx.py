"""Attention's softmax in float: what a network computes while it trains, and what quant.approx.softmax_rows quantizes.

Source: HeatViT (HPCA 2023) Eq. 13-14. The twins of GELU and sigmoid are in quant/fake_quant.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

EXP_SCALE, EXP_CENTRE, EXP_OFFSET = 0.3585, 1.353, 0.344
EXP_MIN = -80.0
"""Distances below this are 2**-115 of the peak; the clamp keeps the power of two a normal float."""


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
