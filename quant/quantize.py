"""Quantize float parameters with given activation scales, one function for conversion and for training.

Quantization-aware training calls `quantize` in every step, so that what it trains is what it exports. Arrays of the
result are int64 tensors on the parameters' device; quant.convert.to_arrays narrows them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from quant import layers
from quant.approx import GELU_OFFSET_SCALE, KEEP_THRESHOLD_Q16, gelu_offset
from quant.config import NetworkConfig
from quant.fixed import FEATURE_FRACTION_BITS, MULT_BITS, SHIFT_MAX, WEIGHT_MAX, quantize_multiplier, saturate
from quant.network import Block, GeluLayer, IntegerNetwork, LinearLayer, NormLayer, Selector
from quant.torch_layers import NORM_EPS, scale_name

FEATURE_SCALE = 2.0**-FEATURE_FRACTION_BITS
GELU_SCALE = 2.0**-26
BIAS_MAX = 1 << 30
"""Half of the accumulator is left to the products."""
NORM_BETA_MAX = 1 << 29
NORM_SHIFT_MAX = 30
"""With |gamma| < 2**15 these keep normalised * gamma + beta + half inside 32 bits."""

Part = TypeVar("Part")


def check_thresholds(config: NetworkConfig, thresholds: Sequence[int] | None) -> tuple[int, ...]:
    """Return one keep threshold per selector, 0.5 by default. Raises ValueError for another number of them."""
    checked = (KEEP_THRESHOLD_Q16,) * len(config.selectors) if thresholds is None else tuple(thresholds)
    if len(checked) != len(config.selectors):
        raise ValueError(f"thresholds must be one per selector, {len(config.selectors)}, not {checked!r}")
    for threshold in checked:
        if not 0 <= threshold <= 65535:
            raise ValueError(f"threshold must be in 0..65535, not {threshold!r}")
    return checked


def quantize(
    parameters: Mapping[str, Tensor],
    config: NetworkConfig,
    scales: Mapping[str, float],
    mean: Sequence[float],
    std: Sequence[float],
    thresholds: Sequence[int] | None = None,
) -> IntegerNetwork:
    """Return the integer network, as int64 tensors on the parameters' device, for given activation scales."""
    values = {name: value.detach().to(torch.float64) for name, value in parameters.items()}
    with torch.no_grad():
        return _network(Quantizer(values, scales), config, mean, std, check_thresholds(config, thresholds))


def _codes(real: Tensor) -> Any:
    """Nearest integers, as the tensor that stands for a layer's array."""
    return torch.round(real).to(torch.int64)


def multipliers(real: Tensor) -> tuple[Any, Any]:
    """quant.fixed.quantize_multiplier on a float64 tensor: (mult, shift) int64.

    Raises ValueError for the same values.
    """
    mantissa, exponent = torch.frexp(real)
    mult = torch.round(mantissa * (1 << MULT_BITS)).to(torch.int64)
    is_carry = mult == 1 << MULT_BITS
    shift = MULT_BITS - exponent.to(torch.int64) - is_carry.to(torch.int64)
    in_range = (real > 0) & (shift >= 0) & (shift <= SHIFT_MAX)
    if not bool(in_range.all()):
        raise ValueError(f"multiplier must be in 2**-32..2**15, not {float(real[~in_range][0])!r}")
    return torch.where(is_carry, mult >> 1, mult), shift


class Quantizer:
    """Turns float64 parameters into layers, by name, with the activation scales of one network."""

    def __init__(self, values: Mapping[str, Tensor], scales: Mapping[str, float]) -> None:
        self.values = values
        self.scales = scales

    def scale(self, tap: str) -> float:
        """Value of one code of a tap."""
        return self.scales[scale_name(tap)]

    def linear(
        self, weight: Tensor, bias: Tensor, in_scale: float, out_scale: float, in_zero: float = 0.0
    ) -> LinearLayer:
        """Quantize weight (..., out, in) symmetrically per output channel and bias (..., out) at accumulator scale.

        in_zero is the value of the operand's code 0, at most that of 128 codes; the bias takes what the weights make of
        it, no more than the products may be.
        """
        weight_scale = weight.abs().amax(dim=-1) / WEIGHT_MAX
        # A channel of tiny weights gets a coarser scale, so that its bias and its multiplier stay in range.
        weight_scale = torch.maximum(weight_scale, bias.abs() / (in_scale * BIAS_MAX))
        weight_scale = weight_scale.clamp(min=out_scale / in_scale * 2.0**-20)
        mult, shift = multipliers(weight_scale * in_scale / out_scale)
        weight_codes = _codes(weight / weight_scale[..., None])
        zero_codes = weight_codes.sum(dim=-1) * (in_zero / in_scale)
        return LinearLayer(weight_codes, _codes(bias / (weight_scale * in_scale) + zero_codes), mult, shift)

    def named_linear(self, name: str, in_tap: str, out_tap: str, in_zero: float = 0.0) -> LinearLayer:
        """The layer whose weight and bias are the parameters `name`."""
        weight, bias = self.values[f"{name}.weight"], self.values[f"{name}.bias"]
        return self.linear(weight, bias, self.scale(in_tap), self.scale(out_tap), in_zero)

    def gelu(self, weight: Tensor, bias: Tensor, in_tap: str, out_tap: str, out_offset: int = 0) -> GeluLayer:
        """A linear layer to Q5.10 and the requantize of GELU's Q26 result."""
        linear = self.linear(weight, bias, self.scale(in_tap), FEATURE_SCALE)
        return GeluLayer(linear, *quantize_multiplier(GELU_SCALE / self.scale(out_tap)), out_offset)

    def norm(self, name: str, out_tap: str) -> NormLayer:
        """LayerNorm with the largest shift that keeps gamma and beta in range."""
        gamma = self.values[f"{name}.weight"] * (FEATURE_SCALE / self.scale(out_tap))
        beta = self.values[f"{name}.bias"] / self.scale(out_tap)
        gamma_max, beta_max = float(gamma.abs().max()), float(beta.abs().max())
        shift = min(NORM_SHIFT_MAX, _doublings(gamma_max, (1 << 15) - 1), _doublings(beta_max, NORM_BETA_MAX))
        if shift < 0:
            raise ValueError(f"{name} does not fit its output scale: gamma {gamma_max!r}, beta {beta_max!r} codes")
        # The unit's variance is that of x * D, in codes of the residual stream.
        eps = round(NORM_EPS * (len(gamma) / self.scales["residual"]) ** 2)
        return NormLayer(
            _codes(gamma * 2.0**shift),
            _codes(beta * 2.0**shift),
            shift,
            min(max(eps, 1), (1 << 32) - 1),
        )


def _doublings(value: float, limit: int) -> int:
    """How often a non-negative value can be doubled without passing limit; NORM_SHIFT_MAX for 0."""
    return math.frexp(limit / value)[1] - 1 if value > 0 else NORM_SHIFT_MAX


def _network(
    q: Quantizer, config: NetworkConfig, mean: Sequence[float], std: Sequence[float], thresholds: Sequence[int]
) -> IntegerNetwork:
    device = q.values["cls_token"].device
    weight, bias = q.values["patch_embed.proj.weight"].flatten(1), q.values["patch_embed.proj.bias"]
    patch_embed = q.linear(weight, bias, q.scales["input"], q.scales["residual"])
    position = q.values["pos_embed"][0] / q.scales["residual"]
    position[0] += q.values["cls_token"][0, 0] / q.scales["residual"]
    position_i16 = torch.round(position).to(torch.int64)
    # Row CLS of the patches is zero, so the layer gives its bias there: take it back out.
    position_i16[0] -= layers.linear(torch.zeros_like(weight[:1], dtype=torch.int64), patch_embed, 16)[0]
    pixels = torch.arange(256, dtype=torch.float64, device=device) / 255
    means, stds = (torch.tensor(x, dtype=torch.float64, device=device)[:, None] for x in (list(mean), list(std)))
    lut = torch.round((pixels - means) / stds / q.scales["input"])
    return IntegerNetwork(
        config=config,
        input_lut_i8=saturate(lut, 8).to(torch.int64),
        patch_embed=patch_embed,
        position_i16=saturate(position_i16, 16),
        blocks=tuple(_named(_block, q, config, f"blocks.{number}", number) for number in range(config.depth)),
        selectors=tuple(
            _named(_selector, q, config, f"selectors.{stage}", threshold) for stage, threshold in enumerate(thresholds)
        ),
        norm=q.norm("norm", "norm"),
        head=q.named_linear("head", "norm", "head"),
        residual_scale=q.scales["residual"],
        logit_scale=q.scales["head"],
    )


def _named(part: Callable[..., Part], q: Quantizer, config: NetworkConfig, name: str, *arguments: int) -> Part:
    """Build a part of the network; a complaint about its numbers gets its name in front."""
    try:
        return part(q, config, name, *arguments)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _block(q: Quantizer, config: NetworkConfig, name: str, number: int) -> Block:
    weight, bias = q.values[f"{name}.attn.qkv.weight"], q.values[f"{name}.attn.qkv.bias"]
    query, key, value = (
        q.linear(part_weight, part_bias, q.scale(f"{name}.norm1"), q.scale(f"{name}.attn.{part}"))
        for part, part_weight, part_bias in zip("qkv", weight.chunk(3), bias.chunk(3), strict=True)
    )
    product_scale = q.scale(f"{name}.attn.q") * q.scale(f"{name}.attn.k") / math.sqrt(config.head_dim)
    # Scores in log2 units: a softmax to the base e is one to the base 2 of log2(e) times the scores.
    score_mult, score_shift = quantize_multiplier(product_scale * math.log2(math.e) * 2.0**8)
    stage = config.stage_of(number)
    no_bias = torch.zeros(config.num_heads, device=weight.device)
    package_bias = no_bias if stage is None else q.values[f"selectors.{stage}.package_bias"]
    hidden = f"{name}.mlp.fc1"
    offset = gelu_offset(q.scale(hidden), config.delta1)
    context_mult, context_shift = quantize_multiplier(
        config.delta2 * q.scale(f"{name}.attn.v") / q.scale(f"{name}.attn.context")
    )
    return Block(
        norm1=q.norm(f"{name}.norm1", f"{name}.norm1"),
        q=query,
        k=key,
        v=value,
        package_bias_i32=_codes((package_bias / product_scale).clamp(-BIAS_MAX, BIAS_MAX)),
        score_mult=score_mult,
        score_shift=score_shift,
        context_mult=context_mult,
        context_shift=context_shift,
        proj=q.named_linear(f"{name}.attn.proj", f"{name}.attn.context", f"{name}.attn.proj"),
        norm2=q.norm(f"{name}.norm2", f"{name}.norm2"),
        fc1=q.gelu(q.values[f"{hidden}.weight"], q.values[f"{hidden}.bias"], f"{name}.norm2", hidden, offset),
        fc2=q.named_linear(f"{name}.mlp.fc2", hidden, f"{name}.mlp.fc2", -offset * GELU_OFFSET_SCALE),
    )


def _selector(q: Quantizer, config: NetworkConfig, name: str, threshold: int) -> Selector:
    def gelu(part: str, in_part: str) -> GeluLayer:
        weight, bias = q.values[f"{name}.{part}.weight"], q.values[f"{name}.{part}.bias"]
        return q.gelu(weight, bias, f"{name}.{in_part}", f"{name}.{part}")

    score_weight, score_bias = q.values[f"{name}.token_score.weight"], q.values[f"{name}.token_score.bias"]
    # softmax over (keep, prune) is the sigmoid of the difference of the two logits.
    token_score = q.linear(
        score_weight[:, :1] - score_weight[:, 1:],
        score_bias[:, :1] - score_bias[:, 1:],
        q.scale(f"{name}.token2"),
        FEATURE_SCALE,
    )
    # The mean over the channels of a head is folded into the weights.
    head_weight = q.values[f"{name}.head1.weight"].repeat_interleave(config.head_dim, dim=1) / config.head_dim
    head_score = q.linear(
        q.values[f"{name}.head_score.weight"],
        q.values[f"{name}.head_score.bias"],
        q.scale(f"{name}.head1"),
        FEATURE_SCALE,
    )
    pool_mult, pool_shift = quantize_multiplier(1.0)  # local and pooled share a scale: they are joined
    return Selector(
        norm=q.norm(f"{name}.norm", f"{name}.norm"),
        local=gelu("local", "norm"),
        pool_mult=pool_mult,
        pool_shift=pool_shift,
        token1=gelu("token1", "local"),
        token2=gelu("token2", "token1"),
        token_score=token_score,
        head1=q.gelu(head_weight, q.values[f"{name}.head1.bias"], f"{name}.norm", f"{name}.head1"),
        head_score=head_score,
        threshold_u16=threshold,
    )
