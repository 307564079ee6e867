"""The blocks of an integer network that the HLS route covers, by name: selector:S, mlp:B, softmax:B and head.

docs/hls.md lists their interfaces. Every tensor between two layers is a golden tap or the accumulator in front of one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hw.hls.block import INT8, INT16, INT32, LIVE, UINT8, UINT16, Arrays, HlsBlock, HlsLayer, Kind, Tensor
from quant.approx import gelu_constants
from quant.network import I8, GeluLayer, IntegerNetwork, LinearLayer, NormLayer

NAMES = "selector:S, mlp:B, softmax:B or head"
MAX_HEADS = 16
"""The sum of a token's head importances has 12 bits in kernels/heatvit_selector.h."""


def make_block(network: IntegerNetwork, name: str) -> HlsBlock:
    """Return a block of a network by its name. Raises ValueError naming what the network has."""
    kind, _, number = name.partition(":")
    config = network.config
    counts = {"selector": len(config.selectors), "mlp": config.depth, "softmax": config.depth}
    if name == "head":
        return _head(network)
    if kind not in counts or not number.isdecimal():
        raise ValueError(f"block must be {NAMES}, not {name!r}")
    if int(number) >= counts[kind]:
        raise ValueError(f"the network has {counts[kind]} {kind} blocks, counted from 0: there is no {name!r}")
    make = {"selector": _selector, "mlp": _mlp, "softmax": _softmax}[kind]
    return make(network, int(number))


def _mlp(network: IntegerNetwork, number: int) -> HlsBlock:
    """LayerNorm, fc1 with GELU, fc2 and the residual sum of one token."""
    config, block, name = network.config, network.blocks[number], f"blocks.{number}"
    dim = (config.embed_dim,)
    residual = Tensor("residual", dim, INT16, f"{name}.attn.proj")
    layers = [
        _norm("norm2", "residual", dim, block.norm2, f"{name}.norm2"),
        *_gelu("fc1", "norm2", (config.mlp_hidden,), block.fc1, config.delta1, f"{name}.mlp.fc1"),
        *_linear("fc2", "fc1", dim, block.fc2),
        HlsLayer("result", Kind.RESIDUAL, ("residual", "fc2"), dim, INT16, taps=(f"{name}.mlp.fc2",)),
    ]
    return HlsBlock(f"mlp:{number}", (residual,), tuple(layers), ("result",))


def _head(network: IntegerNetwork) -> HlsBlock:
    """The final LayerNorm of CLS and the classifier: logits."""
    config, dim = network.config, (network.config.embed_dim,)
    residual = Tensor("residual", dim, INT16, _residual_before(config.depth))
    layers = [
        _norm("norm", "residual", dim, network.norm, "norm"),
        *_linear("logits", "norm", (config.num_classes,), network.head, "head"),
    ]
    return HlsBlock("head", (residual,), tuple(layers), ("logits",), row=0)


def _softmax(network: IntegerNetwork, number: int) -> HlsBlock:
    """One row of attention scores to un-normalised exponentials."""
    shape, name = (network.config.num_tokens,), f"blocks.{number}.attn"
    scores = Tensor("scores", shape, INT16, f"{name}.scores")
    layer = HlsLayer("exp", Kind.SOFTMAX, ("scores", LIVE), shape, UINT8, taps=(f"{name}.exp",))
    return HlsBlock(f"softmax:{number}", (scores, Tensor(LIVE, (1,), UINT16)), (layer,), ("exp",))


def _selector(network: IntegerNetwork, number: int) -> HlsBlock:
    """Keep scores of all tokens of a picture, and the residual with the tokens that stay and the package of the others.

    Layers that each head applies to its own channels are block-diagonal.
    """
    config, selector, name = network.config, network.selectors[number], f"selectors.{number}"
    tokens, dim, heads = config.num_tokens, config.embed_dim, config.num_heads
    if heads > MAX_HEADS:
        raise ValueError(f"the selector's kernels take at most {MAX_HEADS} heads, not {heads!r}")
    half, quarter = (tokens, dim // 2), (tokens, dim // 4)
    pool = {"pool_mult": selector.pool_mult, "pool_shift": selector.pool_shift}
    layers = [
        _norm("norm", "residual", (tokens, dim), selector.norm, f"{name}.norm"),
        *_gelu("local", "norm", half, _merged(selector.local), 1.0, f"{name}.local"),
        HlsLayer(
            "joined",
            Kind.MEAN_JOIN,
            ("local", LIVE),
            (tokens, dim),
            INT8,
            {},
            pool,
            (f"{name}.local", f"{name}.pooled"),
        ),
        *_gelu("token1", "joined", half, _merged_after_join(selector.token1), 1.0, f"{name}.token1"),
        *_gelu("token2", "token1", quarter, _merged(selector.token2), 1.0, f"{name}.token2"),
        *_sigmoid("token_score", "token2", (tokens, heads), _merge_linear(selector.token_score), f"{name}.token_score"),
        *_gelu("head1", "norm", (tokens, config.head_branch_hidden), selector.head1, 1.0, f"{name}.head1"),
        *_sigmoid("head_score", "head1", (tokens, heads), selector.head_score, f"{name}.head_score"),
        HlsLayer(
            "keep_score",
            Kind.KEEP_SCORE,
            ("token_score", "head_score"),
            (tokens, 1),
            UINT16,
            taps=(f"{name}.keep_score",),
        ),
        HlsLayer(
            name="result",
            kind=Kind.COMPACT,
            inputs=("residual", "keep_score", LIVE),
            shape=(tokens + 1, dim),
            precision=INT16,
            constants={"threshold": selector.threshold_u16},
            taps=(f"{name}.package", f"{name}.tokens"),
        ),
    ]
    residual = Tensor("residual", (tokens, dim), INT16, _residual_before(config.selectors[number]))
    live = Tensor(LIVE, (2,), UINT16, f"selectors.{number - 1}.tokens" if number else "")
    outputs = ("keep_score", "result")
    return HlsBlock(f"selector:{number}", (residual, live), tuple(layers), outputs, is_token_set=True)


def _residual_before(number: int) -> str:
    """Return the tap of the residual stream that block `number`, or a selector in front of it, sees."""
    return f"blocks.{number - 1}.mlp.fc2" if number else "patch_embed"


def _norm(name: str, source: str, shape: tuple[int, ...], layer: NormLayer, tap: str) -> HlsLayer:
    arrays: Arrays = {"gamma": layer.gamma_i16, "beta": layer.beta_i32}
    constants = {"shift": layer.shift, "eps": layer.eps}
    return HlsLayer(name, Kind.LAYER_NORM, (source,), shape, INT8, arrays, constants, (tap,))


def _linear(name: str, source: str, shape: tuple[int, ...], layer: LinearLayer, tap: str = "") -> list[HlsLayer]:
    """Return a product with its bias, and the requantize to int16."""
    accumulator = f"{name}_acc"
    product: Arrays = {"weight": layer.weight_i8, "bias": layer.bias_i32}
    scale: Arrays = {"mult": layer.mult_u16, "shift": layer.shift_u8}
    taps = (tap,) if tap else ()
    return [
        HlsLayer(accumulator, Kind.DENSE, (source,), shape, INT32, product),
        HlsLayer(name, Kind.REQUANTIZE, (accumulator,), shape, INT16, scale, taps=taps),
    ]


def _gelu(name: str, source: str, shape: tuple[int, ...], layer: GeluLayer, delta1: float, tap: str) -> list[HlsLayer]:
    """Return a linear layer to Q5.10, and GELU with its requantize to int8."""
    one, curve = gelu_constants(delta1)
    out = {name: getattr(layer, name) for name in ("out_mult", "out_shift", "out_offset")}
    constants = {"one": one, "curve": curve, **out}
    feature = f"{name}_q10"
    return [
        *_linear(feature, source, shape, layer.linear),
        HlsLayer(name, Kind.GELU, (feature,), shape, INT8, {}, constants, (tap,)),
    ]


def _sigmoid(name: str, source: str, shape: tuple[int, ...], layer: LinearLayer, tap: str) -> list[HlsLayer]:
    """Return a linear layer to Q5.10, and the sigmoid."""
    feature = f"{name}_q10"
    return [
        *_linear(feature, source, shape, layer),
        HlsLayer(name, Kind.SIGMOID, (feature,), shape, UINT8, taps=(tap,)),
    ]


def _merged(layer: GeluLayer) -> GeluLayer:
    return replace(layer, linear=_merge_linear(layer.linear))


def _merge_linear(layer: LinearLayer) -> LinearLayer:
    """Return a layer of each head, weights (H, out, in), as one layer (H * out, H * in) with zeros between heads."""
    heads, outputs, inputs = layer.weight_i8.shape
    weight_i8: I8 = np.zeros((heads, outputs, heads, inputs), np.int8)
    for head in range(heads):
        weight_i8[head, :, head] = layer.weight_i8[head]
    return _with_weights(layer, weight_i8.reshape(heads * outputs, heads * inputs))


def _merged_after_join(layer: GeluLayer) -> GeluLayer:
    """Return a layer on [local_h, pooled_h] of each head as one on [local of all heads, pooled of all heads]."""
    heads, outputs, inputs = layer.linear.weight_i8.shape
    weight_i8: I8 = np.zeros((heads, outputs, 2, heads, inputs // 2), np.int8)
    for head in range(heads):
        weight_i8[head, :, :, head] = layer.linear.weight_i8[head].reshape(outputs, 2, inputs // 2)
    return replace(layer, linear=_with_weights(layer.linear, weight_i8.reshape(heads * outputs, heads * inputs)))


def _with_weights(layer: LinearLayer, weight_i8: I8) -> LinearLayer:
    return LinearLayer(weight_i8, layer.bias_i32.reshape(-1), layer.mult_u16.reshape(-1), layer.shift_u8.reshape(-1))
