"""What one batched forward pass in torch reads, and the layers it is made of; quant/torch_forward.py composes them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.nn import functional

from quant import layers
from quant.config import NetworkConfig
from quant.fake_quant import ABSENT, Format, Mode, Quantized, combine
from quant.network import IntegerNetwork, LinearLayer, NormLayer

NORM_EPS = 1e-6
"""timm's LayerNorm epsilon for Vision Transformers."""

Recorder = Callable[[str, Quantized, Tensor], None]
"""Receives each tap: its name, the batched tensor and the bool mask (B, N) of the valid rows."""


def ignore_tap(name: str, tensor: Quantized, valid: Tensor) -> None:
    """The recorder that keeps nothing."""


def scale_name(tap: str) -> str:
    """The name of the scale that a tap's codes have: the residual stream has one, and so have local and pooled."""
    if tap == "patch_embed" or tap.endswith((".proj", ".fc2", ".package")):
        return "residual"
    return tap.removesuffix("pooled") + "local" if tap.endswith(".pooled") else tap


@dataclass(frozen=True)
class Tokens:
    """The residual stream (B, N, D), its valid rows (B, N) bool, and the same as 0 or 1 with the masks' gradient."""

    residual: Quantized
    valid: Tensor
    weight: Tensor


@dataclass(frozen=True)
class TorchLayers:
    """The network of one forward pass; each method computes a tap on a batch and records it.

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

    def format(self, tap: str, bits: int) -> Format:
        """The signed codes of a tap whose scale is calibrated."""
        return Format.signed(self.scales.get(scale_name(tap), math.nan), bits)

    def gelu_format(self, tap: str) -> Format:
        """The codes of an MLP's GELU, which begin at its minimum."""
        has_scale = self.mode is Mode.TRAIN
        return Format.gelu(self.scales[tap], self.config.delta1) if has_scale else self.format(tap, 8)

    def parameter(self, name: str) -> Tensor:
        """A float parameter, for the real sides of operations."""
        return ABSENT if self.mode is Mode.INTEGER else self.parameters[name]

    def affine(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of a layer."""
        return self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")

    def tap(
        self, name: str, valid: Tensor, integer: Callable[[], Tensor], real: Callable[[], Tensor], form: Format
    ) -> Quantized:
        """Run the sides that the mode needs and record the result."""
        result = combine(self.mode, integer, real, form)
        self.record(name, result, valid)
        return result

    def norm(self, name: str, tokens: Tokens, layer: Callable[[], NormLayer]) -> Quantized:
        """LayerNorm of the residual stream; the tap has the name of the parameters."""
        x, (weight, bias) = tokens.residual, self.affine(name)
        return self.tap(
            name,
            tokens.valid,
            lambda: layers.norm(x.codes, layer()),
            lambda: functional.layer_norm(x.value, weight.shape, weight, bias, NORM_EPS),
            self.format(name, 8),
        )

    def linear(
        self,
        name: str,
        x: Quantized,
        valid: Tensor,
        layer: Callable[[], LinearLayer],
        affine: tuple[Tensor, Tensor],
        bits: int,
    ) -> Quantized:
        """A linear layer to `bits` bits."""
        return self.tap(
            name,
            valid,
            lambda: layers.linear(x.codes, layer(), bits),
            lambda: functional.linear(x.value, *affine),
            self.format(name, bits),
        )

    def residual(self, name: str, tokens: Tokens, x: Quantized, layer: Callable[[], LinearLayer]) -> Tokens:
        """A linear layer added to the residual stream; the tap has the name of the parameters."""
        affine = self.affine(name)
        residual = self.tap(
            name,
            tokens.valid,
            lambda: layers.residual_linear(tokens.residual.codes, x.codes, layer()),
            lambda: tokens.residual.value + functional.linear(x.value, *affine),
            self.format(name, 16),
        )
        return Tokens(residual, tokens.valid, tokens.weight)
