"""The network on a batch in torch: one composition of layers for calibration, training and evaluation.

Pruned tokens stay in place and are masked, so a batch keeps its shape. A sequence is [CLS, patches..., package slot];
the slot exists if the network has selectors. On the valid rows the codes equal the golden model's taps exactly: the
integer sides are the functions that the golden model calls, and every sum over tokens skips invalid ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from quant import layers
from quant.approx import gelu_constants, keep_scores, package_token, softmax_rows
from quant.config import NetworkConfig
from quant.fake_quant import (
    ABSENT,
    Format,
    Mode,
    Quantized,
    combine,
    plan_sigmoid,
    polynomial_gelu,
    straight_through,
    weighted_softmax,
)
from quant.network import IntegerNetwork, LinearLayer, NormLayer
from quant.reference import PACKAGE_TOKEN

NORM_EPS = 1e-6
"""timm's LayerNorm epsilon for Vision Transformers."""
UNIT_U8 = Format(2.0**-8, 0, 255)
UNIT_U16 = Format(2.0**-16, 0, 65535)
SCORE = Format.signed(2.0**-8, 16)

Recorder = Callable[[str, Quantized, Tensor], None]
"""Receives each tap: its name, the batched tensor and the bool mask (B, N) of the valid rows."""


def ignore_tap(name: str, tensor: Quantized, valid: Tensor) -> None:
    """The recorder that keeps nothing."""


@dataclass(frozen=True)
class BatchInference:
    """Result of a batch of B pictures.

    logits (B, classes); of each selector, over the patches: keep_masks (B, num_patches) 0 or 1, all stages so far
    included, and keep_scores (B, num_patches) 0..1, both with gradient in TRAIN mode; num_tokens (B,) live after it.
    """

    logits: Quantized
    keep_masks: list[Tensor] = field(default_factory=list)
    keep_scores: list[Tensor] = field(default_factory=list)
    num_tokens: list[Tensor] = field(default_factory=list)


@dataclass
class _Tokens:
    """The residual stream (B, N, D), its valid rows (B, N) bool, and the same as 0 or 1 with the masks' gradient."""

    residual: Quantized
    valid: Tensor
    weight: Tensor


@dataclass(frozen=True)
class TorchForward:
    """Everything one forward pass reads.

    parameters are float tensors under timm's names and are absent in INTEGER mode; network holds int64 tensors and is
    None in FLOAT mode; scales maps the names of `scale_name` to the value of one code and is used in TRAIN mode. Only
    FLOAT mode uses mean and std, one per channel, which normalise pictures, and thresholds, one per selector.
    """

    config: NetworkConfig
    mode: Mode
    parameters: Mapping[str, Tensor] = field(default_factory=dict)
    network: IntegerNetwork | None = None
    scales: Mapping[str, float] = field(default_factory=dict)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    thresholds: tuple[int, ...] = ()
    record: Recorder = ignore_tap

    @property
    def integers(self) -> IntegerNetwork:
        """The integer network; only the integer sides of operations ask for it."""
        assert self.network is not None
        return self.network

    def run(self, pictures_u8: Tensor) -> BatchInference:
        """Run uint8 pictures (B, in_chans, image_size, image_size)."""
        tokens = self._embed(pictures_u8)
        masks: list[Tensor] = []
        scores: list[Tensor] = []
        counts: list[Tensor] = []
        for number in range(self.config.depth):
            if number in self.config.selectors:
                tokens, score = self._select_tokens(tokens, self.config.selectors.index(number))
                patches = slice(1, self.config.num_tokens)
                masks.append(tokens.weight[:, patches])
                value = score.codes * UNIT_U16.scale if self.mode is Mode.INTEGER else score.value
                scores.append(value[:, patches])
                counts.append(tokens.valid.sum(dim=-1))
            tokens = self._block(tokens, number)
        cls_token = _Tokens(tokens.residual.map(lambda x: x[:, :1]), tokens.valid[:, :1], tokens.weight[:, :1])
        normed = self._norm("norm", cls_token, "norm", lambda: self.integers.norm)
        logits = self._linear("head", normed, cls_token.valid, lambda: self.integers.head, *self._affine("head"), 16)
        return BatchInference(logits.map(lambda x: x[:, 0]), masks, scores, counts)

    # Building blocks: each computes one tap.

    def _tap(
        self, name: str, valid: Tensor, integer: Callable[[], Tensor], real: Callable[[], Tensor], form: Format
    ) -> Quantized:
        result = combine(self.mode, integer, real, form)
        self.record(name, result, valid)
        return result

    def _format(self, tap: str, bits: int) -> Format:
        return Format.signed(self.scales.get(scale_name(tap), math.nan), bits)

    def _parameter(self, name: str) -> Tensor:
        return ABSENT if self.mode is Mode.INTEGER else self.parameters[name]

    def _affine(self, name: str) -> tuple[Tensor, Tensor]:
        return self._parameter(f"{name}.weight"), self._parameter(f"{name}.bias")

    def _norm(self, tap: str, tokens: _Tokens, name: str, layer: Callable[[], NormLayer]) -> Quantized:
        x, (weight, bias) = tokens.residual, self._affine(name)
        return self._tap(
            tap,
            tokens.valid,
            lambda: layers.norm(x.codes, layer()),
            lambda: functional.layer_norm(x.value, weight.shape, weight, bias, NORM_EPS),
            self._format(tap, 8),
        )

    def _linear(
        self,
        tap: str,
        x: Quantized,
        valid: Tensor,
        layer: Callable[[], LinearLayer],
        weight: Tensor,
        bias: Tensor,
        bits: int = 8,
    ) -> Quantized:
        return self._tap(
            tap,
            valid,
            lambda: layers.linear(x.codes, layer(), bits),
            lambda: functional.linear(x.value, weight, bias),
            self._format(tap, bits),
        )

    def _residual(
        self, tap: str, tokens: _Tokens, x: Quantized, layer: Callable[[], LinearLayer], name: str
    ) -> _Tokens:
        weight, bias = self._affine(name)
        residual = self._tap(
            tap,
            tokens.valid,
            lambda: layers.residual_linear(tokens.residual.codes, x.codes, layer()),
            lambda: tokens.residual.value + functional.linear(x.value, weight, bias),
            self._format(tap, 16),
        )
        return _Tokens(residual, tokens.valid, tokens.weight)

    # The network.

    def _embed(self, pictures_u8: Tensor) -> _Tokens:
        config, batch = self.config, len(pictures_u8)
        patches = self._patches(pictures_u8)
        weight, bias = self._affine("patch_embed.proj")
        valid = torch.ones(batch, config.num_tokens, dtype=torch.bool, device=pictures_u8.device)

        def embed() -> Tensor:
            patch_tokens = functional.linear(patches.value[:, 1:], weight.flatten(1), bias)
            cls_token = self._parameter("cls_token").expand(batch, -1, -1)
            return torch.cat([cls_token, patch_tokens], dim=1) + self._parameter("pos_embed")

        residual = self._tap(
            "patch_embed",
            valid,
            lambda: layers.residual_linear(self.integers.position_i16, patches.codes, self.integers.patch_embed),
            embed,
            self._format("patch_embed", 16),
        )
        if config.selectors:
            residual = residual.map(lambda x: functional.pad(x, (0, 0, 0, 1)))  # the package slot
            valid = functional.pad(valid, (0, 1))
        return _Tokens(residual, valid, valid.to(torch.float32))

    def _patches(self, pictures_u8: Tensor) -> Quantized:
        """Patches (B, num_tokens, patch_dim) ordered (channel, row, column), row 0 zero."""
        chans, side, patch = (
            self.config.in_chans,
            self.config.image_size // self.config.patch_size,
            self.config.patch_size,
        )

        def flatten(x: Tensor) -> Tensor:
            grid = x.reshape(-1, chans, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)  # (B, row, col, C, P, P)
            return functional.pad(grid.reshape(len(x), side * side, -1), (0, 0, 1, 0))

        pixels = pictures_u8.flatten(2)  # (B, C, S * S)
        if self.mode is Mode.FLOAT:
            mean, std = (torch.tensor(x, device=pixels.device).reshape(1, -1, 1) for x in (self.mean, self.std))
            normalised = Quantized(ABSENT, (pixels / 255 - mean) / std)
            self.record("input", normalised, torch.ones(pixels.shape[:2], dtype=torch.bool, device=pixels.device))
            return normalised.map(flatten)
        lut = torch.as_tensor(self.integers.input_lut_i8).expand(len(pixels), -1, -1)
        codes = flatten(torch.gather(lut, 2, pixels.to(torch.int64)))
        return Quantized(codes, ABSENT if self.mode is Mode.INTEGER else codes * self.scales["input"])

    def _block(self, tokens: _Tokens, number: int) -> _Tokens:
        config, name = self.config, f"blocks.{number}"
        normed = self._norm(f"{name}.norm1", tokens, f"{name}.norm1", lambda: self.integers.blocks[number].norm1)
        context = self._attention(tokens, normed, number)
        tokens = self._residual(
            f"{name}.attn.proj", tokens, context, lambda: self.integers.blocks[number].proj, f"{name}.attn.proj"
        )
        normed = self._norm(f"{name}.norm2", tokens, f"{name}.norm2", lambda: self.integers.blocks[number].norm2)
        weight, bias = self._affine(f"{name}.mlp.fc1")
        hidden = self._tap(
            f"{name}.mlp.fc1",
            tokens.valid,
            lambda: layers.gelu_linear(normed.codes, self.integers.blocks[number].fc1, *gelu_constants(config.delta1)),
            lambda: polynomial_gelu(functional.linear(normed.value, weight, bias), config.delta1),
            self._format(f"{name}.mlp.fc1", 8),
        )
        return self._residual(
            f"{name}.mlp.fc2", tokens, hidden, lambda: self.integers.blocks[number].fc2, f"{name}.mlp.fc2"
        )

    def _attention(self, tokens: _Tokens, normed: Quantized, number: int) -> Quantized:
        """Context (B, N, D) of a block."""
        config, name, valid = self.config, f"blocks.{number}.attn", tokens.valid
        weight, bias = self._affine(f"{name}.qkv")
        heads = []
        for index, part in enumerate("qkv"):
            rows = slice(index * config.embed_dim, (index + 1) * config.embed_dim)
            result = self._linear(
                f"{name}.{part}",
                normed,
                valid,
                lambda part=part: getattr(self.integers.blocks[number], part),  # type: ignore[misc]
                weight[rows],
                bias[rows],
            )
            heads.append(result.map(lambda x: layers.split_heads(x, config.num_heads)))  # (B, H, N, d)
        q, k, v = heads
        scores = self._tap(
            f"{name}.scores",
            valid,
            lambda: layers.attention_scores(q.codes, k.codes, self.integers.blocks[number]),
            lambda: q.value @ k.value.mT * (math.log2(math.e) / math.sqrt(config.head_dim)),
            SCORE,
        )
        column_weight = tokens.weight[:, None, None, :]
        if self.mode is Mode.FLOAT:
            row_sum, probability = ABSENT, Quantized(ABSENT, weighted_softmax(scores.value, column_weight))
        else:
            exponential, row_sum = softmax_rows(scores.codes, valid[:, None, None, :])
            self.record(f"{name}.exp", Quantized(exponential, ABSENT), valid)
            value = ABSENT
            if self.mode is Mode.TRAIN:
                value = straight_through(
                    weighted_softmax(scores.value, column_weight), exponential / row_sum[..., None]
                )
            probability = Quantized(exponential, value)
        context = combine(
            self.mode,
            lambda: layers.attention_context(probability.codes, row_sum, v.codes, self.integers.blocks[number]),
            lambda: config.delta2 * (probability.value @ v.value),
            self._format(f"{name}.context", 8),
        ).map(layers.merge_heads)
        self.record(f"{name}.context", context, valid)
        return context

    # The selector.

    def _select_tokens(self, tokens: _Tokens, stage: int) -> tuple[_Tokens, Quantized]:
        """Tokens after selector `stage` and the keep score (B, N) of each token."""
        score = self._keep_score(tokens, stage)
        slots = torch.arange(tokens.valid.shape[1], device=tokens.valid.device)
        threshold = self.integers.selectors[stage].threshold_u16 if self.network else self.thresholds[stage]
        codes = score.codes if self.mode is not Mode.FLOAT else (score.value * 65536).floor()
        kept, merged = layers.select(codes, tokens.valid, slots == self.config.num_tokens, threshold)
        has_package = merged.any(dim=-1, keepdim=True)
        weight = kept.to(torch.float32)
        if self.mode is Mode.TRAIN:
            weight = straight_through(tokens.weight * score.value, weight)
        valid = torch.cat([kept[:, :-1], has_package], dim=1)
        package = combine(
            self.mode,
            lambda: package_token(tokens.residual.codes, score.codes, merged)[:, None],
            lambda: _weighted_mean(tokens.residual.value, score.value * merged)[:, None],
            self._format("patch_embed", 16),
        )
        residual = Quantized(
            *(
                old if old is ABSENT else torch.cat([old[:, :-1], new], dim=1)
                for old, new in (
                    (tokens.residual.codes, package.codes),
                    (tokens.residual.value, package.value),
                )
            )
        )
        index = torch.where(slots == self.config.num_tokens, PACKAGE_TOKEN, slots).expand_as(valid)
        self.record(f"selectors.{stage}.tokens", Quantized(index, ABSENT), valid)
        self.record(f"selectors.{stage}.package", residual, valid)
        return _Tokens(residual, valid, torch.cat([weight[:, :-1], has_package.to(weight.dtype)], dim=1)), score

    def _keep_score(self, tokens: _Tokens, stage: int) -> Quantized:
        config, name, valid = self.config, f"selectors.{stage}", tokens.valid
        normed = self._norm(f"{name}.norm", tokens, f"{name}.norm", lambda: self.integers.selectors[stage].norm)
        local = self._head_gelu("local", stage, normed.map(lambda x: layers.split_heads(x, config.num_heads)), valid)
        is_pooled = functional.pad(valid[:, 1:], (1, 0))[:, None]  # (B, 1, N): every token but CLS
        pooled = combine(
            self.mode,
            lambda: layers.pooled_mean(local.codes, is_pooled, self.integers.selectors[stage]),
            lambda: _weighted_mean(local.value, is_pooled.to(torch.float32))[..., None, :],
            self._format(f"{name}.pooled", 8),
        )
        self.record(f"{name}.pooled", pooled.map(layers.merge_heads), valid[:, :1])
        joined = Quantized(
            *(
                side if side is ABSENT else torch.cat([side, mean.expand_as(side)], dim=-1)
                for side, mean in ((local.codes, pooled.codes), (local.value, pooled.value))
            )
        )
        token1 = self._head_gelu("token1", stage, joined, valid)
        token2 = self._head_gelu("token2", stage, token1, valid)
        weight, bias = self._affine(f"{name}.token_score")

        def keep_probability() -> Tensor:
            logits = token2.value @ weight.mT + bias[:, None, :]  # (B, H, N, 2)
            return plan_sigmoid(layers.merge_heads(logits[..., :1] - logits[..., 1:]))

        token_score = self._tap(
            f"{name}.token_score",
            valid,
            lambda: layers.merge_heads(layers.sigmoid_linear(token2.codes, self.integers.selectors[stage].token_score)),
            keep_probability,
            UNIT_U8,
        )
        head_score = self._head_score(normed, valid, stage)
        return self._tap(
            f"{name}.keep_score",
            valid,
            lambda: _with_cls(keep_scores(token_score.codes, head_score.codes), layers.CLS_SCORE),
            lambda: _with_cls(_weighted_mean(token_score.value[..., None], head_score.value)[..., 0], 1.0),
            UNIT_U16,
        )

    def _head_score(self, normed: Quantized, valid: Tensor, stage: int) -> Quantized:
        """Importance of each head (B, N, H)."""
        name, heads = f"selectors.{stage}", self.config.num_heads
        weight, bias = self._affine(f"{name}.head1")
        head1 = self._tap(
            f"{name}.head1",
            valid,
            lambda: layers.gelu_linear(normed.codes, self.integers.selectors[stage].head1, *gelu_constants(1.0)),
            lambda: polynomial_gelu(
                functional.linear(normed.value.reshape(*normed.value.shape[:-1], heads, -1).mean(dim=-1), weight, bias),
                1.0,
            ),
            self._format(f"{name}.head1", 8),
        )
        score_weight, score_bias = self._affine(f"{name}.head_score")
        return self._tap(
            f"{name}.head_score",
            valid,
            lambda: layers.sigmoid_linear(head1.codes, self.integers.selectors[stage].head_score),
            lambda: plan_sigmoid(functional.linear(head1.value, score_weight, score_bias)),
            UNIT_U8,
        )

    def _head_gelu(self, part: str, stage: int, x: Quantized, valid: Tensor) -> Quantized:
        """A layer that each head applies to its own channels: x (B, H, N, in) -> (B, H, N, out)."""
        tap = f"selectors.{stage}.{part}"
        weight, bias = self._affine(tap)
        result = combine(
            self.mode,
            lambda: layers.gelu_linear(x.codes, getattr(self.integers.selectors[stage], part), *gelu_constants(1.0)),
            lambda: polynomial_gelu(x.value @ weight.mT + bias[:, None, :], 1.0),
            self._format(tap, 8),
        )
        self.record(tap, result.map(layers.merge_heads), valid)
        return result


def _weighted_mean(x: Tensor, weight: Tensor) -> Tensor:
    """Mean of x (..., N, C) over N with weights (..., N); 0 where all weights are 0."""
    total = (x * weight[..., None]).sum(dim=-2)
    return total / weight.sum(dim=-1, keepdim=True).clamp(min=2.0**-16)


def _with_cls(score: Tensor, value: float) -> Tensor:
    """Scores (B, N) with that of CLS, which no selector judges, replaced."""
    return torch.cat([torch.full_like(score[:, :1], value), score[:, 1:]], dim=1)


def scale_name(tap: str) -> str:
    """The name of the scale that a tap's codes have: the residual stream has one, and so have local and pooled."""
    if tap == "patch_embed" or tap.endswith((".proj", ".fc2", ".package")):
        return "residual"
    return tap.removesuffix("pooled") + "local" if tap.endswith(".pooled") else tap
