"""Training losses.

Testpoints: each term against a hand-computed value; distillation is zero for equal networks; the token term looks at
kept patches only and gives no gradient to the mask, the residual term at what lives in both networks; the keep-ratio
term counts hard decisions, is zero on target although pictures differ, and pushes the ratio towards the target from
both sides.
"""

import math

import pytest
import torch

from model.losses import (
    class_loss,
    keep_ratio_loss,
    keep_ratios,
    logit_divergence_loss,
    logit_regression_loss,
    residual_distillation_loss,
    token_distillation_loss,
)
from model.selector import keep_mask


def test_class_loss_is_the_cross_entropy() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)]])
    assert class_loss(logits, torch.tensor([1]), 0.0).item() == pytest.approx(-math.log(0.75))
    smoothed = -0.9 * math.log(0.75) - 0.1 * math.log(0.25)
    assert class_loss(logits, torch.tensor([1]), 0.2).item() == pytest.approx(smoothed)


def test_logit_divergence_is_that_from_the_teacher() -> None:
    student, teacher = torch.tensor([[0.0, 0.0]] * 3), torch.tensor([[0.0, math.log(3.0)]] * 3)
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert logit_divergence_loss(student, teacher).item() == pytest.approx(expected)
    assert logit_divergence_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-7)


def test_logit_regression_is_the_relative_squared_error() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([[0.0, 2.0], [2.0, 4.0]])
    assert logit_regression_loss(student, teacher).item() == pytest.approx(5 / 24)
    assert logit_regression_loss(teacher, teacher).item() == 0
    assert logit_regression_loss(student, torch.zeros(2, 2)).isfinite()


def test_token_distillation_looks_at_kept_patches_only() -> None:
    teacher = torch.zeros(1, 4, 2)  # CLS and three patches
    tokens = torch.tensor([[[9.0, 9], [1, 3], [9, 9], [2, 0], [9, 9]]])  # and the package
    mask = torch.tensor([[1.0, 0, 1]], requires_grad=True)
    loss = token_distillation_loss(tokens.requires_grad_(), teacher, mask)
    assert loss.item() == pytest.approx((5 + 2) / 2)
    loss.backward()
    assert mask.grad is None


def test_token_distillation_of_nothing_kept_is_zero() -> None:
    assert token_distillation_loss(torch.ones(1, 3, 2), torch.zeros(1, 3, 2), torch.zeros(1, 2)).item() == 0


def test_residual_distillation_compares_what_lives_in_both() -> None:
    teacher = torch.tensor([[[1.0, -1], [-1, 1], [5, 9], [2, -2]]])  # normalised: +-1
    tokens = torch.tensor([[[3.0, -3], [4, -4], [9, 5], [7, 7]]]).requires_grad_()
    every, first, none = torch.ones(1, 4), torch.tensor([[1.0, 1, 0, 0]]), torch.tensor([[1.0, 0, 1, 0]])
    # The first token is the teacher's, the second the opposite, with an error of 2 in each channel.
    loss = residual_distillation_loss([(tokens, first), (tokens, none)], [(teacher, every), (teacher, first)])
    assert loss.item() == pytest.approx((4 * 2 / 4 + 0) / 2, rel=1e-4)
    torch.autograd.backward(loss)
    assert tokens.grad is not None and not tokens.grad[0, 2:].any()
    without_package = [(teacher[:, :3], every[:, :3])]
    assert residual_distillation_loss([(teacher, every)], without_package).item() == 0
    equal = [(torch.ones(1, 4, 2), every)]  # normalised: zero
    assert residual_distillation_loss(equal, equal).item() == 0


def test_keep_ratio_is_the_mean_over_pictures_and_patches() -> None:
    first, second = torch.tensor([[1.0, 1, 1, 0], [1, 0, 0, 0]]), torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0]])
    assert keep_ratios([first, second]).tolist() == [0.5, 0.25]
    assert keep_ratio_loss([first, second], (0.5, 0.25)).item() == 0
    assert keep_ratio_loss([first, second], (0.3, 0.25)).item() == pytest.approx(0.04 / 2)


@pytest.mark.parametrize("target, direction", [(0.1, 1), (0.9, -1)])
def test_keep_ratio_pushes_scores_towards_the_target(target: float, direction: int) -> None:
    # Scores that crowd around the threshold: their mean is 0.5, but a quarter of them passes.
    scores = torch.tensor([[0.9, 0.51, 0.49, 0.49, 0.49, 0.49, 0.49, 0.48, 0.52]], requires_grad=True)
    mask = keep_mask(scores, torch.ones(1, 9))[:, 1:]
    keep_ratio_loss([mask], (target,)).backward()
    assert scores.grad is not None and (scores.grad[:, 1:].sign() == direction).all()
