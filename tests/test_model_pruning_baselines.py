"""Rankings without training.

Testpoints: all patches kept give the dense logits; each ranking keeps what its definition says, in the patches' order;
chance is repeatable; block 0 has no attention before it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from model.approx import Kernels
from model.config import NETWORKS
from model.inference import infer
from model.pruning.baselines import Ranking, infer_ranked
from model.vit import Normalisation, VisionTransformer

CONFIG = replace(NETWORKS["test_tiny"], selectors=())


def network() -> VisionTransformer:
    torch.manual_seed(0)
    result = VisionTransformer(CONFIG, Normalisation((0.4,), (0.3,)), Kernels.FUSED)
    for block in result.blocks:
        torch.nn.init.normal_(block.attn.qkv.weight)  # attention that differs between tokens
    return result.eval()


X = torch.randint(0, 256, (5, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ranking", Ranking)
def test_all_patches_give_the_dense_logits(ranking: Ranking) -> None:
    logits = infer_ranked(network(), X, ranking, {1: 16, 2: 16})
    torch.testing.assert_close(logits, infer(network(), X, Kernels.FUSED).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def attention_of_block_0(source: VisionTransformer) -> tuple[Tensor, Tensor]:
    """Attention (B, H, N, N) and the tokens behind the block."""
    tokens = source.embed(X)
    attention = source.blocks[0].attn
    q, k, _ = attention.qkv(source.blocks[0].norm1(tokens)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    weight = torch.softmax(q @ k.mT * 8**-0.5, -1)
    return weight, source.blocks[0](tokens, torch.ones(5, 17), Kernels.FUSED)


@pytest.mark.parametrize("ranking", [Ranking.CLS_ATTENTION, Ranking.RECEIVED_ATTENTION])
def test_a_ranking_keeps_what_it_says(ranking: Ranking) -> None:
    source = network()
    weight, tokens = attention_of_block_0(source)
    score = weight[:, :, 0] if ranking is Ranking.CLS_ATTENTION else weight.sum(2)
    score = score.sum(1)[:, 1:]
    expected = []
    with torch.no_grad():
        for picture, values in zip(tokens, score, strict=True):
            best = sorted(values.argsort(descending=True)[:6].tolist())
            x = picture[[0, *(index + 1 for index in best)]][None]
            for block in list(source.blocks)[1:]:
                x = block(x, torch.ones(1, 7), Kernels.FUSED)
            expected.append(source.head(source.norm(x[:, 0])))
    torch.testing.assert_close(infer_ranked(source, X, ranking, {1: 6}), torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_chance_is_repeatable() -> None:
    first, again, other = (
        infer_ranked(network(), X, Ranking.RANDOM, {1: 6}, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert first.equal(again) and not first.equal(other)


def test_block_0_is_refused() -> None:
    with pytest.raises(ValueError, match="block must be at least 1"):
        infer_ranked(network(), X, Ranking.RANDOM, {0: 4})
