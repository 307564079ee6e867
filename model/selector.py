"""The token selector: scores every token, decides which to keep, and packs the pruned ones into one package token.

Two paths use the same functions. The masked path (training, batches) keeps all slots and carries a valid flag;
the gathered path (model/inference.py) really removes rows. Slots: [CLS, patches in order, package].
Source: HeatViT (HPCA 2023) section on the multi-head token selector and Eq. 10.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from quant.fake_quant import plan_sigmoid, polynomial_gelu

KEEP_THRESHOLD = 0.5
LOGIT_EPS = 1e-4
"""PLAN reaches 0 and 1 exactly; the logit of a score is taken this far inside."""


class HeadLinear(nn.Module):
    """A linear layer for each head on that head's own channels: (..., H, in) -> (..., H, out)."""

    def __init__(self, num_heads: int, in_features: int, out_features: int) -> None:
        super().__init__()
        bound = in_features**-0.5
        self.weight = nn.Parameter(torch.empty(num_heads, out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(num_heads, out_features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...hi,hoi->...ho", x, self.weight) + self.bias


class TokenSelector(nn.Module):
    """Keep score of every token from per-head token scores, weighted by per-token head importances.

    Members carry the names of docs/architecture.md section 2; every head has its own weights. The selector's
    functions always use delta1 = 1: half of it could never pass the threshold. package_bias (H,), in nats, is what the
    scores of the package token gain in the attention of every block up to the next selector: it stands for many
    tokens, of which a softmax would see one. Source: the proportional attention of ToMe (ICLR 2023), with a trained
    weight instead of the logarithm of the count.
    """

    def __init__(self, embed_dim: int, num_heads: int, head_branch_hidden: int) -> None:
        super().__init__()
        head_dim = embed_dim // num_heads
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.local = HeadLinear(num_heads, head_dim, head_dim // 2)
        self.token1 = HeadLinear(num_heads, head_dim, head_dim // 2)
        self.token2 = HeadLinear(num_heads, head_dim // 2, head_dim // 4)
        self.token_score = HeadLinear(num_heads, head_dim // 4, 2)  # row 0 keep, row 1 prune
        self.head1 = nn.Linear(num_heads, head_branch_hidden)
        self.head_score = nn.Linear(head_branch_hidden, num_heads)
        self.package_bias = nn.Parameter(torch.zeros(num_heads))
        with torch.no_grad():  # a new selector keeps nearly everything: training starts from the dense network
            self.token_score.bias.copy_(torch.tensor([1.0, -1.0]).expand(num_heads, 2))

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Return scores (B, N) in [0, 1]; tokens (B, N, D) with CLS first, valid (B, N) float 0 or 1."""
        heads = self.norm(tokens).unflatten(-1, (self.num_heads, -1))  # (B, N, H, d)
        local = polynomial_gelu(self.local(heads), 1.0)  # (B, N, H, d/2)
        pooled = _mean_without_cls(local, valid)  # (B, 1, H, d/2)
        features = torch.cat([local, pooled.expand_as(local)], dim=-1)
        hidden = polynomial_gelu(self.token2(polynomial_gelu(self.token1(features), 1.0)), 1.0)  # (B, N, H, d/4)
        keep_logit, prune_logit = self.token_score(hidden).unbind(-1)
        token_score = plan_sigmoid(keep_logit - prune_logit)  # (B, N, H): a softmax over two is a sigmoid
        head_score = plan_sigmoid(self.head_score(polynomial_gelu(self.head1(heads.mean(-1)), 1.0)))  # (B, N, H)
        return keep_scores(token_score, head_score)

    def column_bias(self, is_package: Tensor) -> Tensor:
        """Return what attention adds to its scores, (B, H, 1, N), given which columns (B, N) are package tokens."""
        return self.package_bias[:, None, None] * is_package[:, None, None, :]


def _mean_without_cls(local: Tensor, valid: Tensor) -> Tensor:
    """Mean (B, 1, H, d/2) of local (B, N, H, d/2) over the valid tokens except CLS; a lone CLS gives 0."""
    weight = valid[:, 1:, None, None]
    return (local[:, 1:] * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)


def keep_scores(token_score: Tensor, head_score: Tensor) -> Tensor:
    """Head-weighted mean (..., N) of token scores (..., N, H); importances that are all zero weigh heads equally."""
    total = head_score.sum(-1, keepdim=True)
    weight = torch.where(total > 0, head_score, torch.ones_like(head_score))
    return (token_score * weight).sum(-1) / weight.sum(-1)


def gumbel_noise(num_pictures: int, num_selectors: int, num_tokens: int) -> Tensor:
    """Draw noise (B, selectors, N) by torch's default generator: the difference of two Gumbel variables, logistic."""
    uniform = torch.rand(num_selectors, num_pictures, num_tokens).clamp(LOGIT_EPS, 1 - LOGIT_EPS)
    return torch.logit(uniform).transpose(0, 1)


def keep_mask(scores: Tensor, valid: Tensor, noise: Tensor | None = None) -> Tensor:
    """Decide which slots of [CLS, patches] stay: float 0 or 1 (B, N), with straight-through gradients.

    scores and valid (B, N) without a package slot; a token that is not valid never returns. noise (B, N), scaled
    `gumbel_noise`, explores other decisions in training; without it the rule is score >= 0.5. The backward pass sees
    the relaxed decision sigmoid(logit(score) + noise).
    """
    soft = scores if noise is None else torch.sigmoid(torch.logit(scores, eps=LOGIT_EPS) + noise)
    hard = (soft >= KEEP_THRESHOLD).to(scores.dtype)
    mask = (hard + (soft - soft.detach())) * valid  # the bracket is exactly zero
    return torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], dim=1)


def package_token(tokens: Tensor, scores: Tensor, pruned: Tensor) -> Tensor:
    """Score-weighted mean (B, 1, D) of the pruned tokens (Eq. 10); scores that sum to zero give the plain mean.

    tokens (B, N, D), scores (B, N), pruned (B, N) float 0 or 1. Nothing pruned gives zeros, for a slot nobody reads.
    """
    weight = torch.where((scores * pruned).sum(-1, keepdim=True) > 0, scores * pruned, pruned)
    total = weight.sum(-1, keepdim=True)
    weight = weight / torch.where(total > 0, total, torch.ones_like(total))
    return weight.unsqueeze(1) @ tokens


def select_masked(
    tokens: Tensor, scores: Tensor, valid: Tensor, noise: Tensor | None = None, has_package: bool = True
) -> tuple[Tensor, Tensor]:
    """Return (tokens, valid) after selection, every slot in place and the package in the last one.

    tokens (B, N+1, D), scores and valid (B, N+1): N slots of CLS and patches, then the package slot, which stays empty
    without has_package. noise (B, N) is that of `keep_mask`.
    """
    mask = keep_mask(scores[:, :-1], valid[:, :-1], noise)
    pruned = valid - nn.functional.pad(mask, (0, 1))  # an incoming package is always merged
    package = package_token(tokens, scores, pruned)
    is_packed = (pruned.detach().sum(-1, keepdim=True) > 0).to(valid.dtype) * has_package
    return torch.cat([tokens[:, :-1], package], dim=1), torch.cat([mask, is_packed], dim=1)
