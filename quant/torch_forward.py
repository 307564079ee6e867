"""The network on a batch in torch: one composition of layers for calibration, training and evaluation.

Pruned tokens stay in place and are masked, so a batch keeps its shape. A sequence is [CLS, patches..., package slot];
the slot exists if the network has selectors. On the valid rows the codes equal the golden model's taps exactly: the
integer sides are the functions that the golden model calls, and every sum over tokens skips invalid ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from quant import layers
from quant.approx import gelu_constants, softmax_rows
from quant.fake_quant import (
    ABSENT,
    Format,
    Mode,
    Quantized,
    combine,
    polynomial_gelu,
    straight_through,
    weighted_softmax,
)
from quant.network import Block
from quant.torch_layers import Tokens, TorchLayers
from quant.torch_selector import select_tokens

SCORE = Format.signed(2.0**-8, 16)


@dataclass(frozen=True)
class BatchInference:
    """Result of a batch of B pictures.

    logits (B, classes); of each selector, over the patches: keep_masks (B, num_patches) 0 or 1, all stages so far
    included, and keep_scores (B, num_patches) 0..1, both with gradient in TRAIN mode; num_tokens (B,) live after it.
    residuals are the tokens that leave each block.
    """

    logits: Quantized
    keep_masks: list[Tensor] = field(default_factory=list)
    keep_scores: list[Tensor] = field(default_factory=list)
    num_tokens: list[Tensor] = field(default_factory=list)
    residuals: list[Tokens] = field(default_factory=list)


def run_batch(net: TorchLayers, pictures_u8: Tensor) -> BatchInference:
    """Run uint8 pictures (B, in_chans, image_size, image_size). Raises ValueError for another type or shape."""
    config, patches = net.config, slice(1, net.config.num_tokens)
    size = (config.in_chans, config.image_size, config.image_size)
    if pictures_u8.dtype != torch.uint8 or pictures_u8.shape[1:] != size:
        raise ValueError(
            f"pictures must be uint8 batches of {size}, not {pictures_u8.dtype} {tuple(pictures_u8.shape)}"
        )
    tokens = _embed(net, pictures_u8)
    masks: list[Tensor] = []
    scores: list[Tensor] = []
    counts: list[Tensor] = []
    residuals: list[Tokens] = []
    for number in range(config.depth):
        if number in config.selectors:
            tokens, score = select_tokens(net, tokens, config.selectors.index(number))
            masks.append(tokens.weight[:, patches])
            scores.append(score[:, patches])
            counts.append(tokens.valid.sum(dim=-1))
        tokens = _block(net, tokens, number)
        residuals.append(tokens)
    cls_token = Tokens(tokens.residual.map(lambda x: x[:, :1]), tokens.valid[:, :1], tokens.weight[:, :1])
    normed = net.norm("norm", cls_token, lambda: net.integers.norm)
    logits = net.linear("head", normed, cls_token.valid, lambda: net.integers.head, net.affine("head"), 16)
    return BatchInference(logits.map(lambda x: x[:, 0]), masks, scores, counts, residuals)


def _embed(net: TorchLayers, pictures_u8: Tensor) -> Tokens:
    """The residual stream that enters block 0, with the package slot if there are selectors."""
    config, batch = net.config, len(pictures_u8)
    patches = _patches(net, pictures_u8)
    weight, bias = net.affine("patch_embed.proj")
    valid = torch.ones(batch, config.num_tokens, dtype=torch.bool, device=pictures_u8.device)

    def embed() -> Tensor:
        patch_tokens = functional.linear(patches.value[:, 1:], weight.flatten(1), bias)
        cls_token = net.parameter("cls_token").expand(batch, -1, -1)
        return torch.cat([cls_token, patch_tokens], dim=1) + net.parameter("pos_embed")

    residual = net.tap(
        "patch_embed",
        valid,
        lambda: layers.residual_linear(net.integers.position_i16, patches.codes, net.integers.patch_embed),
        embed,
        net.format("patch_embed", 16),
    )
    if config.selectors:
        residual = residual.map(lambda x: functional.pad(x, (0, 0, 0, 1)))
        valid = functional.pad(valid, (0, 1))
    return Tokens(residual, valid, valid.to(torch.float32))


def _patches(net: TorchLayers, pictures_u8: Tensor) -> Quantized:
    """Patches (B, num_tokens, patch_dim) ordered (channel, row, column), row 0 zero."""
    chans, patch = net.config.in_chans, net.config.patch_size
    side = net.config.image_size // patch

    def flatten(x: Tensor) -> Tensor:
        grid = x.reshape(-1, chans, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)  # (B, row, col, C, P, P)
        return functional.pad(grid.flatten(3).flatten(1, 2), (0, 0, 1, 0))

    pixels = pictures_u8.flatten(2)  # (B, C, S * S)
    if net.mode is Mode.FLOAT:
        mean, std = (torch.tensor(x, device=pixels.device).reshape(1, -1, 1) for x in (net.mean, net.std))
        normalised = Quantized(ABSENT, (pixels / 255 - mean) / std)
        net.record("input", normalised, torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device))
        return normalised.map(flatten)
    lut = torch.as_tensor(net.integers.input_lut_i8).expand(len(pixels), -1, -1)
    codes = flatten(torch.gather(lut, 2, pixels.to(torch.int64)))
    return Quantized(codes, ABSENT if net.mode is Mode.INTEGER else codes * net.scales["input"])


def _block(net: TorchLayers, tokens: Tokens, number: int) -> Tokens:
    name, delta1 = f"blocks.{number}", net.config.delta1

    def layer() -> Block:
        return net.integers.blocks[number]

    normed = net.norm(f"{name}.norm1", tokens, lambda: layer().norm1)
    tokens = net.residual(f"{name}.attn.proj", tokens, _attention(net, tokens, normed, number), lambda: layer().proj)
    normed = net.norm(f"{name}.norm2", tokens, lambda: layer().norm2)
    affine = net.affine(f"{name}.mlp.fc1")
    hidden = net.tap(
        f"{name}.mlp.fc1",
        tokens.valid,
        lambda: layers.gelu_linear(normed.codes, layer().fc1, *gelu_constants(delta1)),
        lambda: polynomial_gelu(functional.linear(normed.value, *affine), delta1),
        net.gelu_format(f"{name}.mlp.fc1"),
    )
    return net.residual(f"{name}.mlp.fc2", tokens, hidden, lambda: layer().fc2)


def _attention(net: TorchLayers, tokens: Tokens, normed: Quantized, number: int) -> Quantized:
    """Context (B, N, D) of a block."""
    config, name = net.config, f"blocks.{number}.attn"

    def layer() -> Block:
        return net.integers.blocks[number]

    q_affine, k_affine, v_affine = zip(*(side.chunk(3) for side in net.affine(f"{name}.qkv")), strict=True)
    q, k, v = (
        net.linear(f"{name}.{part}", normed, tokens.valid, get, affine, 8).map(
            lambda x: layers.split_heads(x, config.num_heads)  # (B, H, N, d)
        )
        for part, get, affine in (
            ("q", lambda: layer().q, q_affine),
            ("k", lambda: layer().k, k_affine),
            ("v", lambda: layer().v, v_affine),
        )
    )
    is_package = torch.arange(tokens.valid.shape[1], device=tokens.valid.device) == config.num_tokens

    def real_scores() -> Tensor:
        stage, scores = config.stage_of(number), q.value @ k.value.mT / math.sqrt(config.head_dim)
        if stage is not None:
            scores = scores + net.parameter(f"selectors.{stage}.package_bias")[:, None, None] * is_package
        return scores * math.log2(math.e)

    scores = net.tap(
        f"{name}.scores",
        tokens.valid,
        lambda: layers.attention_scores(q.codes, k.codes, is_package, layer()),
        real_scores,
        SCORE,
    )
    probability, row_sum = _softmax(net, f"{name}.exp", scores, tokens)
    context = combine(
        net.mode,
        lambda: layers.attention_context(probability.codes, row_sum, v.codes, layer()),
        lambda: config.delta2 * (probability.value @ v.value),
        net.format(f"{name}.context", 8),
    ).map(layers.merge_heads)
    net.record(f"{name}.context", context, tokens.valid)
    return context


def _softmax(net: TorchLayers, name: str, scores: Quantized, tokens: Tokens) -> tuple[Quantized, Tensor]:
    """Attention weights and, for their codes, which are not normalised, the row sums (B, H, N)."""
    weight = tokens.weight[:, None, None, :]
    if net.mode is Mode.FLOAT:
        return Quantized(ABSENT, weighted_softmax(scores.value, weight)), ABSENT
    # Every intermediate of the exponential fits 32 bits: half the memory traffic of the largest tensor there is.
    exponential, row_sum = softmax_rows(scores.codes.to(torch.int32), tokens.valid[:, None, None, :])
    net.record(name, Quantized(exponential, ABSENT), tokens.valid)
    if net.mode is Mode.INTEGER:
        return Quantized(exponential, ABSENT), row_sum
    exact = exponential / row_sum[..., None]
    return Quantized(exponential, straight_through(weighted_softmax(scores.value, weight), exact)), row_sum
