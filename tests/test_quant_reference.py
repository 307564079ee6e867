"""The golden model, against loops written from docs/architecture.md.

Testpoints: patch order; name, shape and type of every tap; every tap recomputed from earlier taps by loops over heads
with int64 products; operands at -128 are clipped where they act as weights; no taps on request and the same logits;
all pruned, none pruned, ties, a package carried into a stage that prunes nothing, and one into a stage that prunes
all; GELU's input saturates; the fast product is exact at its depth limits; wrong pictures are refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from quant import approx, layers
from quant.config import NetworkConfig
from quant.fixed import requantize, saturate
from quant.network import GeluLayer, IntegerNetwork, LinearLayer, NormLayer, Selector
from quant.reference import PACKAGE_TOKEN, patchify, run
from quant.synthetic import random_config, random_network, random_picture

CONFIG = NetworkConfig(8, 2, 3, 5, 24, 3, 3, 20, selectors=(0, 1, 2), delta1=0.5, delta2=0.5)


def with_thresholds(network: IntegerNetwork, thresholds: list[int]) -> IntegerNetwork:
    selectors = zip(network.selectors, thresholds, strict=True)
    return replace(network, selectors=tuple(replace(selector, threshold_u16=value) for selector, value in selectors))


def accumulate(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """x (N, in), weight (out, in), bias (out,): one dot product at a time."""
    rows = [[int(np.dot(row.astype(np.int64), w.astype(np.int64))) for w in weight] for row in x]
    return np.array(rows).reshape(len(x), len(weight)) + bias.astype(np.int64)


def linear(x: np.ndarray, layer: LinearLayer, bits: int, head: int | None = None) -> np.ndarray:
    index: Any = ... if head is None else head
    arrays = (layer.weight_i8, layer.bias_i32, layer.mult_u16, layer.shift_u8)
    weight, bias, mult, shift = (array[index] for array in arrays)
    return requantize(accumulate(x, weight, bias), mult.astype(np.int64), shift.astype(np.int64), bits)


def gelu(x: np.ndarray, layer: GeluLayer, delta1: float, head: int | None = None) -> np.ndarray:
    activated = approx.gelu(linear(x, layer.linear, 16, head), *approx.gelu_constants(delta1), layer.out_offset)
    return requantize(activated, layer.out_mult, layer.out_shift, 8)


def norm(x: np.ndarray, layer: NormLayer) -> np.ndarray:
    gamma, beta = layer.gamma_i16.astype(np.int64), layer.beta_i32.astype(np.int64)
    return approx.layer_norm(x.astype(np.int64), gamma, beta, layer.shift, layer.eps)


def heads_of(x: np.ndarray, heads: int) -> list[np.ndarray]:
    """The channels of each head: head h owns channels h*d .. h*d + d - 1."""
    size = x.shape[1] // heads
    return [x[:, head * size : (head + 1) * size].astype(np.int64) for head in range(heads)]


def check_block(
    network: IntegerNetwork, taps: dict[str, np.ndarray], number: int, before: np.ndarray, index: list[int]
) -> None:
    block, config, name = network.blocks[number], network.config, f"blocks.{number}"
    t = {tap.removeprefix(f"{name}."): value for tap, value in taps.items() if tap.startswith(f"{name}.")}
    assert (t["norm1"] == norm(before, block.norm1)).all()
    for part in "qkv":
        assert (t[f"attn.{part}"] == linear(t["norm1"], getattr(block, part), 8)).all()
    q, k, v = (heads_of(t[f"attn.{part}"], config.num_heads) for part in "qkv")
    context = []
    for head in range(config.num_heads):
        column = np.where(np.array(index) == 65535, block.package_bias_i32[head].astype(np.int64), 0)
        scores = accumulate(q[head], np.maximum(k[head], -127), column)
        assert (t["attn.scores"][head] == requantize(scores, block.score_mult, block.score_shift, 16)).all()
        exponential, row_sum = approx.softmax_rows(t["attn.scores"][head].astype(np.int64), np.True_)
        assert (t["attn.exp"][head] == exponential).all()
        products = accumulate(exponential, np.maximum(v[head], -127).T, np.zeros(1))
        for row in range(len(products)):
            mult, shift = approx.row_scale(row_sum[row : row + 1], block.context_mult, block.context_shift)
            context.append(requantize(products[row], mult, shift, 8))
    context_heads = np.array(context).reshape(config.num_heads, len(before), -1)
    assert (t["attn.context"] == np.concatenate(list(context_heads), axis=1)).all()
    assert (t["attn.proj"] == saturate(before + linear(t["attn.context"], block.proj, 16), 16)).all()
    assert (t["norm2"] == norm(t["attn.proj"], block.norm2)).all()
    assert (t["mlp.fc1"] == gelu(t["norm2"], block.fc1, config.delta1)).all()
    expected = saturate(t["attn.proj"].astype(np.int64) + linear(t["mlp.fc1"], block.fc2, 16), 16)
    assert (t["mlp.fc2"] == expected).all()


def check_selector(
    selector: Selector, taps: dict[str, np.ndarray], stage: int, heads: int, before: np.ndarray, index: list[int]
) -> None:
    name = f"selectors.{stage}"
    t = {tap.removeprefix(f"{name}."): value for tap, value in taps.items() if tap.startswith(f"{name}.")}
    assert (t["norm"] == norm(before, selector.norm)).all()
    normed, local, token1, token2 = (heads_of(t[part], heads) for part in ("norm", "local", "token1", "token2"))
    pooled = heads_of(t["pooled"], heads)
    mult, shift = approx.row_scale(np.array([len(before) - 1]), selector.pool_mult, selector.pool_shift)
    for head in range(heads):
        assert (local[head] == gelu(normed[head], selector.local, 1.0, head)).all()
        total = np.maximum(local[head][1:], -127).sum(axis=0)
        assert (pooled[head][0] == requantize(total, mult, shift, 8)).all()
        joined = np.array([[*row, *pooled[head][0]] for row in local[head]])
        assert (token1[head] == gelu(joined, selector.token1, 1.0, head)).all()
        assert (token2[head] == gelu(token1[head], selector.token2, 1.0, head)).all()
        logit = linear(token2[head], selector.token_score, 16, head)[:, 0]
        assert (t["token_score"][:, head] == approx.sigmoid(logit)).all()
    assert (t["head1"] == gelu(t["norm"], selector.head1, 1.0)).all()
    assert (t["head_score"] == approx.sigmoid(linear(t["head1"], selector.head_score, 16))).all()
    score = approx.keep_scores(t["token_score"].astype(np.int64), t["head_score"].astype(np.int64))
    assert t["keep_score"].tolist() == [65535, *score[1:].tolist()]
    rows = range(1, len(before))
    kept = [0] + [row for row in rows if t["keep_score"][row] >= selector.threshold_u16 and index[row] != 65535]
    merged = np.array([row not in kept for row in range(len(before))])
    assert (t["package"][: len(kept)] == before[kept]).all()
    assert t["tokens"].tolist() == [index[row] for row in kept] + [65535] * bool(merged.any())
    assert len(t["package"]) == len(t["tokens"]) <= len(before)
    if merged.any():
        assert (t["package"][-1] == approx.package_token(before, t["keep_score"].astype(np.int64), merged)).all()


def check_every_tap(network: IntegerNetwork, picture: np.ndarray) -> dict[str, np.ndarray]:
    """Recompute all taps from the taps before them; returns them."""
    inference, config = run(network, picture), network.config
    taps = inference.taps
    patches = patchify(network, picture)
    embedded = saturate(network.position_i16.astype(np.int64) + linear(patches, network.patch_embed, 16), 16)
    assert (taps["patch_embed"] == embedded).all()
    residual, index, stages = embedded, list(range(config.num_tokens)), iter(range(len(config.selectors)))
    for number in range(config.depth):
        if number in config.selectors:
            stage = next(stages)
            check_selector(network.selectors[stage], taps, stage, config.num_heads, residual, index)
            residual, index = taps[f"selectors.{stage}.package"].astype(np.int64), taps[f"selectors.{stage}.tokens"]
            assert inference.tokens[stage].tolist() == index.tolist()
            assert inference.num_tokens[stage] == len(index)
            index = index.tolist()
        check_block(network, taps, number, residual, index)
        residual = taps[f"blocks.{number}.mlp.fc2"].astype(np.int64)
    assert (taps["norm"] == norm(residual[:1], network.norm)).all()
    assert (taps["head"] == linear(taps["norm"], network.head, 16)).all()
    assert (inference.logits_i16 == taps["head"][0]).all()
    return taps


@pytest.mark.parametrize("seed", range(12))
def test_every_tap_follows_from_those_before(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = random_config(rng, max_tokens=17)
    check_every_tap(random_network(rng, config), random_picture(rng, config))


def test_names_shapes_and_types_of_all_taps() -> None:
    rng = np.random.default_rng(1)
    network = with_thresholds(random_network(rng, replace(CONFIG, depth=1, selectors=(0,))), [0])
    taps = run(network, random_picture(rng, CONFIG)).taps
    n, dim, heads = 17, 24, 3
    assert {name: (value.shape, str(value.dtype)) for name, value in taps.items()} == {
        "patch_embed": ((n, dim), "int16"),
        "selectors.0.norm": ((n, dim), "int8"),
        "selectors.0.local": ((n, dim // 2), "int8"),
        "selectors.0.pooled": ((1, dim // 2), "int8"),
        "selectors.0.token1": ((n, dim // 2), "int8"),
        "selectors.0.token2": ((n, dim // 4), "int8"),
        "selectors.0.token_score": ((n, heads), "uint8"),
        "selectors.0.head1": ((n, 1), "int8"),
        "selectors.0.head_score": ((n, heads), "uint8"),
        "selectors.0.keep_score": ((n,), "uint16"),
        "selectors.0.tokens": ((n,), "uint16"),
        "selectors.0.package": ((n, dim), "int16"),
        "blocks.0.norm1": ((n, dim), "int8"),
        "blocks.0.attn.q": ((n, dim), "int8"),
        "blocks.0.attn.k": ((n, dim), "int8"),
        "blocks.0.attn.v": ((n, dim), "int8"),
        "blocks.0.attn.scores": ((heads, n, n), "int16"),
        "blocks.0.attn.exp": ((heads, n, n), "uint8"),
        "blocks.0.attn.context": ((n, dim), "int8"),
        "blocks.0.attn.proj": ((n, dim), "int16"),
        "blocks.0.norm2": ((n, dim), "int8"),
        "blocks.0.mlp.fc1": ((n, 20), "int8"),
        "blocks.0.mlp.fc2": ((n, dim), "int16"),
        "norm": ((1, dim), "int8"),
        "head": ((1, 5), "int16"),
    }


def test_patches_are_channel_row_column() -> None:
    rng = np.random.default_rng(2)
    network = random_network(rng, CONFIG)
    picture = rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    patches = patchify(network, picture)
    assert patches.dtype == np.int8 and (patches[0] == 0).all()
    for y in range(8):
        for x in range(8):
            for channel in range(3):
                token, value = 1 + (y // 2) * 4 + x // 2, channel * 4 + (y % 2) * 2 + x % 2
                assert patches[token, value] == network.input_lut_i8[channel, picture[channel, y, x]]


@pytest.mark.parametrize("picture", [np.zeros((3, 8, 9), np.uint8), np.zeros((3, 8, 8), np.int8)])
def test_wrong_pictures_are_refused(picture: np.ndarray) -> None:
    network = random_network(np.random.default_rng(3), replace(CONFIG, depth=1, selectors=()))
    with pytest.raises(ValueError, match=r"^picture must be uint8 \(3, 8, 8\), not "):
        run(network, picture)


def test_without_taps_the_result_is_the_same() -> None:
    rng = np.random.default_rng(4)
    network, picture = random_network(rng, CONFIG), random_picture(rng, CONFIG)
    full, fast = run(network, picture), run(network, picture, taps=False)
    assert fast.taps == {} and full.taps
    assert (fast.logits_i16 == full.logits_i16).all() and fast.num_tokens == full.num_tokens
    assert all((a == b).all() for a, b in zip(fast.tokens, full.tokens, strict=True))


@pytest.mark.parametrize(
    ("thresholds", "num_tokens"),
    [
        ([0, 0, 0], [17, 17, 17]),  # nothing is ever pruned: there is no package
        ([65535, 65535, 65535], [2, 2, 2]),  # CLS and a package that is merged again and again
        ([65535, 0, 0], [2, 2, 2]),  # a package is never kept as such, but merged into its successor
    ],
)
def test_all_or_nothing_pruned(thresholds: list[int], num_tokens: list[int]) -> None:
    rng = np.random.default_rng(5)
    network = with_thresholds(random_network(rng, CONFIG), thresholds)
    picture = rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    taps = check_every_tap(network, picture)
    assert run(network, picture).num_tokens == num_tokens
    if thresholds == [65535, 0, 0]:
        # A package of one row is that row, but for the rounding of the division.
        before, after = (taps[name][-1].astype(int) for name in ("blocks.0.mlp.fc2", "selectors.1.package"))
        assert np.abs(before - after).max() <= 2


def test_a_package_survives_a_stage_that_prunes_nothing_and_ties_are_kept() -> None:
    rng = np.random.default_rng(6)
    network = with_thresholds(random_network(rng, CONFIG), [0, 0, 0])
    picture = rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)
    scores = run(network, picture).taps["selectors.0.keep_score"][1:]
    tie = int(np.sort(scores)[len(scores) // 2])
    pruned = with_thresholds(network, [tie, 0, 0])
    inference = run(pruned, picture)
    expected = [0, *(np.flatnonzero(scores >= tie) + 1).tolist(), PACKAGE_TOKEN]
    assert 2 < len(expected) < 18
    assert inference.tokens[0].tolist() == inference.tokens[1].tolist() == inference.tokens[2].tolist() == expected
    check_every_tap(pruned, picture)


def test_operands_that_act_as_weights_are_clipped() -> None:
    """Every channel of v and of local is -128 before the clip: their means show -127."""
    rng = np.random.default_rng(7)
    network = random_network(rng, replace(CONFIG, depth=1, selectors=(0,)))
    block, selector = network.blocks[0], network.selectors[0]
    low = LinearLayer(
        np.zeros_like(block.v.weight_i8), np.full(24, -(1 << 20), np.int32), block.v.mult_u16, np.zeros(24, np.uint8)
    )
    # GELU of a large negative number is 0, so local reaches -128 only with the smallest erf: delta1 is 1 in a
    # selector. Its minimum, -0.17, is scaled to below -128 instead.
    weight = np.zeros_like(selector.local.linear.weight_i8)
    linear_low = LinearLayer(
        weight,
        np.full(weight.shape[:2], -768, np.int32),
        np.ones(weight.shape[:2], np.uint16),
        np.zeros(weight.shape[:2], np.uint8),
    )
    network = replace(
        network,
        blocks=(replace(block, v=low, context_mult=1 << 15, context_shift=15),),
        selectors=(replace(selector, local=GeluLayer(linear_low, 65535, 16, 0), pool_mult=1 << 15, pool_shift=15),),
    )
    taps = check_every_tap(network, random_picture(rng, CONFIG))
    assert (taps["blocks.0.attn.v"] == -128).all() and (taps["selectors.0.local"] == -128).all()
    assert (taps["blocks.0.attn.context"] == -127).all() and (taps["selectors.0.pooled"] == -127).all()


def test_gelu_input_saturates_at_16_bits() -> None:
    wide = LinearLayer(
        np.zeros((2, 3), np.int8),
        np.array([1 << 30, -(1 << 30)], np.int32),
        np.full(2, 1 << 15, np.uint16),
        np.zeros(2, np.uint8),
    )
    # With half an erf the limits 32 and -32 become 24 and -8, and the offset takes 1; the shift leaves steps of a half.
    out = layers.gelu_linear(np.zeros((1, 3), np.int64), GeluLayer(wide, 1, 25, -2048), *approx.gelu_constants(0.5))
    assert out.tolist() == [[46, -18]]


@pytest.mark.parametrize("depth", [1, layers.FLOAT32_DEPTH, layers.FLOAT32_DEPTH + 1, 4096])
def test_fast_product_is_exact(depth: int) -> None:
    rng = np.random.default_rng(8)
    a, b = rng.integers(-128, 128, (5, depth)), rng.integers(-128, 128, (depth, 7))
    a[0], b[:, 0] = -128, -128  # the largest sum
    a[1], b[:, 1] = 127, -128
    a[2], b[:, 2] = 127, 127
    a[1:3, 0] = 126  # beyond FLOAT32_DEPTH an odd sum that float32 has no code for
    assert (layers.exact_matmul(a, b) == a @ b).all()
