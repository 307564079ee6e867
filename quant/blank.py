"""Networks of zeros: the shapes that a compiler and a cycle model need where no weights exist."""

from __future__ import annotations

import numpy as np

from quant.config import NetworkConfig
from quant.network import Block, GeluLayer, IntegerNetwork, LinearLayer, NormLayer, Selector

UNIT_MULT, UNIT_SHIFT = 1 << 15, 15


def blank_network(config: NetworkConfig) -> IntegerNetwork:
    """Return a network of this topology whose weights are zero; every multiplier is a factor of one."""
    dim = config.embed_dim
    return IntegerNetwork(
        config=config,
        input_lut_i8=np.zeros((config.in_chans, 256), np.int8),
        patch_embed=_linear(dim, config.patch_dim),
        position_i16=np.zeros((config.num_tokens, dim), np.int16),
        blocks=(_block(config),) * config.depth,
        selectors=(_selector(config),) * len(config.selectors),
        norm=_norm(dim),
        head=_linear(config.num_classes, dim),
        residual_scale=1.0,
        logit_scale=1.0,
    )


def _linear(*shape: int) -> LinearLayer:
    """Return a layer of (..., out, in) weights."""
    channels = shape[:-1]
    return LinearLayer(
        np.zeros(shape, np.int8),
        np.zeros(channels, np.int32),
        np.ones(channels, np.uint16),
        np.zeros(channels, np.uint8),
    )


def _gelu(*shape: int) -> GeluLayer:
    return GeluLayer(_linear(*shape), UNIT_MULT, UNIT_SHIFT, 0)


def _norm(dim: int) -> NormLayer:
    return NormLayer(np.ones(dim, np.int16), np.zeros(dim, np.int32), shift=0, eps=1)


def _block(config: NetworkConfig) -> Block:
    dim, hidden = config.embed_dim, config.mlp_hidden
    return Block(
        norm1=_norm(dim),
        q=_linear(dim, dim),
        k=_linear(dim, dim),
        v=_linear(dim, dim),
        package_bias_i32=np.zeros(config.num_heads, np.int32),
        score_mult=UNIT_MULT,
        score_shift=UNIT_SHIFT,
        context_mult=UNIT_MULT,
        context_shift=UNIT_SHIFT,
        proj=_linear(dim, dim),
        norm2=_norm(dim),
        fc1=_gelu(hidden, dim),
        fc2=_linear(dim, hidden),
    )


def _selector(config: NetworkConfig) -> Selector:
    heads, head_dim, hidden = config.num_heads, config.head_dim, config.head_branch_hidden
    return Selector(
        norm=_norm(config.embed_dim),
        local=_gelu(heads, head_dim // 2, head_dim),
        pool_mult=UNIT_MULT,
        pool_shift=UNIT_SHIFT,
        token1=_gelu(heads, head_dim // 2, head_dim),
        token2=_gelu(heads, head_dim // 4, head_dim // 2),
        token_score=_linear(heads, 1, head_dim // 4),
        head1=_gelu(hidden, config.embed_dim),
        head_score=_linear(heads, hidden),
        threshold_u16=0,
    )
