"""Float inference of batches: pruned tokens are really gone, so that fewer tokens take less time.

`VisionTransformer.forward` is the masked path of training; this path computes the same logits. The batch shrinks to the
largest token count that a picture of it has left; what others have less is padding that attention does not see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from model.approx import Kernels, check_kernels
from model.selector import TokenSelector, keep_mask, package_token
from model.vit import Block, VisionTransformer
from quant.live_tokens import LiveTokens


class Inference(NamedTuple):
    """What a batch gives.

    logits (B, classes). Of each selector: kept (B, num_patches) bool, the patches that are live after it; num_tokens
    (B,) live tokens after it, CLS and package included.
    """

    logits: Tensor
    kept: list[Tensor]
    num_tokens: list[Tensor]


@torch.inference_mode()
def infer(
    network: VisionTransformer,
    pictures_u8: Tensor,
    kernels: Kernels = Kernels.TRAINED,
    token_counts: Sequence[int] | None = None,
) -> Inference:
    """Run uint8 pictures (B, C, height, width), without the Gumbel noise of training.

    token_counts, one per selector, replaces the threshold: a selector leaves that many tokens, CLS and the package
    included, and of the patches those with the highest scores.
    """
    return infer_from(network, network.embed(pictures_u8), 0, kernels, token_counts)


@torch.inference_mode()
def infer_from(
    network: VisionTransformer,
    residual: Tensor,
    first_block: int,
    kernels: Kernels = Kernels.TRAINED,
    token_counts: Sequence[int] | None = None,
    before_selection: Callable[[int, LiveTokens], None] | None = None,
) -> Inference:
    """Run the blocks from first_block on, on the tokens (B, 1 + patches, D) that enter it; otherwise as `infer`.

    No selector may sit before an earlier block. before_selection(stage, tokens) is called with what each selector sees.
    """
    config = network.config
    check_kernels(kernels, config.delta1, config.delta2)
    if min(config.selectors, default=first_block) < first_block:
        raise ValueError(f"first_block must be at most {config.selectors[0]}, not {first_block!r}")
    if token_counts is not None and (len(token_counts) != len(config.selectors) or min(token_counts, default=2) < 2):
        raise ValueError(f"token_counts must be {len(config.selectors)} numbers of at least 2, not {token_counts!r}")
    tokens = LiveTokens.all_of(residual)
    kept: list[Tensor] = []
    num_tokens: list[Tensor] = []
    bias: Tensor | None = None
    for number, block in enumerate(network.blocks[first_block:], first_block):
        if number in config.selectors:
            stage = config.selectors.index(number)
            selector = network.selectors[stage]
            assert isinstance(selector, TokenSelector)
            if before_selection:
                before_selection(stage, tokens)
            tokens = _select(
                selector, tokens, None if token_counts is None else token_counts[stage], network.has_package
            )
            kept.append(_live_patches(tokens, config.num_patches))
            num_tokens.append(tokens.count)
            bias = selector.column_bias(tokens.is_package) if bool(tokens.is_package.any()) else None
        assert isinstance(block, Block)
        run_block = _fused_block if kernels is Kernels.FUSED else _trained_block
        tokens = tokens.with_residual(run_block(block, tokens.residual, tokens.padding_mask, bias))
    return Inference(network.head(network.norm(tokens.residual[:, 0])), kept, num_tokens)


def _select(selector: TokenSelector, tokens: LiveTokens, token_count: int | None, has_package: bool) -> LiveTokens:
    """Apply a selector: by its threshold, or down to a token count."""
    valid = tokens.valid
    score = selector(tokens.residual, valid.to(torch.float32))
    candidates = valid & ~tokens.is_package
    if token_count is None:
        kept = keep_mask(score, candidates.to(torch.float32)) > 0
    else:
        ranked = score.masked_fill(~candidates, -1.0)
        ranked[:, 0] = 2.0  # CLS is above every score
        places = token_count - has_package
        best = ranked.topk(min(places, ranked.shape[1]), dim=1).indices
        kept = torch.zeros_like(valid).scatter(1, best, True) & candidates
    merged = valid & ~kept & has_package
    return tokens.select(kept, merged, package_token(tokens.residual, score, merged.to(torch.float32))[:, 0])


def _live_patches(tokens: LiveTokens, num_patches: int) -> Tensor:
    """(B, num_patches) bool of the patches that are live."""
    is_patch = tokens.valid & ~tokens.is_package
    # Token p + 1 is patch p; what is no patch is written to the place of CLS, which is dropped.
    live = torch.zeros(len(is_patch), num_patches + 1, dtype=torch.bool, device=is_patch.device)
    return live.scatter(1, tokens.index * is_patch, True)[:, 1:]


def _trained_block(block: Block, x: Tensor, valid: Tensor | None, bias: Tensor | None) -> Tensor:
    weight = x.new_ones(x.shape[:2]) if valid is None else valid.to(x.dtype)
    result: Tensor = block(x, weight, Kernels.TRAINED, bias)
    return result


def _fused_block(block: Block, x: Tensor, valid: Tensor | None, bias: Tensor | None) -> Tensor:
    attention = block.attn
    qkv = attention.qkv(block.norm1(x)).unflatten(-1, (3, attention.num_heads, attention.head_dim))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, H, N, d)
    mask = bias if valid is None else valid[:, None, None, :]
    if valid is not None and bias is not None:
        mask = bias.masked_fill(~valid[:, None, None, :], -torch.inf)
    context = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    x = x + attention.proj(context.transpose(1, 2).flatten(2))
    result: Tensor = x + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x))))
    return result
