"""Integer layers of the network, composed from the functions of quant.fixed and quant.approx.

Like those, every function runs on any array-API library and on any leading batch axes: the golden model calls it with
numpy arrays of one picture, quantization-aware training with torch tensors of a batch. Arrays are int64 unless a name
says otherwise; a layer's arrays belong to the library of the operand. docs/architecture.md section 2 names the layers.
"""

from __future__ import annotations

from array_api_compat import array_namespace

from quant.approx import gelu, layer_norm, row_scale, sigmoid
from quant.fixed import WEIGHT_MAX, Array, requantize, saturate
from quant.network import Block, GeluLayer, LinearLayer, NormLayer, Selector

FLOAT32_DEPTH = 1024
"""Products of two int8 values are at most 2**14: up to this many of them sum exactly in the 24 bits of float32."""

CLS_SCORE = 65535
"""Keep score of the CLS token: no threshold prunes it."""


def exact_matmul(a_i8: Array, b_i8: Array) -> Array:
    """Integer matrix product a (..., M, K) @ b (..., K, N) of int8 values, int64, through a floating-point BLAS.

    Exact: every partial sum is an integer that the chosen float type represents.
    """
    xp = array_namespace(a_i8)
    dtype = xp.float32 if a_i8.shape[-1] <= FLOAT32_DEPTH else xp.float64
    return xp.astype(xp.matmul(xp.astype(a_i8, dtype), xp.astype(b_i8, dtype)), xp.int64)


def as_weights(x_i8: Array) -> Array:
    """Clip activations that act as the weights of a product to [-127, 127], as the operand unit does."""
    return array_namespace(x_i8).clip(x_i8, -WEIGHT_MAX, WEIGHT_MAX)


def split_heads(x: Array, heads: int) -> Array:
    """(..., N, heads * C) -> (..., heads, N, C)."""
    xp = array_namespace(x)
    return xp.moveaxis(xp.reshape(x, (*x.shape[:-1], heads, x.shape[-1] // heads)), -2, -3)


def merge_heads(x: Array) -> Array:
    """(..., heads, N, C) -> (..., N, heads * C), the inverse of split_heads."""
    xp = array_namespace(x)
    x = xp.moveaxis(x, -3, -2)  # (..., N, heads, C)
    return xp.reshape(x, (*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def norm(x_i16: Array, layer: NormLayer) -> Array:
    """LayerNorm of (..., N, D) to int8."""
    xp = array_namespace(x_i16)
    gamma, beta = xp.astype(layer.gamma_i16, xp.int64), xp.astype(layer.beta_i32, xp.int64)
    return layer_norm(x_i16, gamma, beta, layer.shift, layer.eps)


def linear(x_i8: Array, layer: LinearLayer, bits: int) -> Array:
    """requantize(x . W + b) to `bits` bits: (..., N, in) -> (..., N, out).

    A layer with a head axis takes (..., H, N, in) and gives (..., H, N, out).
    """
    xp = array_namespace(x_i8)
    bias, mult, shift = (
        xp.astype(array[..., None, :], xp.int64) for array in (layer.bias_i32, layer.mult_u16, layer.shift_u8)
    )
    acc_i32 = exact_matmul(x_i8, xp.matrix_transpose(layer.weight_i8)) + bias
    return requantize(acc_i32, mult, shift, bits)


def gelu_linear(x_i8: Array, layer: GeluLayer, one: int, curve: int) -> Array:
    """A linear layer to Q5.10, polynomial GELU and a requantize to int8; one, curve: quant.approx.gelu_constants."""
    activated_q26 = gelu(linear(x_i8, layer.linear, 16), one, curve, layer.out_offset)
    return requantize(activated_q26, layer.out_mult, layer.out_shift, 8)


def sigmoid_linear(x_i8: Array, layer: LinearLayer) -> Array:
    """A linear layer to Q5.10 and the sigmoid, u8."""
    return sigmoid(linear(x_i8, layer, 16))


def residual_linear(residual_i16: Array, x_i8: Array, layer: LinearLayer) -> Array:
    """sat16(residual + requantize16(x . W + b)): the new residual stream, or the patch embedding on its table."""
    return saturate(residual_i16 + linear(x_i8, layer, 16), 16)


def attention_scores(q_i8: Array, k_i8: Array, is_package: Array, block: Block) -> Array:
    """int16 scores in log2 units of every head: q and k (..., H, N, d), is_package (..., N) -> (..., H, N, N)."""
    xp = array_namespace(q_i8)
    bias = xp.astype(block.package_bias_i32, xp.int64)[:, None, None] * is_package[..., None, None, :]
    acc_i32 = exact_matmul(q_i8, xp.matrix_transpose(as_weights(k_i8))) + bias
    return requantize(acc_i32, block.score_mult, block.score_shift, 16)


def attention_context(exp_u8: Array, row_sum: Array, v_i8: Array, block: Block) -> Array:
    """int8 context of every head: exponentials (..., H, N, N), their row sums (..., H, N), v (..., H, N, d)."""
    mult, shift = row_scale(row_sum, block.context_mult, block.context_shift)
    return requantize(exact_matmul(exp_u8, as_weights(v_i8)), mult[..., None], shift[..., None], 8)


def pooled_mean(x_i8: Array, is_pooled: Array, selector: Selector) -> Array:
    """int8 mean over the tokens marked in is_pooled (..., N) bool: x (..., N, C) -> (..., 1, C)."""
    xp = array_namespace(x_i8)
    weight = xp.astype(is_pooled, xp.int64)
    total = xp.sum(as_weights(x_i8) * weight[..., None], axis=-2, keepdims=True)
    mult, shift = row_scale(xp.sum(weight, axis=-1, keepdims=True), selector.pool_mult, selector.pool_shift)
    return requantize(total, mult[..., None], shift[..., None], 8)


def select(score_u16: Array, is_valid: Array, is_package: Array, threshold: int) -> tuple[Array, Array]:
    """The selection rule: (kept, merged), bool of the shape of score_u16 (..., N).

    A valid row is kept iff its score reaches the threshold and it is not an earlier package; every other valid row is
    merged into the new package. The score of CLS is CLS_SCORE, which reaches every threshold.
    """
    kept = is_valid & ~is_package & (score_u16 >= threshold)
    return kept, is_valid & ~kept
