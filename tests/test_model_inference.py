"""Float inference with pruned tokens gone.

Testpoints: it agrees with the masked path in logits, kept patches and token counts, where the pictures of a batch keep
different numbers of tokens, where all and where none are pruned; fixed token counts keep the highest scores; torch's
own kernels are close to the polynomials, padded or not; what cannot be computed is refused.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from model.approx import Kernels
from model.config import NETWORKS
from model.inference import Inference, infer
from model.vit import Normalisation, VisionTransformer
from quant.config import NetworkConfig

GREY = Normalisation((0.4,), (0.3,))
TINY = NETWORKS["test_tiny"]


def pictures(count: int) -> Tensor:
    shape = (count, TINY.in_chans, TINY.image_size, TINY.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def network(config: NetworkConfig = TINY, seed: int = 0, shift: float = 0.0) -> VisionTransformer:
    """Build a network whose selectors prune: keep logits are moved by `shift` and spread."""
    torch.manual_seed(seed)
    result = VisionTransformer(config, GREY)
    for selector in result.selectors:
        nn.init.normal_(selector.token_score.weight, std=6.0)
        selector.token_score.bias.data.copy_(torch.tensor([shift, 0.0]).expand(config.num_heads, 2))
        nn.init.normal_(selector.package_bias, std=2.0)
    return result.eval()


def counts_of(result: Inference) -> list[list[int]]:
    """Live tokens, [selector][picture]."""
    return [count.tolist() for count in result.num_tokens]


@pytest.mark.parametrize("shift", [-30.0, -1.0, 0.0, 1.0, 30.0])
@pytest.mark.parametrize("selectors", [(), (0,), (1, 2), (0, 1, 2)])
def test_it_agrees_with_the_masked_path(selectors: tuple[int, ...], shift: float) -> None:
    source = network(replace(TINY, selectors=selectors), seed=len(selectors), shift=shift)
    x = pictures(6)
    with torch.no_grad():
        output = source(x)
    result = infer(source, x)
    torch.testing.assert_close(result.logits, output.logits, atol=2e-5, rtol=1e-5)
    assert counts_of(result) == [count.tolist() for count in output.num_tokens]
    for kept, mask in zip(result.kept, output.keep_masks, strict=True):
        assert kept.tolist() == mask.bool().tolist()


def test_it_is_tested_where_counts_differ() -> None:
    counts = counts_of(infer(network(seed=2), pictures(6)))
    assert all(len(set(stage)) > 1 and 2 <= min(stage) and max(stage) < 17 for stage in counts)


@pytest.mark.parametrize("shift, expected", [(-30.0, [[2], [2]]), (30.0, [[17], [17]])])
def test_all_pruned_and_nothing_pruned(shift: float, expected: list[list[int]]) -> None:
    source = network(shift=shift)
    for selector in source.selectors:
        nn.init.zeros_(selector.token_score.weight)
    assert counts_of(infer(source, pictures(1))) == expected


def test_token_counts_keep_the_highest_scores() -> None:
    source, x = network(seed=2), pictures(5)
    result = infer(source, x, token_counts=[9, 5])
    assert counts_of(result) == [[9] * 5, [5] * 5]
    assert [kept.sum(dim=1).tolist() for kept in result.kept] == [[7] * 5, [3] * 5]
    with torch.no_grad():
        tokens = source.blocks[0](source.embed(x), torch.ones(5, 17))
        scores = source.selectors[0](tokens, torch.ones(5, 17))[:, 1:]
    for score, kept in zip(scores, result.kept[0], strict=True):
        assert score[kept].min() >= score[~kept].max()
    assert bool((result.kept[0] | ~result.kept[1]).all())  # nothing returns
    assert counts_of(infer(source, x, token_counts=[40, 2])) == [[17] * 5, [2] * 5]


@pytest.mark.parametrize("selectors", [(), (1, 2)])
def test_fused_kernels_are_close_to_the_polynomials(selectors: tuple[int, ...]) -> None:
    source, x = network(replace(TINY, selectors=selectors), seed=2), pictures(6)
    trained, fused = (infer(source, x, kernels) for kernels in (Kernels.TRAINED, Kernels.FUSED))
    assert counts_of(trained) == counts_of(fused)
    assert (trained.logits - fused.logits).abs().max() < 0.02 * trained.logits.abs().max()


def test_what_cannot_be_computed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"fused kernels need delta1 and delta2 of 1, not 0\.5 and 1\.0"):
        infer(network(replace(TINY, delta1=0.5)), pictures(1), Kernels.FUSED)
    for wrong in ([9], [9, 1]):
        with pytest.raises(ValueError, match="token_counts must be 2 numbers of at least 2, not"):
            infer(network(), pictures(1), token_counts=wrong)
