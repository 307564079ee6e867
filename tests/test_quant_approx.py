"""Integer non-linear functions against float, over their whole input ranges.

Testpoints: GELU, sigmoid and the exponential over every input, within the stated bounds and widths; softmax masks and
error; row_scale over every row sum; integer square root at the edges of squares; reciprocal square root at every
octave; LayerNorm on flat, one-hot, extreme and random rows; keep score against fractions, all importances zero;
package token within its bound, weightless, single; numpy and torch give the same codes.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant import approx
from quant.fixed import SHIFT_MAX

ALL_I16 = np.arange(-(1 << 15), 1 << 15)


def float_gelu_polynomial(x: np.ndarray, delta1: float) -> np.ndarray:
    """HeatViT Eq. 11-12 as printed."""
    u = x / math.sqrt(2)
    erf = np.sign(u) * delta1 * (-0.2888 * (np.minimum(np.abs(u), 1.769) - 1.769) ** 2 + 1)
    return x / 2 * (1 + erf)


@pytest.mark.parametrize("offset", [0, -1, -5000, approx.GELU_OFFSET_MIN])
@pytest.mark.parametrize("delta1", [1.0, 0.5, 0.1])
def test_gelu_is_the_polynomial(delta1: float, offset: int) -> None:
    out = approx.gelu(ALL_I16, *approx.gelu_constants(delta1), offset)
    assert out.min() >= -(1 << 31) and out.max() < 1 << 31
    x = ALL_I16 / 1024
    expected = float_gelu_polynomial(x, delta1) + offset / 2048
    assert (np.abs(out * 2.0**-26 - expected) <= 3e-4 + 2**-13 * np.abs(x)).all()


def test_gelu_with_delta_one_approximates_gelu() -> None:
    x = ALL_I16 / 1024
    exact = np.array([value / 2 * (1 + math.erf(value / math.sqrt(2))) for value in x])
    out = approx.gelu(ALL_I16, *approx.gelu_constants(1.0), 0) * 2.0**-26
    assert np.abs(out - exact).max() <= 0.0182 + 3e-4 + 2**-13 * 32
    assert 0 <= out.min() - approx.GELU_MIN < 1e-3


@given(st.floats(2**-16, 1.0))
def test_codes_of_gelu_begin_at_its_minimum(scale: float) -> None:
    offset = approx.gelu_offset(scale, 1.0)
    assert approx.GELU_OFFSET_MIN <= offset <= 0
    lowest = -128 * scale - offset * approx.GELU_OFFSET_SCALE
    if offset == 0:  # as far as code -128 reaches without one
        assert lowest >= approx.GELU_MIN - approx.GELU_OFFSET_SCALE
    elif offset > approx.GELU_OFFSET_MIN:
        assert abs(lowest - approx.GELU_MIN) <= approx.GELU_OFFSET_SCALE / 2 * 1.0001
    assert approx.gelu_offset(scale, 0.5) == 0


@pytest.mark.parametrize("delta1", [0.0, -0.5, 1.5, float("nan")])
def test_gelu_refuses_other_deltas(delta1: float) -> None:
    with pytest.raises(ValueError, match=r"^delta1 must be in \(0, 1\], not "):
        approx.gelu_constants(delta1)


def test_sigmoid_is_plan() -> None:
    magnitude = np.abs(ALL_I16 / 1024)
    plan = np.select(
        [magnitude >= 5, magnitude >= 2.375, magnitude >= 1],
        [1.0, magnitude / 32 + 0.84375, magnitude / 8 + 0.625],
        magnitude / 4 + 0.5,
    )
    plan = np.where(ALL_I16 < 0, 1 - plan, plan)
    out = approx.sigmoid(ALL_I16)
    assert out.min() == 0 and out.max() == 255
    assert np.abs(out / 256 - plan).max() <= 2**-8
    assert np.abs(out / 256 - 1 / (1 + np.exp(-ALL_I16 / 1024))).max() <= 0.0189 + 2**-8
    assert out[ALL_I16 == 0] == 128


def test_exponential_is_within_one_code() -> None:
    distance = np.arange(1 << 16)
    out = approx.exp2_negative(distance)
    assert out[0] == approx.EXP_MAX and out.min() == 0
    assert np.abs(out - 128 * 2.0 ** (-distance / 256)).max() <= 1.0


def test_softmax_is_close_to_float() -> None:
    rng = np.random.default_rng(1)
    score = np.round(rng.normal(0, 600, (50, 64))).astype(np.int64)
    exponential, row_sum = approx.softmax_rows(score, np.ones(64, bool))
    power = 2.0 ** ((score - score.max(axis=1, keepdims=True)) / 256)
    # Every exponential is within a code of its float: so is the quotient, relative to the sum, plus that of the sum.
    error = np.abs(exponential / row_sum[:, None] - power / power.sum(axis=1, keepdims=True))
    assert (error <= (1 + 64 * exponential / row_sum[:, None]) / row_sum[:, None]).all()
    assert error.max() <= 0.02


def test_softmax_ignores_invalid_columns() -> None:
    rng = np.random.default_rng(2)
    score = rng.integers(-(1 << 15), 1 << 15, (40, 24))
    valid = rng.random((40, 24)) < 0.5
    valid[np.arange(40), rng.integers(0, 24, 40)] = True
    exponential, row_sum = approx.softmax_rows(score, valid)
    assert (exponential[~valid] == 0).all()
    for row in range(40):
        alone, alone_sum = approx.softmax_rows(score[row, valid[row]], np.ones(valid[row].sum(), bool))
        assert (exponential[row, valid[row]] == alone).all() and row_sum[row] == alone_sum


def test_softmax_peak_is_that_of_the_valid_columns() -> None:
    score = np.array([[-30000, 12, -29744, 0], [-32768, 32767, 32767, 32767]])
    exponential, row_sum = approx.softmax_rows(score, np.array([[True, False, True, False], [True] + 3 * [False]]))
    assert exponential.tolist() == [[64, 0, 127, 0], [127, 0, 0, 0]] and row_sum.tolist() == [191, 127]


@pytest.mark.parametrize(("mult", "shift"), [(1 << 15, 0), (1 << 15, 15), (65535, 31), (45678, 20)])
def test_row_scale_divides(mult: int, shift: int) -> None:
    row_sum = np.arange(1, 1 << 17)
    scale, out_shift = approx.row_scale(row_sum, mult, shift)
    assert scale.min() >= 1 << 14 and scale.max() < 1 << 16  # at least 14 significant bits
    assert out_shift.min() >= shift and out_shift.max() <= SHIFT_MAX
    exact = mult / row_sum.astype(float) * 2.0**-shift
    got = scale * 2.0 ** -out_shift.astype(float)
    assert (got <= exact).all() and (exact - got <= exact * 2.0**-14).all()


def test_row_scale_counts_zero_as_one() -> None:
    zero, one = (approx.row_scale(np.array([value]), 40000, 7) for value in (0, 1))
    assert [part.tolist() for part in zero] == [part.tolist() for part in one]


def test_integer_square_root_floors() -> None:
    roots = np.concatenate([np.arange(1, 300), np.arange(65300, 65536), [12345, 46341]])
    values = np.concatenate([roots**2 - 1, roots**2, roots**2 + 1, [0, (1 << 32) - 1]])
    assert approx.integer_sqrt(values).tolist() == [math.isqrt(value) for value in values.tolist()]


def test_reciprocal_square_root_error_at_every_octave() -> None:
    rng = np.random.default_rng(3)
    values = [1 << bit for bit in range(53)] + [(1 << bit) - 1 for bit in range(1, 54)]
    values += [int(value) for bit in range(1, 53) for value in rng.integers(1 << bit, 2 << bit, 40)]
    variance = np.array(values)
    mult, shift = approx.reciprocal_sqrt(variance)
    assert mult.min() >= 0 and mult.max() < 1 << 16 and shift.min() >= 0 and shift.max() <= SHIFT_MAX
    exact = 2.0**10 / np.sqrt(variance.astype(float))
    assert (np.abs(mult * 2.0 ** -shift.astype(float) - exact) <= exact * 2.0**-14).all()


def layer_norm_rows() -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    rows = []
    for size in (4, 12, 64, 192, 1024):
        one_hot = np.zeros(size, np.int64)
        one_hot[size // 2] = 32767
        rows += [one_hot, -one_hot, rng.choice([-32768, 32767], size), rng.integers(-32768, 32768, size)]
        rows += [np.round(rng.normal(0, sigma, size)).astype(np.int64) for sigma in (1, 30, 3000)]
        rows += [rng.integers(32000, 32768, size)]  # a mean far from zero
    return rows


@pytest.mark.parametrize("eps", [1, 1 << 20])
def test_layer_norm_error(eps: int) -> None:
    for x in layer_norm_rows():
        size = len(x)
        centred = size * x - x.sum()
        exact = centred / math.sqrt(size * int((x * x).sum()) - int(x.sum()) ** 2 + eps)
        nearest = np.round(exact * 1024).astype(np.int64)
        # With gamma 1 and beta -nearest the result is the error in codes of 2**-10.
        error = approx.layer_norm(x, np.ones(size, np.int64), -nearest, 0, eps) + nearest - exact * 1024
        assert (np.abs(error) <= 1 + np.abs(exact) / 8).all()


def test_layer_norm_of_a_flat_row_is_beta() -> None:
    beta = np.arange(-8, 8) << 5
    flat = np.full((3, 16), [[-32768], [0], [32767]])
    out = approx.layer_norm(flat, np.full(16, 3000), beta, 5, 1)
    assert (out == np.arange(-8, 8)).all()


def test_layer_norm_affine_rounds_and_saturates() -> None:
    x = np.array([-100, 100, -100, 100])  # normalised: -1, 1, -1, 1
    out = approx.layer_norm(x, np.array([1 << 10, 1 << 10, 32767, 32767]), np.array([0, 1 << 9, 0, 0]), 10, 1)
    assert out.tolist() == [-128, 127, -128, 127]
    out = approx.layer_norm(x, np.array([3, 3, 5, -5]), np.array([0, 0, 0, 0]), 11, 1)
    assert out.tolist() == [-1, 2, -2, -2]  # -1.5, 1.5, -2.5, -2.5: halves go up


def test_keep_score_is_the_floored_weighted_mean() -> None:
    rng = np.random.default_rng(5)
    token, head = rng.integers(0, 256, (2, 200, 3))
    head[:20] = 0  # equal weights
    token[:5], token[20:25], head[20:25] = 255, 255, 255
    scores = approx.keep_scores(token, head)
    for score, t, a in zip(scores.tolist(), token.tolist(), head.tolist(), strict=True):
        weights = a if any(a) else [1, 1, 1]
        assert score == math.floor(256 * Fraction(sum(x * y for x, y in zip(t, weights, strict=True)), sum(weights)))
    assert scores.max() == 255 * 256


def test_package_is_the_weighted_mean_of_the_pruned() -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        count = int(rng.integers(1, 257))
        x = rng.integers(-(1 << 15), 1 << 15, (count, 5))
        score = rng.integers(0, 65536, count)
        pruned = rng.random(count) < 0.5
        pruned[rng.integers(count)] = True
        weight = (score >> 8) * pruned
        if not weight.any():
            weight = pruned.astype(np.int64)
        exact = (weight[:, None] * x).sum(axis=0) / weight.sum()
        error = np.abs(approx.package_token(x, score, pruned) - exact)
        assert (error <= 0.5 + np.abs(exact) * 2.0**-14).all()


def test_package_without_weight_is_the_plain_mean() -> None:
    x = np.array([[100, -7], [300, -9], [30000, 30000]])
    pruned = np.array([True, True, False])
    assert approx.package_token(x, np.array([255, 0, 60000]), pruned).tolist() == [200, -8]


def test_package_of_nothing_is_zero() -> None:
    assert approx.package_token(np.full((3, 2), 99), np.full(3, 40000), np.zeros(3, bool)).tolist() == [0, 0]


def test_numpy_and_torch_agree() -> None:
    rng = np.random.default_rng(7)
    x = rng.integers(-(1 << 15), 1 << 15, (4, 9, 16))
    valid = rng.random((4, 1, 16)) < 0.7
    valid[..., 0] = True
    bytes_u8 = rng.integers(0, 256, (4, 9, 16))
    score = rng.integers(0, 65536, (4, 9))
    pruned = rng.random((4, 9)) < 0.5
    gamma, beta = rng.integers(-32768, 32768, 16), rng.integers(-(1 << 24), 1 << 24, 16)
    cases = [
        (approx.gelu, (x, 32768, 4732, -900)),
        (approx.sigmoid, (x,)),
        (approx.softmax_rows, (x, valid)),
        (approx.row_scale, (rng.integers(0, 1 << 17, (4, 9)), 50000, 11)),
        (approx.reciprocal_sqrt, (rng.integers(1, 1 << 53, (4, 9)),)),
        (approx.layer_norm, (x, gamma, beta, 19, 77)),
        (approx.keep_scores, (bytes_u8, bytes_u8[::-1].copy())),
        (approx.package_token, (x, score, pruned)),
    ]
    for function, arguments in cases:
        tensors = [torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in arguments]
        ours, theirs = function(*arguments), function(*tensors)
        pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
        for mine, other in pairs:
            assert (mine == other.numpy()).all(), function.__name__
