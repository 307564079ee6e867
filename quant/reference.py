"""The golden model: a whole network in integers, one picture at a time, with every layer's result as a named tap.

Pruned tokens are gathered away, as the accelerator does. The machine, the RTL and quantization-aware training are
correct iff they give exactly these taps. docs/architecture.md section 2 defines names, shapes and types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from quant import layers
from quant.approx import gelu_constants, keep_scores, package_token, softmax_rows
from quant.fixed import Array
from quant.network import I8, I16, U8, U16, Block, IntegerNetwork, Selector
from quant.patches import patch_codes

PACKAGE_TOKEN = 65535
"""The token index of a package token; CLS is 0 and patch p is p + 1."""


@dataclass(frozen=True)
class Inference:
    """What one picture gives.

    logits_i16 (classes,); tokens[S] (N',) the token indices that are live after selector S; num_tokens[S] their count;
    taps the result of every layer by name, empty if they were not asked for.
    """

    logits_i16: I16
    tokens: list[U16]
    num_tokens: list[int]
    taps: dict[str, NDArray[Any]]


@dataclass
class _Taps:
    """Collects results under their names."""

    is_enabled: bool
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    def record(self, name: str, value: Array, dtype: DTypeLike) -> None:
        """Keep value, int64, in its own narrow type. A copy: later layers may write the residual in place."""
        if self.is_enabled:
            self.arrays[name] = np.array(value, dtype)


def patchify(network: IntegerNetwork, picture_u8: U8) -> I8:
    """Return the patch codes (num_tokens, patch_dim) of a picture (in_chans, image_size, image_size), row 0 zero.

    Raises ValueError if the picture has another type or shape. Source: quant.patches.patch_codes.
    """
    patches = np.zeros((network.config.num_tokens, network.config.patch_dim), np.int8)
    patches[1:] = patch_codes(picture_u8, network.input_lut_i8, network.config)
    return patches


def run(network: IntegerNetwork, picture_u8: U8, taps: bool = True) -> Inference:
    """Run one uint8 picture (in_chans, image_size, image_size). taps=False keeps no layer results, which is faster."""
    config, recorded = network.config, _Taps(taps)
    patches = patchify(network, picture_u8).astype(np.int64)
    residual = layers.residual_linear(network.position_i16.astype(np.int64), patches, network.patch_embed)
    recorded.record("patch_embed", residual, np.int16)
    token_index, kept_tokens = np.arange(config.num_tokens), []
    for number, block in enumerate(network.blocks):
        if number in config.selectors:
            stage = config.selectors.index(number)
            residual, token_index = _select_tokens(
                residual, token_index, network.selectors[stage], config.num_heads, f"selectors.{stage}", recorded
            )
            kept_tokens.append(token_index.astype(np.uint16))
        residual = _block(residual, token_index == PACKAGE_TOKEN, block, network, f"blocks.{number}", recorded)
    normed = layers.norm(residual[:1], network.norm)
    recorded.record("norm", normed, np.int8)
    logits = layers.linear(normed, network.head, 16)
    recorded.record("head", logits, np.int16)
    return Inference(logits[0].astype(np.int16), kept_tokens, [len(index) for index in kept_tokens], recorded.arrays)


def _block(residual: Array, is_package: Array, block: Block, network: IntegerNetwork, name: str, taps: _Taps) -> Array:
    """One transformer block on the residual stream (N, D), of which is_package (N,) marks a row."""
    normed = layers.norm(residual, block.norm1)
    q, k, v = (layers.linear(normed, layer, 8) for layer in (block.q, block.k, block.v))
    heads = network.config.num_heads
    q_heads, k_heads, v_heads = (layers.split_heads(x, heads) for x in (q, k, v))  # (H, N, d)
    scores = layers.attention_scores(q_heads, k_heads, is_package, block)
    exponential, row_sum = softmax_rows(scores, np.ones(scores.shape[-1], bool))
    context = layers.merge_heads(layers.attention_context(exponential, row_sum, v_heads, block))
    attended = layers.residual_linear(residual, context, block.proj)
    normed2 = layers.norm(attended, block.norm2)
    hidden = layers.gelu_linear(normed2, block.fc1, *gelu_constants(network.config.delta1))
    result = layers.residual_linear(attended, hidden, block.fc2)
    for tap, value, dtype in (
        ("norm1", normed, np.int8),
        ("attn.q", q, np.int8),
        ("attn.k", k, np.int8),
        ("attn.v", v, np.int8),
        ("attn.scores", scores, np.int16),
        ("attn.exp", exponential, np.uint8),
        ("attn.context", context, np.int8),
        ("attn.proj", attended, np.int16),
        ("norm2", normed2, np.int8),
        ("mlp.fc1", hidden, np.int8),
        ("mlp.fc2", result, np.int16),
    ):
        taps.record(f"{name}.{tap}", value, dtype)
    return result


def _select_tokens(
    residual: Array, token_index: Array, selector: Selector, heads: int, name: str, taps: _Taps
) -> tuple[Array, Array]:
    """Score every token, keep those that reach the threshold and merge the others: (residual, token_index) after it."""
    gelu_one = gelu_constants(1.0)
    num_tokens = len(residual)
    normed = layers.norm(residual, selector.norm)
    local = layers.gelu_linear(layers.split_heads(normed, heads), selector.local, *gelu_one)  # (H, N, d/2)
    pooled = layers.pooled_mean(local, np.arange(num_tokens) > 0, selector)  # (H, 1, d/2)
    joined = np.concatenate([local, np.broadcast_to(pooled, local.shape)], axis=-1)  # (H, N, d)
    token1 = layers.gelu_linear(joined, selector.token1, *gelu_one)
    token2 = layers.gelu_linear(token1, selector.token2, *gelu_one)
    token_score = layers.merge_heads(layers.sigmoid_linear(token2, selector.token_score))  # (N, H)
    head1 = layers.gelu_linear(normed, selector.head1, *gelu_one)
    head_score = layers.sigmoid_linear(head1, selector.head_score)
    score = keep_scores(token_score, head_score)
    score[0] = layers.CLS_SCORE
    kept, merged = layers.select(score, np.full(num_tokens, True), token_index == PACKAGE_TOKEN, selector.threshold_u16)
    survivors, survivor_index = residual[kept], token_index[kept]
    if merged.any():
        survivors = np.concatenate([survivors, package_token(residual, score, merged)[None]])
        survivor_index = np.append(survivor_index, PACKAGE_TOKEN)
    for tap, value, dtype in (
        ("norm", normed, np.int8),
        ("local", layers.merge_heads(local), np.int8),
        ("pooled", layers.merge_heads(pooled), np.int8),
        ("token1", layers.merge_heads(token1), np.int8),
        ("token2", layers.merge_heads(token2), np.int8),
        ("token_score", token_score, np.uint8),
        ("head1", head1, np.int8),
        ("head_score", head_score, np.uint8),
        ("keep_score", score, np.uint16),
        ("tokens", survivor_index, np.uint16),
        ("package", survivors, np.int16),
    ):
        taps.record(f"{name}.{tap}", value, dtype)
    return survivors, survivor_index
