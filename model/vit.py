"""Vision Transformer with token selectors in float, timm's parameter names, HeatViT's non-linear functions.

Every network of this project maps uint8 pictures (B, C, height, width) to logits; the normalisation is part of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.approx import Kernels, check_kernels, exact_softmax, gelu, softmax
from model.selector import TokenSelector, select_masked
from quant.config import NetworkConfig


@dataclass(frozen=True)
class Normalisation:
    """Pixel normalisation (value / 255 - mean) / std, one entry per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.mean or len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must have one entry per channel, not {self.mean!r} and {self.std!r}")
        if not all(0 < value < float("inf") for value in self.std):
            raise ValueError(f"std must be positive, not {self.std!r}")


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class Output(NamedTuple):
    """What the masked path returns.

    logits (B, classes); tokens (B, slots, D) after the last LayerNorm, CLS and the patches first. Of each selector:
    keep_masks (B, num_patches) float 0 or 1, what all selectors so far left alive, with straight-through gradients;
    keep_scores (B, num_patches) in [0, 1]; num_tokens (B,) live tokens after it, CLS and package included.
    residuals: what leaves each block (B, slots, D), and which slots of it are live (B, slots) float 0 or 1.
    """

    logits: Tensor
    keep_masks: list[Tensor]
    keep_scores: list[Tensor]
    num_tokens: list[Tensor]
    tokens: Tensor
    residuals: list[tuple[Tensor, Tensor]]


class PatchEmbed(nn.Module):
    """Non-overlapping patches, linearly embedded: (B, C, height, width) -> (B, patches, D)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.in_chans, config.embed_dim, config.patch_size, config.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out.flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention that gives weight to valid tokens only."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.delta2 = config.num_heads, config.head_dim, config.delta2
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(
        self, x: Tensor, valid: Tensor, kernels: Kernels = Kernels.TRAINED, bias: Tensor | None = None
    ) -> Tensor:
        """bias (B or 1, H, 1, N), if any, is added to the scores of the columns."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, H, N, d)
        scores = q @ k.transpose(-2, -1) * self.head_dim**-0.5  # (B, H, N, N)
        scores = scores if bias is None else scores + bias
        is_seen = valid[:, None, None, :]
        weight = exact_softmax(scores, is_seen) if kernels is Kernels.FUSED else softmax(scores, is_seen, self.delta2)
        context = weight @ v
        out: Tensor = self.proj(context.transpose(1, 2).flatten(2))
        return out


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.delta1 = config.delta1
        self.fc1 = nn.Linear(config.embed_dim, config.mlp_hidden)
        self.fc2 = nn.Linear(config.mlp_hidden, config.embed_dim)

    def forward(self, x: Tensor, kernels: Kernels = Kernels.TRAINED) -> Tensor:
        out: Tensor = self.fc2(gelu(self.fc1(x), self.delta1, kernels))
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.mlp = Mlp(config)

    def forward(
        self, x: Tensor, valid: Tensor, kernels: Kernels = Kernels.TRAINED, bias: Tensor | None = None
    ) -> Tensor:
        x = x + self.attn(self.norm1(x), valid, kernels, bias)
        out: Tensor = x + self.mlp(self.norm2(x), kernels)
        return out


class VisionTransformer(nn.Module):
    """The whole network; `forward` is the masked path, model.inference the one where pruned tokens are gone.

    Members
    -------
    kernels : what `forward` computes softmax and GELU with.
    has_package : whether pruned tokens leave a package token; without it they are lost, as other methods have it.
    """

    def __init__(
        self,
        config: NetworkConfig,
        normalisation: Normalisation,
        kernels: Kernels = Kernels.TRAINED,
        has_package: bool = True,
    ) -> None:
        super().__init__()
        check_kernels(kernels, config.delta1, config.delta2)
        self.kernels, self.has_package = kernels, has_package
        if len(normalisation.mean) != config.in_chans:
            raise ValueError(f"normalisation must have {config.in_chans} channels, not {len(normalisation.mean)!r}")
        self.config, self.normalisation = config, normalisation
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, config.num_tokens, config.embed_dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.selectors = nn.ModuleList(
            TokenSelector(config.embed_dim, config.num_heads, config.head_branch_hidden) for _ in config.selectors
        )
        self.norm = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.head = nn.Linear(config.embed_dim, config.num_classes)
        for values in (self.pos_embed, self.cls_token):
            nn.init.trunc_normal_(values, std=0.02)

    def embed(self, pictures_u8: Tensor) -> Tensor:
        """Return the tokens (B, 1 + patches, D) that enter block 0."""
        size = (self.config.in_chans, self.config.image_size, self.config.image_size)
        if pictures_u8.dtype != torch.uint8 or pictures_u8.shape[1:] != size:
            found = f"{pictures_u8.dtype} {tuple(pictures_u8.shape)}"
            raise ValueError(f"pictures must be uint8 (B, {', '.join(map(str, size))}), not {found}")
        mean, std = (
            torch.tensor(values, device=pictures_u8.device).view(-1, 1, 1)
            for values in (self.normalisation.mean, self.normalisation.std)
        )
        patches = self.patch_embed((pictures_u8 / 255 - mean) / std)
        return torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1) + self.pos_embed

    def forward(self, pictures_u8: Tensor, noise: Tensor | None = None) -> Output:
        """Run the masked path; noise (B, selectors, 1 + patches) explores other decisions (model/selector.py)."""
        x = self.embed(pictures_u8)
        valid = x.new_ones(x.shape[:2])
        if self.config.selectors:  # the package slot, empty until something is pruned
            x, valid = nn.functional.pad(x, (0, 0, 0, 1)), nn.functional.pad(valid, (0, 1))
        patches = slice(1, self.config.num_tokens)
        masks, scores, num_tokens, residuals, bias = [], [], [], [], None
        is_package = torch.arange(x.shape[1], device=x.device) == self.config.num_tokens
        for index, block in enumerate(self.blocks):
            if index in self.config.selectors:
                stage = self.config.selectors.index(index)
                selector = self.selectors[stage]
                assert isinstance(selector, TokenSelector)
                with torch.autocast(x.device.type, enabled=False):  # scores meet a threshold: they stay precise
                    score = selector(x, valid)
                bias = selector.column_bias(is_package[None])
                x, valid = select_masked(x, score, valid, None if noise is None else noise[:, stage], self.has_package)
                masks.append(valid[:, patches])
                scores.append(score[:, patches])
                num_tokens.append(valid.detach().sum(-1).long())
            x = block(x, valid, self.kernels, bias)
            residuals.append((x, valid.detach()))
        x = self.norm(x)
        return Output(self.head(x[:, 0]), masks, scores, num_tokens, x, residuals)
