"""The terms of the training loss: class, distillation from a teacher, keep ratio.

Structure and weights: HeatViT / SPViT, L = L_cls + 0.5 KL(logits) + 0.5 L_token + 2 L_ratio; the regression of the
logits stands beside their divergence here, and the residual stream of a network in 8 bits beside both. Each function
takes the mean over the whole batch, of which this process may have a part only (model/distributed.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from model.distributed import Mean

SMALLEST_RATIO = 1e-9
"""A share of kept patches below that of any batch, to divide by where nothing is kept."""
SMALLEST_SQUARE = 1e-12
"""To divide by where a teacher's logits, or all its normalised tokens, are zero."""


def class_loss(logits: Tensor, labels: Tensor, label_smoothing: float, mean: Mean = torch.mean) -> Tensor:
    """Cross entropy of logits (B, classes) against labels (B,), mean over the batch."""
    return mean(functional.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none"))


def logit_divergence_loss(logits: Tensor, teacher_logits: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Kullback-Leibler divergence of the student's classes from the teacher's, mean over the batch."""
    student, teacher = functional.log_softmax(logits, -1), functional.log_softmax(teacher_logits, -1)
    return mean(functional.kl_div(student, teacher, log_target=True, reduction="none").sum(-1))


def logit_regression_loss(logits: Tensor, teacher_logits: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Squared difference of the logits (B, classes) from the teacher's, relative to the square of those.

    Source: Ba and Caruana, NeurIPS 2014. Close to the teacher the divergence has next to no gradient, and rounding
    drowns it; every logit's own error still says where to go.
    """
    return mean((logits - teacher_logits).square()) / mean(teacher_logits.square()).clamp(min=SMALLEST_SQUARE)


def token_distillation_loss(tokens: Tensor, teacher_tokens: Tensor, mask: Tensor, mean: Mean = torch.mean) -> Tensor:
    """Mean squared difference of student and teacher over the patch tokens that the last selector kept.

    tokens and teacher_tokens (B, 1 + patches or more, D) start with CLS and the patches; mask (B, patches). It is a
    constant here: pruning a token must not be a way to lower its error.
    """
    patches = slice(1, 1 + mask.shape[1])
    error = (tokens[:, patches] - teacher_tokens[:, patches]).square().mean(-1)
    return mean(error * mask.detach()) / mean(mask.detach()).clamp(min=SMALLEST_RATIO)


def residual_distillation_loss(
    residuals: Sequence[tuple[Tensor, Tensor]],
    teacher_residuals: Sequence[tuple[Tensor, Tensor]],
    mean: Mean = torch.mean,
) -> Tensor:
    """Relative squared error of the normalised tokens that leave each block, mean over the blocks.

    Each is the tokens (B, slots, D) and which of them are live (B, slots) 0 or 1; what lives in both networks counts. A
    network without selectors lacks the last slot. Tokens are normalised as the next layer does it, without its weights.
    Source: FitNets (Romero et al., ICLR 2015), between networks of one shape.
    """
    errors = []
    for (tokens, live), (teacher_tokens, teacher_live) in zip(residuals, teacher_residuals, strict=True):
        slots = min(tokens.shape[1], teacher_tokens.shape[1])
        found, expected = (functional.layer_norm(x[:, :slots], x.shape[-1:]) for x in (tokens, teacher_tokens))
        weight = (live[:, :slots] * teacher_live[:, :slots])[..., None]
        square = mean(expected.square() * weight).clamp(min=SMALLEST_SQUARE)
        errors.append(mean((found - expected).square() * weight) / square)
    return torch.stack(errors).mean()


def keep_ratios(masks: Sequence[Tensor], mean: Mean = torch.mean) -> Tensor:
    """Share of the picture's patches still live after each selector, mean over the batch: (selectors,).

    masks, one per selector, are (B, patches) float 0 or 1.
    """
    return torch.stack([mean(mask) for mask in masks])


def keep_ratio_loss(masks: Sequence[Tensor], targets: Sequence[float], mean: Mean = torch.mean) -> Tensor:
    """Mean over the selectors of (keep ratio - target)**2.

    The ratio is that of the hard decisions (straight-through), not of the scores: scores crowd around the
    threshold, and their mean says little about how many pass it. The mean is over batch and tokens, so pictures
    may keep different numbers.
    """
    return (keep_ratios(masks, mean) - masks[0].new_tensor(targets)).square().mean()
