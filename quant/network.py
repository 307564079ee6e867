"""The integer network: every code, multiplier and table that the golden model, the compiler and QAT share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quant.config import NetworkConfig

I8: TypeAlias = NDArray[np.int8]
I16: TypeAlias = NDArray[np.int16]
I32: TypeAlias = NDArray[np.int32]
U8: TypeAlias = NDArray[np.uint8]
U16: TypeAlias = NDArray[np.uint16]


@dataclass(frozen=True)
class LinearLayer:
    """int8 GEMM, bias and requantize per output channel.

    weight_i8 (out, in), or (H, out, in) for a layer that each head applies to its own channels; bias_i32, mult_u16
    and shift_u8 (out,) or (H, out). |bias| + sum |weight| * 128 < 2**31 is proven at export.
    """

    weight_i8: I8
    bias_i32: I32
    mult_u16: U16
    shift_u8: U8


@dataclass(frozen=True)
class GeluLayer:
    """A linear layer whose int16 Q5.10 result passes GELU and one requantize for the whole tensor.

    out_offset is what quant.approx.gelu adds before that; the next layer's bias takes it back.
    """

    linear: LinearLayer
    out_mult: int
    out_shift: int
    out_offset: int


@dataclass(frozen=True)
class NormLayer:
    """LayerNorm affine: gamma_i16 (D,), beta_i32 (D,), shift 0..31, eps 1..2**32-1 (quant.approx.layer_norm)."""

    gamma_i16: I16
    beta_i32: I32
    shift: int
    eps: int


@dataclass(frozen=True)
class Block:
    """One transformer block. score_* scale q.k to log2 units; context_* feed row_scale (delta2 is folded in).

    package_bias_i32 (H,) is added to q.k of the package token's column; before the first selector there is none.
    """

    norm1: NormLayer
    q: LinearLayer
    k: LinearLayer
    v: LinearLayer
    package_bias_i32: I32
    score_mult: int
    score_shift: int
    context_mult: int
    context_shift: int
    proj: LinearLayer
    norm2: NormLayer
    fc1: GeluLayer
    fc2: LinearLayer


@dataclass(frozen=True)
class Selector:
    """One token selector; docs/architecture.md section 2 lists the layers.

    token_score is (H, 1, d/4), head1 (H//2, D).
    """

    norm: NormLayer
    local: GeluLayer
    pool_mult: int
    pool_shift: int
    token1: GeluLayer
    token2: GeluLayer
    token_score: LinearLayer
    head1: GeluLayer
    head_score: LinearLayer
    threshold_u16: int


@dataclass(frozen=True)
class IntegerNetwork:
    """A whole network in integers.

    input_lut_i8 (in_chans, 256) maps a uint8 pixel to its code; position_i16 (num_tokens, D) is added to the patch
    embedding (row 0 holds cls + pos - requantized bias); logit_scale is the real value of one logit code.
    """

    config: NetworkConfig
    input_lut_i8: I8
    patch_embed: LinearLayer
    position_i16: I16
    blocks: tuple[Block, ...]
    selectors: tuple[Selector, ...]
    norm: NormLayer
    head: LinearLayer
    residual_scale: float
    logit_scale: float
