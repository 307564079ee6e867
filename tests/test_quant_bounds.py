"""Accumulator bounds.

Testpoints: the bound is reached by a worst-case operand; every kind of layer is refused by name one code beyond its
limit and accepted at it; LayerNorm with its rounding constant; scores with the package bias; sizes without a proof.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quant.bounds import (
    MAX_EMBED_DIM,
    MAX_TOKENS,
    accumulator_bound,
    named_linears,
    named_norms,
    norm_bound,
    prove_bounds,
)
from quant.config import NetworkConfig
from quant.network import IntegerNetwork, LinearLayer, NormLayer
from quant.synthetic import random_network

CONFIG = NetworkConfig(6, 2, 1, 3, 16, 2, 2, 12, selectors=(1,))


@pytest.fixture(scope="module")
def network() -> IntegerNetwork:
    return random_network(np.random.default_rng(0), CONFIG)


def replaced(value: object, path: str, new: object) -> object:
    """A copy of nested dataclasses and tuples with the item at a dotted path replaced."""
    name, _, rest = path.partition(".")
    if isinstance(value, tuple):
        index = int(name)
        item = replaced(value[index], rest, new) if rest else new
        return (*value[:index], item, *value[index + 1 :])
    return replace(value, **{name: replaced(getattr(value, name), rest, new) if rest else new})


def test_bound_is_reached() -> None:
    weight = np.array([[-127, 127, 3], [1, 0, 0]], np.int8)
    layer = LinearLayer(weight, np.array([-1000, 5], np.int32), np.ones(2, np.uint16), np.zeros(2, np.uint8))
    worst = weight[0].astype(int) @ np.array([128, -128, -128]) - 1000
    assert accumulator_bound(layer) == -worst == 1000 + 257 * 128


def test_every_linear_layer_is_named_once(network: IntegerNetwork) -> None:
    names = [name for name, _ in named_linears(network)]
    block = [f"blocks.{b}.{part}" for b in range(2) for part in ("q", "k", "v", "proj", "fc1", "fc2")]
    selector = [f"selectors.0.{part}" for part in ("local", "token1", "token2", "head1", "token_score", "head_score")]
    assert names == ["patch_embed", *block, *selector, "head"]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("patch_embed", "patch_embed"),
        ("blocks.1.q", "blocks.1.q"),
        ("blocks.0.fc1.linear", "blocks.0.fc1"),
        ("selectors.0.token2.linear", "selectors.0.token2"),
        ("selectors.0.head_score", "selectors.0.head_score"),
        ("head", "head"),
    ],
)
def test_a_layer_beyond_the_bound_is_named(network: IntegerNetwork, path: str, name: str) -> None:
    layer = dict(named_linears(network))[name]
    room = (1 << 31) - 1 - np.abs(layer.weight_i8.astype(np.int64)).sum(axis=-1) * 128
    at_limit = replace(layer, bias_i32=room.astype(np.int32))
    prove_bounds(replaced(network, path, at_limit))
    bias = room.astype(np.int32)
    bias.flat[-1] += 1
    with pytest.raises(ValueError, match=rf"^accumulator of {name} must stay below 2147483648, not reach 2147483648$"):
        prove_bounds(replaced(network, path, replace(layer, bias_i32=bias)))


@pytest.mark.parametrize("name", ["blocks.0.norm1", "blocks.1.norm2", "selectors.0.norm", "norm"])
def test_a_norm_beyond_the_bound_is_named(network: IntegerNetwork, name: str) -> None:
    layer = NormLayer(np.full(16, -32768, np.int16), np.full(16, (1 << 30) - (1 << 9) - 1, np.int32), 10, 1)
    assert name in dict(named_norms(network))
    assert norm_bound(layer) == (1 << 31) - 1
    prove_bounds(replaced(network, name, layer))
    with pytest.raises(ValueError, match=rf"^accumulator of {name} must stay below"):
        prove_bounds(replaced(network, name, replace(layer, beta_i32=layer.beta_i32 + 1)))


def test_a_package_bias_beyond_the_bound_is_named(network: IntegerNetwork) -> None:
    path, limit = "blocks.1.package_bias_i32", (1 << 31) - 1 - CONFIG.head_dim * (1 << 14)
    for sign in (-1, 1):
        prove_bounds(replaced(network, path, np.array([0, sign * limit], np.int32)))
        with pytest.raises(ValueError, match=r"^accumulator of blocks.1.attn.scores must stay below"):
            prove_bounds(replaced(network, path, np.array([0, sign * (limit + 1)], np.int32)))


@pytest.mark.parametrize(
    ("change", "message"),
    [({"image_size": 34}, "num_tokens must be at most 256, not 290"), ({"embed_dim": 1032}, "embed_dim must be at")],
)
def test_sizes_without_a_proof_are_refused(network: IntegerNetwork, change: dict[str, int], message: str) -> None:
    assert (MAX_TOKENS, MAX_EMBED_DIM) == (256, 1024)
    prove_bounds(replace(network, config=replace(CONFIG, embed_dim=1024)))
    with pytest.raises(ValueError, match=message):
        prove_bounds(replace(network, config=replace(CONFIG, **change)))
