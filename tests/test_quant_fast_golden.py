"""The fast golden equals the golden model, tap by tap.

Testpoints: every tap of several pictures at once, dense and pruned, over random networks with saturating channels;
pictures of one batch that keep different numbers of tokens; all pruned, none pruned, a package that is merged again;
products beyond the integers of float32 run in float64; the extremes of a requantize and of LayerNorm; a picture gives
the same alone and in a batch; wrong pictures are refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from quant import approx, float_layers, layers
from quant.bounds import product_bound
from quant.config import NetworkConfig
from quant.fast_golden import FastGolden
from quant.fixed import SHIFT_MAX
from quant.float_layers import FloatLinear, FloatNorm, Tables
from quant.network import IntegerNetwork, LinearLayer, NormLayer
from quant.reference import run
from quant.synthetic import random_config, random_network

CONFIG = NetworkConfig(8, 2, 3, 5, 24, 3, 3, 20, selectors=(0, 1, 2), delta1=0.5, delta2=0.5)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors this small are slower on several threads, and much slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pictures(rng: np.random.Generator, config: NetworkConfig, count: int) -> np.ndarray:
    batch = rng.integers(0, 256, (count, config.in_chans, config.image_size, config.image_size), dtype=np.uint8)
    batch[0], batch[-1] = 0, 255
    return batch


def with_thresholds(network: IntegerNetwork, thresholds: list[int]) -> IntegerNetwork:
    selectors = zip(network.selectors, thresholds, strict=True)
    return replace(network, selectors=tuple(replace(selector, threshold_u16=value) for selector, value in selectors))


def assert_equal_to_golden(network: IntegerNetwork, batch_u8: np.ndarray) -> list[list[int]]:
    """Compare every tap, the logits and the live tokens of a batch; return the live tokens."""
    taps: dict[str, tuple[Tensor, Tensor]] = {}

    def record(name: str, codes: Tensor, count: Tensor) -> None:
        taps[name] = (codes.clone(), count)

    result = FastGolden(network).run(torch.from_numpy(batch_u8), record)
    for index, picture_u8 in enumerate(batch_u8):
        golden = run(network, picture_u8)
        assert (result.logits_i16[index].numpy() == golden.logits_i16).all()
        assert result.num_tokens[index].tolist() == golden.num_tokens
        assert taps.keys() == golden.taps.keys()
        for name, expected in golden.taps.items():
            codes, count = taps[name][0][index], int(taps[name][1][index])
            live = codes[:, :count, :count] if codes.ndim == 3 else codes[:count]
            assert live.shape == expected.shape and (live.numpy() == expected).all(), name
    return result.num_tokens.tolist()


@pytest.mark.parametrize("seed", range(16))
def test_every_tap_of_random_networks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    config = random_config(rng)
    assert_equal_to_golden(random_network(rng, config), pictures(rng, config, 5))


def test_pictures_of_a_batch_keep_different_numbers_of_tokens() -> None:
    rng = np.random.default_rng(4)
    network, batch_u8 = random_network(rng, CONFIG), pictures(rng, CONFIG, 6)
    for stage in range(3):  # half of what all pictures together have is kept
        scores = np.concatenate([run(network, x).taps[f"selectors.{stage}.keep_score"][1:] for x in batch_u8])
        thresholds = [selector.threshold_u16 for selector in network.selectors]
        thresholds[stage] = int(np.median(scores))
        network = with_thresholds(network, thresholds)
    counts = assert_equal_to_golden(network, batch_u8)
    assert all(len(set(stage)) > 1 for stage in zip(*counts, strict=True))
    alone = FastGolden(network).run(torch.from_numpy(batch_u8[2:3]))
    assert alone.num_tokens.tolist() == counts[2:3]


@pytest.mark.parametrize(
    ("thresholds", "expected"),
    [([0, 0, 0], [17, 17, 17]), ([65535, 65535, 65535], [2, 2, 2]), ([65535, 0, 0], [2, 2, 2])],
)
def test_all_or_nothing_pruned(thresholds: list[int], expected: list[int]) -> None:
    rng = np.random.default_rng(5)
    network = with_thresholds(random_network(rng, CONFIG), thresholds)
    assert assert_equal_to_golden(network, rng.integers(0, 256, (4, 3, 8, 8), dtype=np.uint8)) == [expected] * 4


@pytest.mark.parametrize("depth", [1032, 1033, 2048])
def test_products_are_exact_on_both_sides_of_float32(depth: int) -> None:
    """127 * 127 * 1032 is below 2**24 with the operand bound of 128, 1033 is not; both are compared at the extremes."""
    rng = np.random.default_rng(6)
    weight = rng.integers(-127, 128, (4, depth))
    weight[0], weight[1] = 127, -127
    layer = LinearLayer(
        weight.astype(np.int8),
        np.array([0, 1, -1, 7], np.int32),
        np.full(4, 32769, np.uint16),
        np.full(4, 24, np.uint8),  # steps of 512 products: the last bit of the sum decides
    )
    prepared = FloatLinear.of(layer, CPU)
    assert prepared.weight.dtype == (torch.float32 if product_bound(layer) < 1 << 24 else torch.float64)
    assert (prepared.weight.dtype == torch.float32) == (depth < 1033)
    x = rng.integers(-128, 128, (6, depth))
    x[0], x[1], x[2] = -128, 127, 126
    assert (linear_of(x, prepared, 16) == layers.linear(x, layer, 16)).all()


def linear_of(x: np.ndarray, layer: FloatLinear, bits: int) -> np.ndarray:
    return float_layers.linear(torch.from_numpy(x).to(torch.float32), layer, bits).numpy()


def test_requantize_is_exact_at_its_extremes() -> None:
    """Every shift, the extreme multipliers and accumulators of almost 32 bits, odd ones included."""
    rng = np.random.default_rng(7)
    shift, mult = np.meshgrid(np.arange(SHIFT_MAX + 1), [0, 1, 32768, 32769, 65535])
    channels = shift.size
    room = (1 << 31) - 1 - 127 * 128
    for bias in (np.full(channels, room), np.full(channels, -room), rng.integers(-room, room, channels)):
        layer = LinearLayer(
            rng.integers(-127, 128, (channels, 1)).astype(np.int8),
            bias.astype(np.int32),
            mult.ravel().astype(np.uint16),
            shift.ravel().astype(np.uint8),
        )
        x = np.array([[-128], [-1], [0], [1], [127]])
        for bits in (8, 16):
            assert (linear_of(x, FloatLinear.of(layer, CPU), bits) == layers.linear(x, layer, bits)).all()


@pytest.mark.parametrize("eps", [1, 1 << 20, (1 << 32) - 1])
@pytest.mark.parametrize("size", [1, 24, 192, 1024])
def test_norm_is_exact_at_its_extremes(size: int, eps: int) -> None:
    rng = np.random.default_rng(size)
    gamma = rng.integers(-32768, 32768, size).astype(np.int16)
    gamma[0] = -32768
    beta = rng.integers(-(1 << 29), 1 << 29, size).astype(np.int32)
    x = np.concatenate(
        [
            np.full((1, size), -32768),
            np.full((1, size), 32767),
            np.where(np.arange(size) % 2, 32767, -32768)[None],
            np.eye(1, size, dtype=np.int64),
            rng.integers(-32768, 32768, (3, size)),
            rng.integers(-3, 4, (3, size)),
        ]
    )
    for shift in (0, 12, 31):
        layer = NormLayer(gamma, beta, shift, eps)
        got = float_layers.norm(torch.from_numpy(x).to(torch.float32), FloatNorm.of(layer, CPU)).numpy()
        assert (got == layers.norm(x, layer)).all()


def test_tables_hold_every_code() -> None:
    tables = Tables.on(CPU)
    distance = torch.arange(1 << 16)
    exponential = tables.exponential[distance.clamp(max=len(tables.exponential) - 1)]
    assert (exponential == approx.exp2_negative(distance)).all()
    assert (tables.sigmoid == approx.sigmoid(torch.arange(-(1 << 15), 1 << 15))).all()


@pytest.mark.parametrize("wrong", [np.zeros((1, 3, 8, 9), np.uint8), np.zeros((1, 3, 8, 8), np.int8)])
def test_wrong_pictures_are_refused(wrong: np.ndarray) -> None:
    network = random_network(np.random.default_rng(3), replace(CONFIG, depth=1, selectors=()))
    with pytest.raises(ValueError, match=r"^pictures must be uint8 batches of \(3, 8, 8\), not torch\."):
        FastGolden(network).run(torch.from_numpy(wrong))
