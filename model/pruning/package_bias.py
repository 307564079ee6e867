"""How much the package token gains in attention when a network gets its selectors: a search, before training goes on.

Training moves a bias by a few hundredths of a nat, and what one token needs to stand for a hundred is several.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from model.inference import infer
from model.losses import logit_divergence_loss
from model.pruning.insertion import BATCH
from model.pruning.warm_start import set_keep_ratios
from model.selector import TokenSelector
from model.vit import VisionTransformer

BIASES = (0.0, 1.0, 2.0, 3.0, 4.0)
"""Candidates in nats; as many tokens as there can be, 196, would weigh 5.3."""


@torch.inference_mode()
def fit_package_bias(
    network: VisionTransformer, pictures_u8: Tensor, keep_ratios: Sequence[float], teacher: VisionTransformer
) -> None:
    """Set each selector's package bias to the candidate that diverges least from the teacher's classes, or leave it.

    pictures_u8 (B, C, S, S) uint8. From the last selector to the first, the others as they are. A bias moves the keep
    scores behind it, and keeping more tokens would look like a better bias: thresholds follow every change of it.
    """
    batches = torch.split(pictures_u8, BATCH)
    expected = torch.cat([infer(teacher, batch, teacher.kernels).logits for batch in batches])

    def divergence(bias: Tensor, value: Tensor) -> float:
        bias.copy_(value)
        set_keep_ratios(network, pictures_u8, keep_ratios)
        logits = torch.cat([infer(network, batch, network.kernels).logits for batch in batches])
        return float(logit_divergence_loss(logits, expected))

    for selector in reversed(network.selectors):
        assert isinstance(selector, TokenSelector)
        bias = selector.package_bias
        others = [torch.full_like(bias, value) for value in BIASES]
        candidates = [bias.clone(), *(other for other in others if not torch.equal(other, bias))]
        divergences = [divergence(bias, value) for value in candidates]
        divergence(bias, candidates[divergences.index(min(divergences))])
