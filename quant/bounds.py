"""Proof that no accumulator of an integer network can leave 32 bits, whatever the picture."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quant.config import NetworkConfig
from quant.fixed import ACC_BITS
from quant.network import Block, IntegerNetwork, LinearLayer, NormLayer, Selector

ACC_LIMIT = 1 << (ACC_BITS - 1)
OPERAND_MAX = 128
"""Largest magnitude of an int8 operand."""
MAX_TOKENS = 256
"""quant.approx.package_token sums this many int16 rows with 8-bit weights in 32 bits."""
MAX_EMBED_DIM = 1024
"""quant.approx.layer_norm is specified up to this many channels."""


def accumulator_bound(layer: LinearLayer) -> int:
    """Largest magnitude that |bias| + sum |weight| * 128 reaches over the output channels of a layer."""
    return int((np.abs(layer.bias_i32.astype(np.int64)) + _product_bounds(layer)).max())


def product_bound(layer: LinearLayer) -> int:
    """Largest magnitude that sum |weight| * 128, and so every partial sum of products, reaches."""
    return int(_product_bounds(layer).max())


def _product_bounds(layer: LinearLayer) -> NDArray[np.int64]:
    """Return sum |weight| * 128 of each output channel."""
    bounds: NDArray[np.int64] = np.abs(layer.weight_i8.astype(np.int64)).sum(axis=-1) * OPERAND_MAX
    return bounds


def norm_bound(layer: NormLayer) -> int:
    """Largest magnitude of normalised * gamma + beta, its rounding constant included."""
    gamma, beta = np.abs(layer.gamma_i16.astype(np.int64)), np.abs(layer.beta_i32.astype(np.int64))
    return int((gamma * (1 << 15) + beta).max()) + ((1 << layer.shift) >> 1)


def score_bound(block: Block, config: NetworkConfig) -> int:
    """Largest magnitude that q.k, with the bias of the package token, reaches in a block."""
    return config.head_dim * OPERAND_MAX**2 + int(np.abs(block.package_bias_i32.astype(np.int64)).max())


def named_linears(network: IntegerNetwork) -> Iterator[tuple[str, LinearLayer]]:
    """Every linear layer with its path in the network."""
    yield "patch_embed", network.patch_embed
    for number, block in enumerate(network.blocks):
        for name, layer in _block_linears(block):
            yield f"blocks.{number}.{name}", layer
    for number, selector in enumerate(network.selectors):
        for name, layer in _selector_linears(selector):
            yield f"selectors.{number}.{name}", layer
    yield "head", network.head


def _block_linears(block: Block) -> Iterator[tuple[str, LinearLayer]]:
    yield from (("q", block.q), ("k", block.k), ("v", block.v), ("proj", block.proj))
    yield from (("fc1", block.fc1.linear), ("fc2", block.fc2))


def _selector_linears(selector: Selector) -> Iterator[tuple[str, LinearLayer]]:
    for name in ("local", "token1", "token2", "head1"):
        yield name, getattr(selector, name).linear
    yield from (("token_score", selector.token_score), ("head_score", selector.head_score))


def named_norms(network: IntegerNetwork) -> Iterator[tuple[str, NormLayer]]:
    """Every LayerNorm with its path in the network."""
    for number, block in enumerate(network.blocks):
        yield f"blocks.{number}.norm1", block.norm1
        yield f"blocks.{number}.norm2", block.norm2
    for number, selector in enumerate(network.selectors):
        yield f"selectors.{number}.norm", selector.norm
    yield "norm", network.norm


def prove_bounds(network: IntegerNetwork) -> None:
    """Raise ValueError naming the first layer whose accumulator could leave 32 bits, or a size without a proof.

    Contexts (num_tokens * 127 * 128) are covered by the size limits.
    """
    config = network.config
    for name, value, limit in (
        ("num_tokens", config.num_tokens, MAX_TOKENS),
        ("embed_dim", config.embed_dim, MAX_EMBED_DIM),
    ):
        if value > limit:
            raise ValueError(f"{name} must be at most {limit}, not {value!r}")
    bounds = [(name, accumulator_bound(layer)) for name, layer in named_linears(network)]
    bounds += [(name, norm_bound(layer)) for name, layer in named_norms(network)]
    for number, block in enumerate(network.blocks):
        bounds.append((f"blocks.{number}.attn.scores", score_bound(block, config)))
    for name, bound in bounds:
        if bound >= ACC_LIMIT:
            raise ValueError(f"accumulator of {name} must stay below {ACC_LIMIT}, not reach {bound}")
