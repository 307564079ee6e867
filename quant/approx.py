"""Integer non-linear functions: GELU, sigmoid, softmax, LayerNorm, reciprocal, selector decision and package.

Element-wise functions take int64 arrays of any array-API library. Float bounds are stated per function and
tested in tests/test_quant_approx.py. Sources: HeatViT (HPCA 2023) Eq. 10-14; PLAN (Amin 1997).
"""

from __future__ import annotations

from array_api_compat import array_namespace

from quant.fixed import Array, requantize, round_half_up, saturate

ERF_KNEE_Q10 = 2562
"""1.769 * sqrt(2) in Q10: beyond it the quadratic erf of Eq. 12 is saturated."""
ERF_CURVE = 0.2888 / 2
"""The quadratic coefficient of Eq. 12 after u = x / sqrt(2) is folded in."""
GELU_MIN = -0.1676
"""The least value of the polynomial GELU with delta1 = 1."""
GELU_OFFSET_SCALE = 2.0**-11
"""The value of one code of GELU's offset."""
GELU_OFFSET_MIN = -(1 << 15)
"""With it the sum is still a value of 32 bits."""

# L_exp of Eq. 14 with p = -f ln2 folded in: 2**-f ~= EXP_SCALE * (EXP_CENTRE - f)**2 + EXP_OFFSET.
EXP_CENTRE_Q12 = 7995
"""1.353 / ln2 in Q12."""
EXP_SCALE_Q16 = 11288
"""0.3585 * ln2**2 in Q16."""
EXP_OFFSET_Q15 = 11272
"""0.344 in Q15."""
EXP_MAX = 127
"""Largest un-normalised exponential: 2**0 is 128/128 and saturates to int8."""
SCORE_FRACTION_BITS = 8
"""Attention scores enter the exponential as int16 in log2 units with 8 fraction bits."""

KEEP_THRESHOLD_Q16 = 1 << 15
"""Keep score 0.5, the paper's inference threshold."""


def gelu_constants(delta1: float) -> tuple[int, int]:
    """Return (one, curve): delta1 and delta1 * 0.1444 in Q15, the two constants `gelu` takes.

    delta1 in (0, 1]: 1 approximates GELU; 0.5 is the paper's regularised function, which a network must be
    trained with (HeatViT section IV-E).
    """
    if not 0 < delta1 <= 1:
        raise ValueError(f"delta1 must be in (0, 1], not {delta1!r}")
    return round(delta1 * (1 << 15)), round(delta1 * ERF_CURVE * (1 << 15))


def has_minimum(delta1: float) -> bool:
    """Whether GELU is at least GELU_MIN everywhere; with a delta1 below 1 it falls without end."""
    return delta1 == 1


def gelu_offset(scale: float, delta1: float) -> int:
    """Return the Q11 code, in GELU_OFFSET_MIN..0, that `gelu` adds so that int8 codes of `scale` begin at its minimum.

    GELU is hardly negative: with code 0 for 0, nearly half of the codes would stand for nothing. Without a minimum the
    codes are symmetrical.
    """
    if not has_minimum(delta1):
        return 0
    return max(min(-round((128 * scale + GELU_MIN) / GELU_OFFSET_SCALE), 0), GELU_OFFSET_MIN)


def gelu(x_i16: Array, one: int, curve: int, offset: int) -> Array:
    """Polynomial GELU plus offset, Q5.10 and Q11 in, Q26 out (a value of 32 bits): x/2 * (1 + L_erf(x / sqrt(2))).

    L = delta1 * (1 - 0.1444 * (min(|x|, 2.502) - 2.502)**2), odd in x. Source: HeatViT Eq. 11-12.
    offset in GELU_OFFSET_MIN..0. Against the same in float: error <= 3e-4 + 2**-13 * |x|. RTL twin: hw/rtl/gelu.py.
    """
    xp = array_namespace(x_i16)
    magnitude = xp.abs(x_i16)
    below_knee = ERF_KNEE_Q10 - xp.clip(magnitude, 0, ERF_KNEE_Q10)
    square_q13 = (below_knee * below_knee) >> 7
    erf_q15 = one - round_half_up(square_q13 * curve, 13)
    return ((x_i16 + offset) << 15) + magnitude * erf_q15


def sigmoid(x_i16: Array) -> Array:
    """PLAN sigmoid, Q5.10 in, u8 with 8 fraction bits out (1.0 saturates to 255).

    Error against PLAN in float <= 2**-8; against the sigmoid <= 0.0189 + 2**-8. RTL twin: hw/rtl/sigmoid.py.
    """
    xp = array_namespace(x_i16)
    magnitude = xp.abs(x_i16)
    y_q15 = xp.where(
        magnitude >= 5 << 10,
        xp.full_like(magnitude, 1 << 15),
        xp.where(
            magnitude >= 2432,  # 2.375
            magnitude + 27648,  # |x|/32 + 27/32
            xp.where(magnitude >= 1 << 10, (magnitude << 2) + 20480, (magnitude << 3) + 16384),
        ),
    )
    y_q15 = xp.where(x_i16 < 0, (1 << 15) - y_q15, y_q15)
    return xp.clip(round_half_up(y_q15, 7), 0, 255)


def exp2_negative(distance_u16: Array) -> Array:
    """7-bit exponential 128 * 2**-(distance / 256), saturated to 127; 0..65535 in, 0..127 out.

    The fraction uses HeatViT's quadratic (Eq. 14). Error against 128 * 2**-d <= 1.0 (one code).
    RTL twin: hw/rtl/softmax.py.
    """
    xp = array_namespace(distance_u16)
    whole, fraction = distance_u16 >> SCORE_FRACTION_BITS, distance_u16 & 255
    base_q12 = EXP_CENTRE_Q12 - (fraction << 4)
    square_q15 = (base_q12 * base_q12) >> 9
    power_q15 = ((square_q15 * EXP_SCALE_Q16) >> 16) + EXP_OFFSET_Q15
    return xp.clip(round_half_up(power_q15, xp.clip(whole, 0, 15) + 8), 0, EXP_MAX)


def softmax_rows(score_i16: Array, valid: Array) -> tuple[Array, Array]:
    """Un-normalised softmax over the last axis: (exponentials 0..127, their row sums).

    score_i16 (..., N) in log2 units with 8 fraction bits; valid (..., N) bool that broadcasts, at least one true
    per row. Invalid columns give 0. The division is deferred: see `row_scale`.
    """
    xp = array_namespace(score_i16)
    peak = xp.max(xp.where(valid, score_i16, xp.full_like(score_i16, -(1 << 15))), axis=-1, keepdims=True)
    # An invalid column may lie above the peak; it is masked below, the clip only keeps the shift count sane.
    exponential = xp.where(valid, exp2_negative(xp.clip(peak - score_i16, 0, 65535)), xp.zeros_like(score_i16))
    return exponential, xp.sum(exponential, axis=-1)


def row_scale(row_sum: Array, mult: int, shift: int) -> tuple[Array, Array]:
    """Return (mult_u16, shift) of each row so that requantize(acc, ...) gives acc * mult * 2**-shift / row_sum.

    row_sum int64 in 0..131071, 0 counts as 1; mult in [2**15, 2**16); shift 0..31. The sum is normalised to
    17 bits first, so the quotient keeps at least 14 significant bits; it is floored.
    RTL twin: hw/rtl/row_scale.py.
    """
    xp = array_namespace(row_sum)
    norm = xp.clip(row_sum, 1, (1 << 17) - 1)
    lead = xp.zeros_like(norm)
    for step in (16, 8, 4, 2, 1):
        is_short = norm < (1 << (17 - step))
        norm = xp.where(is_short, norm << step, norm)
        lead = xp.where(is_short, lead + step, lead)
    return (mult << 16) // norm, shift + 16 - lead


def integer_sqrt(x_u32: Array) -> Array:
    """Floor of the square root of 0..2**32-1, bit by bit: 16 steps, as the RTL does it."""
    xp = array_namespace(x_u32)
    root = xp.zeros_like(x_u32)
    for bit in range(15, -1, -1):
        trial = root + (1 << bit)
        root = xp.where(trial * trial <= x_u32, trial, root)
    return root


def reciprocal_sqrt(variance: Array) -> tuple[Array, Array]:
    """Return (mult_u16, shift): requantize by them multiplies by 2**10 / sqrt(variance).

    variance int64 in 1..2**53-1. Relative error <= 2**-14. Source: our own; see docs/architecture.md.
    RTL twin: hw/rtl/reciprocal_sqrt.py.
    """
    xp = array_namespace(variance)
    bits = xp.zeros_like(variance)
    rest = variance
    for step in (32, 16, 8, 4, 2, 1):
        is_long = rest >= (1 << step)
        rest = xp.where(is_long, rest >> step, rest)
        bits = xp.where(is_long, bits + step, bits)
    half_shift = (bits - 30) >> 1  # bit length minus 31, halved: the normalised value has 31 or 32 bits
    right, left = xp.clip(2 * half_shift, 0, 62), xp.clip(-2 * half_shift, 0, 62)
    root = integer_sqrt((variance >> right) << left)
    return xp.clip((1 << 31) // root, 0, 65535), half_shift + 21


def layer_norm(x_i16: Array, gamma_i16: Array, beta_i32: Array, shift: int, eps: int) -> Array:
    """LayerNorm over the last axis, int16 in, int8 out.

    x_i16 (..., D), D <= 1024; gamma_i16 and beta_i32 (D,); eps 1..2**32-1 in units of (x * D)**2. With
    n = D*x - sum(x) and v = D*sum(x**2) - sum(x)**2 + eps, the normalised value is n / sqrt(v) in Q5.10 and
    out = sat8((norm * gamma + beta + half) >> shift). Mean and variance are exact integers.
    Against float LayerNorm: error of the normalised value <= 2**-10 + 2**-13 * |value|. RTL twin: hw/rtl/layernorm.py.
    """
    xp = array_namespace(x_i16)
    size = x_i16.shape[-1]
    total = xp.sum(x_i16, axis=-1, keepdims=True)
    variance = size * xp.sum(x_i16 * x_i16, axis=-1, keepdims=True) - total * total + eps
    mult, rsqrt_shift = reciprocal_sqrt(variance)
    norm_i16 = requantize(size * x_i16 - total, mult, rsqrt_shift, 16)
    return saturate(round_half_up(norm_i16 * gamma_i16 + beta_i32, shift), 8)


def keep_scores(token_u8: Array, head_u8: Array) -> Array:
    """Head-weighted keep score of each token, u16 with 16 fraction bits.

    token_u8 (..., N, H) keep probability of each head, head_u8 (..., N, H) importance of each head, both u8 with
    8 fraction bits. score = floor(256 * sum(t*a) / sum(a)); a token whose importances are all zero weighs its
    heads equally. A token is kept iff its score >= the threshold. Source: HeatViT section on the token selector.
    RTL twin: hw/rtl/selector.py.
    """
    xp = array_namespace(token_u8)
    is_unweighted = xp.sum(head_u8, axis=-1, keepdims=True) == 0
    head = xp.where(is_unweighted, xp.ones_like(head_u8), head_u8)
    return (xp.sum(token_u8 * head, axis=-1) << 8) // xp.sum(head, axis=-1)


def package_token(x_i16: Array, score_u16: Array, pruned: Array) -> Array:
    """Score-weighted mean of the pruned tokens, int16.

    x_i16 (..., N, D); score_u16 (..., N); pruned (..., N) bool, at least one true for a meaningful result.
    The weight of a token is its score >> 8; if all weights are zero, every pruned token weighs one.
    N <= 256 keeps the sum inside 32 bits. Source: HeatViT Eq. 10. RTL twin: hw/rtl/selector.py.
    """
    xp = array_namespace(x_i16)
    weight = xp.where(pruned, score_u16 >> 8, xp.zeros_like(score_u16))
    is_weightless = xp.sum(weight, axis=-1, keepdims=True) == 0
    ones = xp.where(pruned, xp.ones_like(score_u16), xp.zeros_like(score_u16))
    weight = xp.where(is_weightless, ones, weight)
    mult, shift = row_scale(xp.sum(weight, axis=-1), 1 << 15, 15)
    total = xp.sum(weight[..., None] * x_i16, axis=-2)
    return requantize(total, mult[..., None], shift[..., None], 16)
