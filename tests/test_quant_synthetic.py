"""Random networks and topologies.

Testpoints: topologies stay in their ranges and reach every size; the channel multiple; networks are reproducible, keep
the file's rules, reach extreme weights and biases; activations are neither all saturated nor all zero; selectors prune
some, all and nothing; tokens still differ in the last of many blocks.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quant.bounds import accumulator_bound, named_linears, prove_bounds
from quant.config import NetworkConfig
from quant.network_file import load_network, save_network
from quant.reference import run
from quant.synthetic import random_config, random_network, random_picture


@pytest.mark.parametrize("channel_multiple", [4, 8, 16])
def test_topologies_stay_in_range(channel_multiple: int) -> None:
    rng = np.random.default_rng(0)
    configs = [random_config(rng, channel_multiple) for _ in range(300)]
    for config in configs:
        assert config.embed_dim % channel_multiple == 0 and config.head_dim % 4 == 0
        assert config.mlp_hidden % (2 * channel_multiple) == channel_multiple
    assert {config.depth for config in configs} == {1, 2, 3}
    assert {config.num_heads for config in configs} == {1, 2, 3, 4}
    assert {config.num_tokens for config in configs} == {5, 10, 17, 26, 37}
    assert {len(config.selectors) for config in configs} == {0, 1, 2, 3}
    assert {config.in_chans for config in configs} == {1, 3}
    assert max(random_config(rng, max_tokens=17, max_selectors=1).num_tokens for _ in range(50)) == 17


def test_networks_are_reproducible(tmp_path: Path) -> None:
    for name in ("a", "b"):
        rng = np.random.default_rng(1)
        save_network(random_network(rng, random_config(rng)), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    load_network(tmp_path / "a")


def test_networks_reach_edges_and_stay_alive() -> None:
    bounds, counts, has_extreme_channel = [], set(), False
    shares: dict[str, list[tuple[float, float]]] = {}
    for seed in range(40):
        rng = np.random.default_rng(seed)
        config = random_config(rng)
        network = random_network(rng, config)
        prove_bounds(network)
        bounds += [accumulator_bound(layer) for _, layer in named_linears(network)]
        has_extreme_channel |= any(
            bool((np.abs(layer.weight_i8) == 127).all(axis=-1).any())
            for _, layer in named_linears(network)
            if layer.weight_i8.shape[-1] > 3
        )
        inference = run(network, rng.integers(0, 256, random_picture(rng, config).shape, dtype=np.uint8))
        before = config.num_tokens
        for count in inference.num_tokens:
            counts.add("all" if count == 2 else "none" if count == before else "some")
            before = count
        for name, value in inference.taps.items():
            if value.dtype in (np.int8, np.int16):
                info = np.iinfo(value.dtype)
                share = ((value == info.min) | (value == info.max)).mean(), (value == 0).mean()
                shares.setdefault(name.split(".", 2)[-1], []).append(share)
    assert max(bounds) == (1 << 31) - 1
    assert has_extreme_channel
    for name, pairs in shares.items():
        saturated, zero = np.mean(pairs, axis=0)
        assert saturated < 0.3 and zero < 0.3, name
    assert counts == {"all", "none", "some"}


def test_tokens_of_deep_networks_stay_different() -> None:
    config = NetworkConfig(56, 4, 1, 10, embed_dim=48, depth=12, num_heads=3, mlp_hidden=192)
    rng = np.random.default_rng(3)
    network = random_network(rng, config)
    taps = run(network, rng.integers(0, 256, (1, 56, 56), dtype=np.uint8)).taps
    residual = taps["blocks.11.mlp.fc2"]
    assert (np.abs(residual.astype(np.int64)) >= 32767).mean() < 0.1
    assert residual.std(axis=0).mean() > 5000  # over the tokens, of a range of 65536
    assert taps["blocks.11.norm1"].std(axis=0).mean() > 6
    assert taps["blocks.11.attn.context"].std(axis=0).mean() > 1
