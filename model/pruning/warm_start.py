"""Candidate selectors before every block, trained to find the tokens that the dense network's decision rests on.

With few pictures a selector learns little from the loss of a whole network. The dense network itself knows more: how
much the score of its class would change, to first order, if a token were replaced by the mean of the patches. Ranking
tokens by that is a target for each token of each picture, without labels, and the dense network does not change, so
the selectors of all blocks learn in one pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from model.inference import infer_from
from model.selector import KEEP_THRESHOLD, LOGIT_EPS, TokenSelector
from model.vit import VisionTransformer
from quant.live_tokens import LiveTokens

SHIFT_MAX = 8.0
SHIFT_STEP = 2.0**-8
"""Range and resolution of the shift of a keep logit."""


def token_saliency(
    teacher: VisionTransformer, pictures_u8: Tensor, blocks: Sequence[int]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return, for each of the blocks, the tokens (B, 1 + patches, D) that enter it and the patches' saliency.

    The saliency (B, patches) is |<x - mean of the patches' x, gradient of the class score>|; teacher is dense.
    """
    tokens = teacher.embed(pictures_u8).detach().requires_grad_()
    valid = tokens.new_ones(tokens.shape[:2])
    entering = []
    for number, block in enumerate(teacher.blocks):
        if number in blocks:
            entering.append(tokens)
        tokens = block(tokens, valid, teacher.kernels)
    logits = teacher.head(teacher.norm(tokens[:, 0]))
    gradients = torch.autograd.grad(logits.amax(-1).sum(), entering)
    saliency = []
    for x, gradient in zip(entering, gradients, strict=True):
        patches = x.detach()[:, 1:].float()
        difference = patches - patches.mean(1, keepdim=True)
        saliency.append((difference * gradient[:, 1:]).sum(-1).abs())
    return [x.detach().float() for x in entering], saliency


def ranking_loss(
    candidates: VisionTransformer, entering: Sequence[Tensor], saliency: Sequence[Tensor], shares: Sequence[float]
) -> Tensor:
    """Mean cross entropy of the selectors' scores against "is among the most salient share of the patches".

    One entry of each sequence for each selector of candidates; shares are 0..1.
    """
    losses = []
    for selector, tokens, values, share in zip(candidates.selectors, entering, saliency, shares, strict=True):
        scores = selector(tokens, tokens.new_ones(tokens.shape[:2]))[:, 1:]
        chosen = values.topk(max(1, round(share * values.shape[1])), dim=1).indices
        target = torch.zeros_like(scores).scatter(1, chosen, 1.0)
        losses.append(functional.binary_cross_entropy(scores.clamp(LOGIT_EPS, 1 - LOGIT_EPS), target))
    return torch.stack(losses).mean()


def falling_shares(blocks: Sequence[int], depth: int) -> list[float]:
    """Share of the patches that counts as salient before each block: it halves over a third of the network.

    Selectors are ranked around the ratio that they are likely to have; the thresholds come later.
    """
    return [0.75 * 2 ** (-3 * (block - depth / 4) / depth) if block > depth / 4 else 0.75 for block in blocks]


def set_keep_ratios(network: VisionTransformer, pictures_u8: Tensor, keep_ratios: Sequence[float]) -> None:
    """Shift the keep logits of each selector so that it leaves its share of the pictures' patches at threshold 0.5.

    pictures_u8 (B, C, S, S) uint8; the shift of a selector is found with the earlier ones set.
    """

    def shift(stage: int, tokens: LiveTokens) -> None:
        selector = network.selectors[stage]
        assert isinstance(selector, TokenSelector)
        candidates = tokens.valid & ~tokens.is_package
        candidates[:, 0] = False  # CLS
        bias = selector.token_score.bias
        original = bias.detach().clone()
        low, high = -SHIFT_MAX, SHIFT_MAX
        while high - low > SHIFT_STEP:
            middle = (low + high) / 2
            bias.copy_(original + bias.new_tensor([middle, 0.0]))
            is_kept = (selector(tokens.residual, tokens.valid.float()) >= KEEP_THRESHOLD) & candidates
            kept = is_kept.sum() / (len(is_kept) * network.config.num_patches)
            low, high = (low, middle) if kept > keep_ratios[stage] else (middle, high)
        bias.copy_(original + bias.new_tensor([low, 0.0]))

    infer_from(network, network.embed(pictures_u8), 0, network.kernels, before_selection=shift)
