"""The golden model on batches, in the floating-point arithmetic of quant.float_layers: equal to it, and much faster.

After a selector the live tokens of every picture move to the front, as they do in the golden model, and the batch is
cut to its largest count; what a picture with fewer tokens has behind them is padding that no sum over tokens sees.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from quant import float_layers, layers
from quant.approx import keep_scores, package_token
from quant.float_layers import FloatGelu, FloatLinear, FloatNorm, Tables
from quant.live_tokens import LiveTokens
from quant.network import Block, IntegerNetwork, Selector

Recorder = Callable[[str, Tensor, Tensor], None]
"""Receives each tap of a batch: its name, the codes with the batch in front, and the number of live rows (B,).

The codes may be overwritten after the call.
"""


class FastInference(NamedTuple):
    """What a batch of B pictures gives: logits_i16 (B, classes) int64, num_tokens (B, selectors) int64."""

    logits_i16: Tensor
    num_tokens: Tensor


class FastGolden:
    """An integer network of arrays, prepared to run on batches on a device."""

    def __init__(self, network: IntegerNetwork, device: torch.device | str = "cpu") -> None:
        self.network, self.device = network, torch.device(device)
        self.tables = Tables.on(self.device)
        self.pixels = torch.from_numpy(network.input_lut_i8).to(self.device, torch.float32).flatten()
        self.patch_embed = FloatLinear.of(network.patch_embed, self.device)
        self.position = torch.from_numpy(network.position_i16).to(self.device, torch.float32)
        self.blocks = [_FastBlock(block, self) for block in network.blocks]
        self.selectors = [_FastSelector(selector, self) for selector in network.selectors]
        self.norm = FloatNorm.of(network.norm, self.device)
        self.head = FloatLinear.of(network.head, self.device)

    @torch.inference_mode()
    def run(self, pictures_u8: Tensor, record: Recorder | None = None) -> FastInference:
        """Run uint8 pictures (B, in_chans, image_size, image_size), which may lie on any device."""
        config = self.network.config
        record = record or _ignore
        patches = self._patches(pictures_u8.to(self.device))
        residual = float_layers.residual_linear(self.position, patches, self.patch_embed)
        tokens, counts = LiveTokens.all_of(residual), []
        record("patch_embed", residual, tokens.count)
        for number, block in enumerate(self.blocks):
            if number in config.selectors:
                stage = config.selectors.index(number)
                tokens = self.selectors[stage].run(tokens, f"selectors.{stage}", record)
                counts.append(tokens.count)
            tokens = block.run(tokens, f"blocks.{number}", record)
        one = torch.ones_like(tokens.count)
        normed = float_layers.norm(tokens.residual[:, :1], self.norm)
        record("norm", normed, one)
        logits = float_layers.linear(normed, self.head, 16)
        record("head", logits, one)
        num_tokens = torch.stack(counts, dim=1) if counts else one.new_zeros(len(one), 0)
        return FastInference(logits[:, 0].to(torch.int64), num_tokens)

    def _patches(self, pictures_u8: Tensor) -> Tensor:
        """Patch codes (B, num_tokens, patch_dim) in the order of quant.reference.patchify."""
        config = self.network.config
        size = (config.in_chans, config.image_size, config.image_size)
        if pictures_u8.dtype != torch.uint8 or pictures_u8.shape[1:] != size:
            found = f"{pictures_u8.dtype} {tuple(pictures_u8.shape)}"
            raise ValueError(f"pictures must be uint8 batches of {size}, not {found}")
        side, patch = config.image_size // config.patch_size, config.patch_size
        channel = 256 * torch.arange(config.in_chans, dtype=torch.int32, device=self.device).view(-1, 1, 1)
        codes = self.pixels.index_select(0, (pictures_u8 + channel).flatten())
        grid = codes.view(-1, config.in_chans, side, patch, side, patch).permute(0, 2, 4, 1, 3, 5)
        patches = codes.new_zeros(len(pictures_u8), config.num_tokens, config.patch_dim)
        patches[:, 1:] = grid.reshape(len(pictures_u8), config.num_patches, config.patch_dim)
        return patches


class _FastBlock:
    """One transformer block."""

    def __init__(self, block: Block, golden: FastGolden) -> None:
        device, config = golden.device, golden.network.config
        self.block, self.heads, self.tables = block, config.num_heads, golden.tables
        self.norm1, self.norm2 = FloatNorm.of(block.norm1, device), FloatNorm.of(block.norm2, device)
        self.q, self.k, self.v = (FloatLinear.of(layer, device) for layer in (block.q, block.k, block.v))
        self.proj, self.fc2 = FloatLinear.of(block.proj, device), FloatLinear.of(block.fc2, device)
        self.fc1 = FloatGelu.of(block.fc1, config.delta1, device)
        self.package_bias = torch.from_numpy(block.package_bias_i32).to(device, torch.float64)[:, None]

    def run(self, tokens: LiveTokens, name: str, record: Recorder) -> LiveTokens:
        """Return the tokens after the block."""
        count, residual = tokens.count, tokens.residual
        normed = float_layers.norm(residual, self.norm1)
        q, k, v = (float_layers.linear(normed, layer, 8) for layer in (self.q, self.k, self.v))
        attended = float_layers.residual_linear(residual, self._attend(q, k, v, tokens, name, record), self.proj)
        normed2 = float_layers.norm(attended, self.norm2)
        hidden = float_layers.gelu_linear(normed2, self.fc1)
        result = float_layers.residual_linear(attended, hidden, self.fc2)
        for tap, value in (
            ("norm1", normed),
            ("attn.q", q),
            ("attn.k", k),
            ("attn.v", v),
            ("attn.proj", attended),
            ("norm2", normed2),
            ("mlp.fc1", hidden),
            ("mlp.fc2", result),
        ):
            record(f"{name}.{tap}", value, count)
        return tokens.with_residual(result)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, tokens: LiveTokens, name: str, record: Recorder) -> Tensor:
        """Attention context (B, N, D) of q, k and v (B, N, D)."""
        block = self.block
        q, k, v = (layers.split_heads(x, self.heads) for x in (q, k, v))  # (B, H, N, d)
        scores = float_layers.attention_scores(
            q, k, tokens.is_package, self.package_bias, block.score_mult, block.score_shift
        )
        record(f"{name}.attn.scores", scores, tokens.count)
        exponential, row_sum = float_layers.softmax_rows(scores, tokens.padding_mask, self.tables)
        record(f"{name}.attn.exp", exponential, tokens.count)
        context = float_layers.attention_context(exponential, row_sum, v, block.context_mult, block.context_shift)
        merged: Tensor = layers.merge_heads(context)
        record(f"{name}.attn.context", merged, tokens.count)
        return merged


class _FastSelector:
    """One token selector."""

    def __init__(self, selector: Selector, golden: FastGolden) -> None:
        device = golden.device
        self.selector, self.heads, self.tables = selector, golden.network.config.num_heads, golden.tables
        self.norm = FloatNorm.of(selector.norm, device)
        self.local, self.token1, self.token2, self.head1 = (
            FloatGelu.of(layer, 1.0, device)
            for layer in (selector.local, selector.token1, selector.token2, selector.head1)
        )
        self.token_score = FloatLinear.of(selector.token_score, device)
        self.head_score = FloatLinear.of(selector.head_score, device)

    def run(self, tokens: LiveTokens, name: str, record: Recorder) -> LiveTokens:
        """Return the live tokens, kept ones in front in their order, then the package."""
        score = self._keep_scores(tokens, name, record)
        kept, merged = layers.select(score, tokens.valid, tokens.is_package, self.selector.threshold_u16)
        package = package_token(tokens.residual.to(torch.int64), score, merged).to(torch.float32)
        selected = tokens.select(kept, merged, package)
        record(f"{name}.tokens", selected.index, selected.count)
        record(f"{name}.package", selected.residual, selected.count)
        return selected

    def _keep_scores(self, tokens: LiveTokens, name: str, record: Recorder) -> Tensor:
        """Keep scores (B, N) int64, with that of CLS."""
        count, tables = tokens.count, self.tables
        normed = float_layers.norm(tokens.residual, self.norm)
        local = float_layers.gelu_linear(layers.split_heads(normed, self.heads), self.local)  # (B, H, N, d/2)
        is_pooled = tokens.valid[:, None].clone()  # (B, 1, N)
        is_pooled[..., 0] = False
        pooled = layers.pooled_mean(local.to(torch.int64), is_pooled, self.selector).to(torch.float32)
        joined = torch.cat([local, pooled.expand_as(local)], dim=-1)
        token1 = float_layers.gelu_linear(joined, self.token1)
        token2 = float_layers.gelu_linear(token1, self.token2)
        token_score = layers.merge_heads(float_layers.sigmoid_linear(token2, self.token_score, tables))  # (B, N, H)
        head1 = float_layers.gelu_linear(normed, self.head1)
        head_score = float_layers.sigmoid_linear(head1, self.head_score, tables)
        score = keep_scores(token_score.to(torch.int64), head_score.to(torch.int64))
        score[:, 0] = layers.CLS_SCORE
        for tap, value in (
            ("norm", normed),
            ("local", layers.merge_heads(local)),
            ("token1", layers.merge_heads(token1)),
            ("token2", layers.merge_heads(token2)),
            ("token_score", token_score),
            ("head1", head1),
            ("head_score", head_score),
            ("keep_score", score),
        ):
            record(f"{name}.{tap}", value, count)
        record(f"{name}.pooled", layers.merge_heads(pooled), torch.ones_like(count))
        result: Tensor = score
        return result


def _ignore(name: str, codes: Tensor, count: Tensor) -> None:
    """The recorder that keeps nothing."""
