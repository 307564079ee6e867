"""Float non-linear functions that networks train with.

Testpoints: GELU, exponential and sigmoid against the exact functions within the published errors; against the integer
functions within their stated bounds; delta1 keeps the slope below 1; softmax with masked columns equals softmax of the
columns that are left, its rows sum to delta2, and gradients are finite and reach the mask.
"""

import math

import pytest
import torch

from model.approx import exp_negative, softmax
from quant import approx as integer
from quant.fake_quant import plan_sigmoid, polynomial_gelu

POINTS = torch.linspace(-12, 12, 4801)


def test_gelu_is_near_the_exact_function() -> None:
    x = POINTS[POINTS.abs() <= 3]
    assert (polynomial_gelu(x, 1.0) - torch.nn.functional.gelu(x)).abs().max() < 0.0183


@pytest.mark.parametrize("delta1", [0.5, 1.0])
def test_gelu_agrees_with_the_integer_function(delta1: float) -> None:
    x_i16 = torch.arange(-(1 << 14), 1 << 14, 37)
    x = x_i16 / 1024
    error = (polynomial_gelu(x, delta1) - integer.gelu(x_i16, *integer.gelu_constants(delta1), 0) / 2**26).abs()
    assert (error <= 3e-4 + 2**-13 * x.abs()).all()


def test_half_delta1_bounds_the_slope() -> None:
    x = POINTS.clone().requires_grad_()
    (slope,) = torch.autograd.grad(polynomial_gelu(x, 0.5).sum(), x)
    assert 0.174 < slope.min() and slope.max() < 0.826


def test_exponential_is_near_the_exact_function() -> None:
    x = torch.linspace(-20, 0, 4001)
    assert (exp_negative(x) / x.exp() - 1).abs().max() < 0.0032


def test_exponential_of_huge_distances_is_finite() -> None:
    x = torch.tensor([-1e9, -200.0]).requires_grad_()
    (slope,) = torch.autograd.grad(exp_negative(x).sum(), x)
    assert exp_negative(x).max() < 1e-30 and slope.isfinite().all()


def test_exponential_agrees_with_the_integer_function() -> None:
    distance_u16 = torch.arange(0, 4096, 3)
    exact = 128 * exp_negative(-distance_u16 / 256 * math.log(2))
    assert (integer.exp2_negative(distance_u16) - exact).abs().max() <= 1.1


def test_sigmoid_is_near_the_exact_function() -> None:
    assert (plan_sigmoid(POINTS) - torch.sigmoid(POINTS)).abs().max() < 0.019
    assert plan_sigmoid(torch.tensor([-5.0, 0.0, 5.0])).tolist() == [0.0, 0.5, 1.0]


def test_sigmoid_agrees_with_the_integer_function() -> None:
    x_i16 = torch.arange(-(1 << 13), 1 << 13, 11)
    assert (plan_sigmoid(x_i16 / 1024) - integer.sigmoid(x_i16) / 256).abs().max() <= 2**-8


def test_softmax_gives_masked_columns_no_weight() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 5 * torch.randn(2, 3, 4, 7, generator=generator)
    scores[..., 2] += 50  # a masked column above the peak
    valid = torch.tensor([1.0, 1, 0, 1, 0, 1, 1])
    weights = softmax(scores, valid, 0.5)
    live = valid.bool()
    assert (weights[..., ~live] == 0).all()
    torch.testing.assert_close(weights[..., live], softmax(scores[..., live], torch.ones(5), 0.5))
    torch.testing.assert_close(weights.sum(-1), torch.full((2, 3, 4), 0.5))


def test_softmax_is_near_the_exact_function() -> None:
    scores = 4 * torch.randn(8, 50, generator=torch.Generator().manual_seed(1))
    assert (softmax(scores, torch.ones(50), 1.0) - scores.softmax(-1)).abs().max() < 0.004


def test_softmax_gradients_reach_scores_and_mask() -> None:
    scores = torch.tensor([[3.0, -1.0, 90.0]], requires_grad=True)
    valid = torch.tensor([1.0, 1.0, 0.0], requires_grad=True)
    weights = softmax(scores, valid, 1.0)
    by_score, by_mask = torch.autograd.grad((weights * torch.tensor([1.0, 2.0, 3.0])).sum(), (scores, valid))
    assert by_score.isfinite().all() and (by_score[0, :2] != 0).all()
    assert by_mask.isfinite().all() and by_mask[2] != 0
