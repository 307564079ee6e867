"""Rankings that choose tokens without training, for comparison: what a trained selector has to beat.

Each leaves a fixed number of patches before some blocks and drops the others. Sources: the CLS token's attention, as in
EViT (ICLR 2022, there with fine-tuning); the attention that a token receives from all tokens (SpAtten, HPCA 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import torch
from torch import Tensor
from torch.nn import functional

from model.vit import Block, VisionTransformer


class Ranking(Enum):
    """What makes a patch worth keeping: attention in the block before the selection, or chance."""

    CLS_ATTENTION = "CLS attention"
    RECEIVED_ATTENTION = "received attention"
    RANDOM = "random"


@torch.inference_mode()
def infer_ranked(
    network: VisionTransformer,
    pictures_u8: Tensor,
    ranking: Ranking,
    kept_patches: Mapping[int, int],
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the logits (B, classes) of a dense network that keeps only the best patches.

    kept_patches is block -> patches that enter it, not rising, for blocks from 1 on; the generator is for RANDOM. The
    exact GELU and softmax are computed, which the rankings of a timm checkpoint were made for.
    """
    if 0 in kept_patches:
        raise ValueError("block must be at least 1 for a ranking by the block before it, not 0")
    tokens = network.embed(pictures_u8)
    attention = None
    for number, block in enumerate(network.blocks):
        assert isinstance(block, Block)
        if number in kept_patches:
            tokens = _keep_best(tokens, _score(ranking, attention, tokens, generator), kept_patches[number])
        is_ranked = number + 1 in kept_patches and ranking is not Ranking.RANDOM
        tokens, attention = _run_block(block, tokens, is_ranked)
    logits: Tensor = network.head(network.norm(tokens[:, 0]))
    return logits


def _run_block(block: Block, x: Tensor, is_ranked: bool) -> tuple[Tensor, Tensor | None]:
    """Return the tokens behind a block and, if the next selection needs it, its attention (B, H, N, N)."""
    attention = block.attn
    qkv = attention.qkv(block.norm1(x)).unflatten(-1, (3, attention.num_heads, attention.head_dim))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, H, N, d)
    weight = torch.softmax(q @ k.mT * attention.head_dim**-0.5, -1) if is_ranked else None
    context = functional.scaled_dot_product_attention(q, k, v) if weight is None else weight @ v
    x = x + attention.proj(context.transpose(1, 2).flatten(2))
    x = x + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x))))
    return x, weight


def _score(ranking: Ranking, attention: Tensor | None, tokens: Tensor, generator: torch.Generator | None) -> Tensor:
    """Worth of each patch, (B, patches)."""
    if attention is None:
        return torch.rand(tokens.shape[0], tokens.shape[1] - 1, generator=generator).to(tokens.device)
    if ranking is Ranking.CLS_ATTENTION:
        return attention[:, :, 0, 1:].mean(1)
    return attention[:, :, :, 1:].mean((1, 2))


def _keep_best(tokens: Tensor, score: Tensor, count: int) -> Tensor:
    """CLS and the best patches (B, 1 + count, D), in their order."""
    best = score.topk(count, dim=1).indices.sort(dim=1).values
    rows = functional.pad(best + 1, (1, 0))
    return tokens.gather(1, rows[..., None].expand(-1, -1, tokens.shape[2]))
