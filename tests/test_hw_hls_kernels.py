"""HLS kernels against their golden functions, bit for bit, through one g++ build of all of them.

Testpoints: requantize at both widths over corners of accumulator, multiplier and every shift; residual saturation; GELU
at all 65536 inputs and both delta1; sigmoid at all inputs; integer and reciprocal square root at powers of two, squares
and their neighbours; row scale at every sum; LayerNorm of 1 to 1024 channels with extreme rows, gammas and eps; softmax
rows with any live count, unused columns above the peak; mean over any live count with -128; keep scores, all
importances zero, CLS; selection with ties, none and all pruned, an earlier package, weights of zero.
"""

from __future__ import annotations

import ctypes
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hw.hls.blocks import MAX_HEADS
from quant import approx
from quant.fixed import SHIFT_MAX, requantize, saturate
from quant.layers import CLS_SCORE, as_weights, select

KERNELS = Path(__file__).parent.parent / "hw" / "hls" / "kernels"
MEAN_TOKENS, MEAN_CHANNELS = 9, 3
"""Sizes of MeanConfig in hls_kernels.cpp."""
SELECT_TOKENS, SELECT_CHANNELS, SELECT_THRESHOLD = 9, 2, 1 << 15
"""Sizes and threshold of SelectConfig there."""
I64 = NDArray[np.int64]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The shared library of all kernels."""
    spec = find_spec("hls4ml")
    if spec is None or spec.origin is None:
        pytest.skip("the types of HLS C++ come with hls4ml")
    templates = Path(spec.origin).parent / "templates" / "vivado"
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    (one, curve), (half_one, half_curve) = approx.gelu_constants(1.0), approx.gelu_constants(0.5)
    constants = {"ONE_FULL": one, "CURVE_FULL": curve, "ONE_HALF": half_one, "CURVE_HALF": half_curve}
    command = ["g++", "-O1", "-std=c++11", "-shared", "-fPIC", "-Wno-attributes", "-o", str(library)]
    command += [f"-D{name}={value}" for name, value in constants.items()]
    command += [f"-I{folder}" for folder in (KERNELS, templates / "ap_types", templates / "nnet_utils")]
    subprocess.run([*command, str(Path(__file__).with_name("hls_kernels.cpp"))], check=True)
    return ctypes.CDLL(str(library))


def call(function: Any, *arguments: I64 | int) -> None:
    """Call a kernel: arrays as pointers, whole numbers by value."""
    function(
        *(a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else ctypes.c_longlong(a) for a in arguments)
    )


def mapped(function: Any, x: I64, results: int = 1) -> list[I64]:
    """Call an element-wise kernel and return its results."""
    outputs = [np.zeros_like(x) for _ in range(results)]
    call(function, x, *outputs, x.size)
    return outputs


def around(values: Any, low: int, high: int) -> I64:
    """Return values and their neighbours, those in low..high."""
    near = np.concatenate([np.asarray(values, np.int64) + step for step in (-1, 0, 1)])
    return np.unique(near[(near >= low) & (near <= high)])


def test_requantize(kernels: ctypes.CDLL) -> None:
    rng = np.random.default_rng(0)
    edges = [0, 1, -1, 127, -128, 1 << 15, -(1 << 15), (1 << 31) - 1, -(1 << 31)]
    grid = np.meshgrid(edges, [0, 1, 1 << 15, 65535], np.arange(SHIFT_MAX + 1), indexing="ij")
    acc, mult, shift = (axis.ravel().astype(np.int64) for axis in grid)
    count = 20000
    acc = np.append(acc, rng.integers(-(1 << 31), 1 << 31, count) >> rng.integers(0, 31, count))
    mult, shift = (
        np.append(mult, rng.integers(0, 65536, count)),
        np.append(shift, rng.integers(0, SHIFT_MAX + 1, count)),
    )
    int8, int16 = np.zeros_like(acc), np.zeros_like(acc)
    call(kernels.requantize, acc, mult, shift, int8, int16, acc.size)
    assert np.array_equal(int8, requantize(acc, mult, shift, 8))
    assert np.array_equal(int16, requantize(acc, mult, shift, 16))


def test_residual(kernels: ctypes.CDLL) -> None:
    edges = np.array([-32768, -32767, -1, 0, 1, 16384, 32767])
    left, right = (axis.ravel().astype(np.int64) for axis in np.meshgrid(edges, edges))
    result = np.zeros_like(left)
    call(kernels.residual, left, right, result, left.size)
    assert np.array_equal(result, saturate(left + right, 16))


def test_gelu_and_sigmoid_everywhere(kernels: ctypes.CDLL) -> None:
    x = np.arange(-(1 << 15), 1 << 15, dtype=np.int64)
    full, half = mapped(kernels.gelu, x, 2)
    assert np.array_equal(full, approx.gelu(x, *approx.gelu_constants(1.0), -2345))
    assert np.array_equal(half, approx.gelu(x, *approx.gelu_constants(0.5), 0))
    assert np.array_equal(mapped(kernels.sigmoid, x)[0], approx.sigmoid(x))


def test_square_roots(kernels: ctypes.CDLL) -> None:
    rng = np.random.default_rng(1)
    squares = np.append(np.arange(300) ** 2, rng.integers(0, 1 << 16, 2000) ** 2)
    x = around(np.concatenate([squares, [1 << bit for bit in range(33)]]), 0, (1 << 32) - 1)
    assert np.array_equal(mapped(kernels.integer_sqrt, x)[0], approx.integer_sqrt(x))
    wide = np.concatenate(
        [[1 << bit for bit in range(54)], rng.integers(1, 1 << 53, 2000) >> rng.integers(0, 53, 2000)]
    )
    variance = around(np.append(wide, squares), 1, (1 << 53) - 1)
    mult, shift = mapped(kernels.reciprocal_sqrt, variance, 2)
    expected_mult, expected_shift = approx.reciprocal_sqrt(variance)
    assert np.array_equal(mult, expected_mult) and np.array_equal(shift, expected_shift)


@pytest.mark.parametrize(("mult", "shift"), [(1 << 15, 0), (40503, 15), (65535, 31)])
def test_row_scale_of_every_sum(mult: int, shift: int, kernels: ctypes.CDLL) -> None:
    total = np.arange(1 << 17, dtype=np.int64)
    row_mult, row_shift = np.zeros_like(total), np.zeros_like(total)
    call(kernels.row_scale, total, mult, shift, row_mult, row_shift, total.size)
    expected_mult, expected_shift = approx.row_scale(total, mult, shift)
    assert np.array_equal(row_mult, expected_mult) and np.array_equal(row_shift, expected_shift)


def extreme_rows(rng: np.random.Generator, size: int) -> list[I64]:
    """Rows of int16 that are constant, alternate between the ends of the range, or hold noise of any size."""
    ends = np.resize([32767, -32768], size)
    noise = [rng.integers(-(1 << bits), 1 << bits, size) for bits in (0, 4, 9, 15)]
    spike = np.zeros(size, np.int64)
    spike[-1] = -32768
    return [np.zeros(size, np.int64), np.full(size, -32768), np.full(size, 32767), ends, spike, *noise]


@pytest.mark.parametrize("size", [1, 2, 16, 48, 192, 1024])
def test_layer_norm(size: int, kernels: ctypes.CDLL) -> None:
    rng = np.random.default_rng(size)
    for x in extreme_rows(rng, size):
        for shift, eps in ((0, 1), (25, (1 << 32) - 1), (31, 1 << 16)):
            gamma, beta = rng.integers(-(1 << 15), 1 << 15, size), rng.integers(-(1 << 29), 1 << 29, size) >> 31 - shift
            result = np.zeros(size, np.int64)
            call(kernels.layer_norm, x.astype(np.int64), gamma, beta, shift, eps, result, size)
            assert np.array_equal(result, approx.layer_norm(x, gamma, beta, shift, eps))


@pytest.mark.parametrize("spread", [3, 8, 11, 15])
@pytest.mark.parametrize("size", [1, 2, 50, 197])
def test_softmax_rows(size: int, spread: int, kernels: ctypes.CDLL) -> None:
    rng = np.random.default_rng(size + spread)
    for live in {1, size, int(rng.integers(1, size + 1))}:
        scores = rng.integers(-(1 << spread), 1 << spread, size)
        scores[live:] = 32767
        result = np.zeros(size, np.int64)
        call(kernels.softmax, scores, live, result, size)
        assert np.array_equal(result, approx.softmax_rows(scores, np.arange(size) < live)[0])


def test_exponentials_of_every_distance(kernels: ctypes.CDLL) -> None:
    scores = np.arange(-(1 << 15), 1 << 15, dtype=np.int64)
    result = np.zeros_like(scores)
    call(kernels.softmax, scores, scores.size, result, scores.size)
    assert np.array_equal(result, approx.exp2_negative(32767 - scores))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_mean_and_keep_score(kernels: ctypes.CDLL, data: st.DataObject) -> None:
    codes = st.sampled_from([-128, -127, 127]) | st.integers(-128, 127)
    count = MEAN_TOKENS * MEAN_CHANNELS
    rows = np.array(data.draw(st.lists(codes, min_size=count, max_size=count)), np.int64).reshape(MEAN_TOKENS, -1)
    live = data.draw(st.integers(1, MEAN_TOKENS))
    mult, shift = data.draw(st.integers(1 << 15, 65535)), data.draw(st.integers(0, 31))
    result = np.zeros(MEAN_CHANNELS, np.int64)
    call(kernels.mean, rows, live, mult, shift, result)
    row_mult, row_shift = approx.row_scale(np.int64(live - 1), mult, shift)
    assert np.array_equal(result, requantize(as_weights(rows[1:live]).sum(axis=0), row_mult, row_shift, 8))

    heads = data.draw(st.integers(1, MAX_HEADS))
    bytes_of_heads = st.lists(st.sampled_from([0, 255]) | st.integers(0, 255), min_size=heads, max_size=heads)
    keep, weight = (np.array(data.draw(bytes_of_heads), np.int64) for _ in range(2))
    score = np.zeros(1, np.int64)
    for importance in (weight, np.zeros_like(weight)):
        call(kernels.keep_score, 1, keep, importance, score, heads)
        assert score[0] == approx.keep_scores(keep[None], importance[None])[0]
    call(kernels.keep_score, 0, keep, weight, score, heads)
    assert score[0] == 65535


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_selection(kernels: ctypes.CDLL, data: st.DataObject) -> None:
    codes = st.sampled_from([-32768, 32767]) | st.integers(-32768, 32767)
    count = SELECT_TOKENS * SELECT_CHANNELS
    rows = np.array(data.draw(st.lists(codes, min_size=count, max_size=count)), np.int64).reshape(SELECT_TOKENS, -1)
    high = data.draw(st.sampled_from([255, SELECT_THRESHOLD, 65535]))  # 255: scores whose weight is zero
    scores = st.sampled_from([0, min(high, SELECT_THRESHOLD), SELECT_THRESHOLD - 1]) | st.integers(0, high)
    score = np.array([CLS_SCORE, *(data.draw(scores) for _ in range(SELECT_TOKENS - 1))], np.int64)
    live, has_package = data.draw(st.integers(1, SELECT_TOKENS)), data.draw(st.booleans())
    has_package &= live > 1
    result = np.zeros((SELECT_TOKENS + 1, SELECT_CHANNELS), np.int64)
    call(kernels.selection, rows, score, live, int(has_package), result)

    number = np.arange(SELECT_TOKENS)
    kept, merged = select(score, number < live, has_package & (number == live - 1), SELECT_THRESHOLD)
    expected = np.zeros_like(result)
    expected[0] = kept.sum() + merged.any(), merged.any()
    expected[1 : 1 + kept.sum()] = rows[kept]
    if merged.any():
        expected[1 + kept.sum()] = approx.package_token(rows, score, merged)
    assert np.array_equal(result, expected)
