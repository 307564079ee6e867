"""Random networks for tests and fuzzing: every code path, with values at the edges of their ranges.

Multipliers are drawn so that a typical activation spreads over a part of its range; some channels get extreme weights
or a bias at the edge of the accumulator bound and saturate.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quant.approx import KEEP_THRESHOLD_Q16
from quant.bounds import OPERAND_MAX
from quant.config import NetworkConfig
from quant.fixed import WEIGHT_MAX, quantize_multiplier
from quant.network import I16, U8, Block, GeluLayer, IntegerNetwork, LinearLayer, NormLayer, Selector
from quant.parameters import parameter_shapes
from quant.reference import run

OPERAND_SPREAD = 40.0
"""Standard deviation, in codes, that int8 activations are given."""
FEATURE_SPREAD = 1.5 * 1024
"""The same for GELU and sigmoid inputs, Q5.10."""
RESIDUAL_SPREAD = 3000.0
"""The same for what a layer adds to the int16 residual stream, and for logits."""
GELU_SPREAD = FEATURE_SPREAD * (1 << 16) / 2
"""About the standard deviation of GELU's Q26 result for such inputs."""
EXTREME_SHARE = 0.05
"""Share of output channels with extreme weights, and of those with an extreme bias."""
SHALLOW_DEPTH = 3
"""In deeper networks a block adds less to the residual, and its bias is extreme more seldom: else the sum of all blocks
saturates, and all tokens become equal, which hides one taken for another."""
FEW_TOKENS = 40
"""Among more tokens than these the scores spread more: else every row of the context is the same mean."""


def random_config(
    rng: np.random.Generator, channel_multiple: int = 4, max_tokens: int = 40, max_selectors: int = 3
) -> NetworkConfig:
    """Draw a small topology: depth 1..3, heads 1..4, 5..max_tokens tokens, 0..max_selectors selectors.

    embed_dim is a multiple of channel_multiple and mlp_hidden an odd multiple of it; head_dim is a multiple of 4.
    """
    heads = int(rng.integers(1, 5))
    head_dim = 4 * int(rng.integers(1, 5))
    while heads * head_dim % channel_multiple:
        head_dim += 4
    depth = int(rng.integers(1, 4))
    side = int(rng.integers(2, math.isqrt(max_tokens - 1) + 1))
    patch_size = int(rng.integers(1, 5))
    num_selectors = int(rng.integers(0, min(max_selectors, depth) + 1))
    return NetworkConfig(
        image_size=side * patch_size,
        patch_size=patch_size,
        in_chans=int(rng.choice([1, 3])),
        num_classes=int(rng.integers(2, 13)),
        embed_dim=heads * head_dim,
        depth=depth,
        num_heads=heads,
        mlp_hidden=channel_multiple * int(rng.choice([3, 5, 7, 9, 11])),
        selectors=tuple(sorted(int(block) for block in rng.choice(depth, num_selectors, replace=False))),
        delta1=float(rng.choice([0.5, 1.0])),
        delta2=float(rng.choice([0.5, 1.0])),
    )


def random_picture(rng: np.random.Generator, config: NetworkConfig) -> U8:
    """Draw a uint8 picture (in_chans, image_size, image_size): noise, sometimes all black or all white."""
    shape = (config.in_chans, config.image_size, config.image_size)
    low, high = [(0, 256), (0, 256), (0, 256), (0, 1), (255, 256)][rng.integers(5)]
    return rng.integers(low, high, shape, dtype=np.uint8)


def random_parameters(rng: np.random.Generator, config: NetworkConfig) -> dict[str, NDArray[np.float32]]:
    """Draw the parameters of a float network whose activations have unit scale, negative gammas included."""
    parameters = {}
    for name, shape in parameter_shapes(config).items():
        values = rng.normal(0, 0.3, shape)
        if name.endswith(".weight"):
            # A vector is a LayerNorm's gamma; else all axes but the output channels' are the input.
            inputs = math.prod(shape[1:]) if len(shape) == 4 else shape[-1]
            values = 1 + values if len(shape) == 1 else rng.normal(0, 1.5 / math.sqrt(inputs), shape)
        parameters[name] = values.astype(np.float32)
    return parameters


def random_network(rng: np.random.Generator, config: NetworkConfig) -> IntegerNetwork:
    """Draw every code, multiplier and table of a network; it passes quant.bounds.prove_bounds.

    Thresholds are mostly keep scores that occur, so that each selector prunes some tokens and meets ties; some prune
    nothing, some everything.
    """
    dim = config.embed_dim
    network = IntegerNetwork(
        config=config,
        input_lut_i8=rng.integers(-128, 128, (config.in_chans, 256), dtype=np.int8),
        patch_embed=_linear(rng, (dim, config.patch_dim), RESIDUAL_SPREAD),
        position_i16=_position(rng, config),
        blocks=tuple(_block(rng, config) for _ in range(config.depth)),
        selectors=tuple(_selector(rng, config) for _ in config.selectors),
        norm=_norm(rng, dim),
        head=_linear(rng, (config.num_classes, dim), RESIDUAL_SPREAD),
        residual_scale=2.0**-10,
        logit_scale=2.0**-10,
    )
    for stage in range(len(network.selectors)):
        network = _with_threshold(rng, network, stage)
    return network


def _with_threshold(rng: np.random.Generator, network: IntegerNetwork, stage: int) -> IntegerNetwork:
    """Return the network with the threshold of selector `stage` drawn; those of earlier selectors are in place."""
    taps = run(network, random_picture(rng, network.config)).taps
    occurring = rng.choice(taps[f"selectors.{stage}.keep_score"][1:], 8)  # not that of CLS
    threshold = int(rng.choice([*occurring, 0, 65535]))
    selectors = list(network.selectors)
    selectors[stage] = replace(selectors[stage], threshold_u16=threshold)
    return replace(network, selectors=tuple(selectors))


def _jitter(rng: np.random.Generator) -> float:
    """A factor between 1/2 and 2."""
    return float(2 ** rng.uniform(-1, 1))


def _linear(
    rng: np.random.Generator, shape: tuple[int, ...], spread: float, edge_share: float = EXTREME_SHARE
) -> LinearLayer:
    """Draw weights (..., out, in) and multipliers that turn operands of OPERAND_SPREAD into results of `spread`.

    edge_share of the channels get a bias at the edge of the accumulator bound.
    """
    channels = shape[:-1]
    weight = rng.integers(-WEIGHT_MAX, WEIGHT_MAX + 1, shape)
    extreme = rng.choice([-WEIGHT_MAX, WEIGHT_MAX], (*channels, 1)) * rng.choice([1, 1, -1], (*channels, 1))
    weight = np.where(rng.random((*channels, 1)) < EXTREME_SHARE, extreme, weight)
    acc_spread = np.sqrt((weight**2).sum(axis=-1)) * OPERAND_SPREAD
    bias = np.round(rng.normal(0, 0.3, channels) * acc_spread).astype(np.int64)
    room = (1 << 31) - 1 - np.abs(weight).sum(axis=-1) * OPERAND_MAX
    edge = rng.choice([-1, 1], channels) * room
    bias = np.where(rng.random(channels) < edge_share, edge, bias)
    multipliers = [quantize_multiplier(spread / value * _jitter(rng)) for value in np.maximum(acc_spread, 1).ravel()]
    mult, shift = (np.array(values).reshape(channels) for values in zip(*multipliers, strict=True))
    return LinearLayer(weight.astype(np.int8), bias.astype(np.int32), mult.astype(np.uint16), shift.astype(np.uint8))


def _gelu(rng: np.random.Generator, shape: tuple[int, ...]) -> GeluLayer:
    out_mult, out_shift = quantize_multiplier(OPERAND_SPREAD / GELU_SPREAD * _jitter(rng))
    own = rng.spawn(1)[0]  # the stream of everything else does not depend on it
    out_offset = -round(own.uniform(0, FEATURE_SPREAD))
    return GeluLayer(_linear(rng, shape, FEATURE_SPREAD), out_mult, out_shift, out_offset)


def _norm(rng: np.random.Generator, dim: int) -> NormLayer:
    """LayerNorm with the largest gamma at the edge of int16, about OPERAND_SPREAD out, negative gammas included."""
    gamma = rng.normal(1, 0.4, dim)
    gamma[rng.random(dim) < EXTREME_SHARE] *= -1
    gamma_i16 = np.round(gamma / np.abs(gamma).max() * 32767)
    # A normalised value has a standard deviation of 2**10 codes, the largest gamma is 2**15: 2**25 in all.
    shift = 25 - round(math.log2(OPERAND_SPREAD * _jitter(rng)))
    beta_i32 = np.round(rng.normal(0, 15, dim) * 2**shift)
    eps = int(rng.choice([1, 2**16, 2**32 - 1]))
    return NormLayer(gamma_i16.astype(np.int16), beta_i32.astype(np.int32), shift, eps)


def _position(rng: np.random.Generator, config: NetworkConfig) -> I16:
    table = rng.normal(0, RESIDUAL_SPREAD, (config.num_tokens, config.embed_dim))
    table[rng.random(table.shape) < EXTREME_SHARE / 2] *= 10  # saturates the residual stream here and there
    table_i16: I16 = np.clip(np.round(table), -(1 << 15), (1 << 15) - 1).astype(np.int16)
    return table_i16


def _block(rng: np.random.Generator, config: NetworkConfig) -> Block:
    dim, head_dim = config.embed_dim, config.head_dim
    calm = min(1.0, SHALLOW_DEPTH / config.depth)
    residual_spread, edge_share = RESIDUAL_SPREAD * calm, EXTREME_SHARE * calm**2
    # A standard deviation of one to four octaves between the scores of a row: flat rows and rows with one winner.
    score_spread = 2 * 256 * _jitter(rng) * max(1.0, config.num_tokens / FEW_TOKENS)
    score_mult, score_shift = quantize_multiplier(score_spread / (OPERAND_SPREAD**2 * math.sqrt(head_dim)))
    context_mult, context_shift = quantize_multiplier(1.5 * _jitter(rng))
    own = rng.spawn(1)[0]  # the stream of everything else does not depend on these
    package_bias = own.normal(0, OPERAND_SPREAD**2 * math.sqrt(head_dim), config.num_heads)
    package_bias[own.random(config.num_heads) < EXTREME_SHARE] *= 1 << 12
    return Block(
        norm1=_norm(rng, dim),
        q=_linear(rng, (dim, dim), OPERAND_SPREAD),
        k=_linear(rng, (dim, dim), OPERAND_SPREAD),
        v=_linear(rng, (dim, dim), OPERAND_SPREAD),
        package_bias_i32=np.round(package_bias).astype(np.int32),
        score_mult=score_mult,
        score_shift=score_shift,
        context_mult=context_mult,
        context_shift=context_shift,
        proj=_linear(rng, (dim, dim), residual_spread, edge_share),
        norm2=_norm(rng, dim),
        fc1=_gelu(rng, (config.mlp_hidden, dim)),
        fc2=_linear(rng, (dim, config.mlp_hidden), residual_spread, edge_share),
    )


def _selector(rng: np.random.Generator, config: NetworkConfig) -> Selector:
    heads, head_dim, hidden = config.num_heads, config.head_dim, config.head_branch_hidden
    pool_mult, pool_shift = quantize_multiplier(_jitter(rng))
    return Selector(
        norm=_norm(rng, config.embed_dim),
        local=_gelu(rng, (heads, head_dim // 2, head_dim)),
        pool_mult=pool_mult,
        pool_shift=pool_shift,
        token1=_gelu(rng, (heads, head_dim // 2, head_dim)),
        token2=_gelu(rng, (heads, head_dim // 4, head_dim // 2)),
        token_score=_linear(rng, (heads, 1, head_dim // 4), FEATURE_SPREAD),
        head1=_gelu(rng, (hidden, config.embed_dim)),
        head_score=_linear(rng, (heads, hidden), FEATURE_SPREAD),
        threshold_u16=KEEP_THRESHOLD_Q16,
    )
