"""The token selector on a batch: scores, the hard decision with its straight-through gradient, and the package."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from quant import layers
from quant.approx import gelu_constants, keep_scores, package_token
from quant.fake_quant import ABSENT, Format, Mode, Quantized, combine, plan_sigmoid, polynomial_gelu, straight_through
from quant.network import Selector
from quant.reference import PACKAGE_TOKEN
from quant.torch_layers import Tokens, TorchLayers

UNIT_U8 = Format(2.0**-8, 0, 255)
UNIT_U16 = Format(2.0**-16, 0, 65535)


def select_tokens(net: TorchLayers, tokens: Tokens, stage: int) -> tuple[Tokens, Tensor]:
    """Return the tokens after selector `stage` and the keep score (B, N), 0..1, of every slot."""
    score = _keep_score(net, tokens, stage)
    slots = torch.arange(tokens.valid.shape[1], device=tokens.valid.device)
    is_package = slots == net.config.num_tokens
    if net.mode is Mode.FLOAT:
        score_u16, threshold = (score.value / UNIT_U16.scale).floor(), net.thresholds[stage]
    else:
        score_u16, threshold = score.codes, net.integers.selectors[stage].threshold_u16
    kept, merged = layers.select(score_u16, tokens.valid, is_package, threshold)
    weight = kept.to(torch.float32)
    if net.mode is Mode.TRAIN:
        weight = straight_through(tokens.weight * score.value, weight)
    has_package = merged.any(dim=-1, keepdim=True)
    valid = torch.cat([kept[:, :-1], has_package], dim=1)
    package = combine(
        net.mode,
        lambda: package_token(tokens.residual.codes, score.codes, merged)[:, None],
        lambda: _weighted_mean(tokens.residual.value, score.value * merged)[:, None],
        net.format("patch_embed", 16),
    )
    residual = tokens.residual.map(lambda x: x[:, :-1]).join(package, dim=1)
    index = torch.where(is_package, PACKAGE_TOKEN, slots).expand_as(valid)
    net.record(f"selectors.{stage}.tokens", Quantized(index, ABSENT), valid)
    net.record(f"selectors.{stage}.package", residual, valid)
    weight = torch.cat([weight[:, :-1], has_package.to(torch.float32)], dim=1)
    return Tokens(residual, valid, weight), score_u16 * UNIT_U16.scale if net.mode is Mode.INTEGER else score.value


def _keep_score(net: TorchLayers, tokens: Tokens, stage: int) -> Quantized:
    name, valid = f"selectors.{stage}", tokens.valid

    def layer() -> Selector:
        return net.integers.selectors[stage]

    normed = net.norm(f"{name}.norm", tokens, lambda: layer().norm)
    local = _head_gelu(net, "local", stage, normed.map(lambda x: layers.split_heads(x, net.config.num_heads)), valid)
    is_pooled = functional.pad(valid[:, 1:], (1, 0))[:, None]  # (B, 1, N): every token but CLS
    pooled = combine(
        net.mode,
        lambda: layers.pooled_mean(local.codes, is_pooled, layer()),
        lambda: _weighted_mean(local.value, is_pooled.to(torch.float32))[..., None, :],
        net.format(f"{name}.pooled", 8),
    )
    net.record(f"{name}.pooled", pooled.map(layers.merge_heads), valid[:, :1])
    joined = local.join(pooled.map(lambda x: x.expand(-1, -1, valid.shape[1], -1)), dim=-1)
    token2 = _head_gelu(net, "token2", stage, _head_gelu(net, "token1", stage, joined, valid), valid)
    weight, bias = net.affine(f"{name}.token_score")

    def keep_probability() -> Tensor:
        logits = token2.value @ weight.mT + bias[:, None, :]  # (B, H, N, 2)
        return plan_sigmoid(layers.merge_heads(logits[..., :1] - logits[..., 1:]))

    token_score = net.tap(
        f"{name}.token_score",
        valid,
        lambda: layers.merge_heads(layers.sigmoid_linear(token2.codes, layer().token_score)),
        keep_probability,
        UNIT_U8,
    )
    head_score = _head_score(net, normed, valid, stage)
    return net.tap(
        f"{name}.keep_score",
        valid,
        lambda: _with_cls(keep_scores(token_score.codes, head_score.codes), layers.CLS_SCORE),
        lambda: _with_cls(_weighted_mean(token_score.value[..., None], head_score.value)[..., 0], 1.0),
        UNIT_U16,
    )


def _head_score(net: TorchLayers, normed: Quantized, valid: Tensor, stage: int) -> Quantized:
    """Importance of each head (B, N, H)."""
    name, heads = f"selectors.{stage}", net.config.num_heads
    hidden_affine, score_affine = net.affine(f"{name}.head1"), net.affine(f"{name}.head_score")

    def hidden() -> Tensor:
        head_means = torch.unflatten(normed.value, -1, (heads, -1)).mean(dim=-1)  # (B, N, H)
        return polynomial_gelu(functional.linear(head_means, *hidden_affine), 1.0)

    head1 = net.tap(
        f"{name}.head1",
        valid,
        lambda: layers.gelu_linear(normed.codes, net.integers.selectors[stage].head1, *gelu_constants(1.0)),
        hidden,
        net.format(f"{name}.head1", 8),
    )
    return net.tap(
        f"{name}.head_score",
        valid,
        lambda: layers.sigmoid_linear(head1.codes, net.integers.selectors[stage].head_score),
        lambda: plan_sigmoid(functional.linear(head1.value, *score_affine)),
        UNIT_U8,
    )


def _head_gelu(net: TorchLayers, part: str, stage: int, x: Quantized, valid: Tensor) -> Quantized:
    """A layer that each head applies to its own channels: x (B, H, N, in) -> (B, H, N, out)."""
    name = f"selectors.{stage}.{part}"
    weight, bias = net.affine(name)
    result = combine(
        net.mode,
        lambda: layers.gelu_linear(x.codes, getattr(net.integers.selectors[stage], part), *gelu_constants(1.0)),
        lambda: polynomial_gelu(x.value @ weight.mT + bias[:, None, :], 1.0),
        net.format(name, 8),
    )
    net.record(name, result.map(layers.merge_heads), valid)
    return result


def _weighted_mean(x: Tensor, weight: Tensor) -> Tensor:
    """Mean of x (..., N, C) over N with weights (..., N); 0 where all weights are 0."""
    total = (x * weight[..., None]).sum(dim=-2)
    return total / weight.sum(dim=-1, keepdim=True).clamp(min=UNIT_U16.scale)


def _with_cls(score: Tensor, value: float) -> Tensor:
    """Scores (B, N) with that of CLS, which no selector judges, replaced."""
    return torch.cat([torch.full_like(score[:, :1], value), score[:, 1:]], dim=1)
