// LayerNorm of one token over its channels, int16 to int8, n_in <= 1024. Golden: quant.approx.layer_norm.
#ifndef HEATVIT_LAYER_NORM_H_
#define HEATVIT_LAYER_NORM_H_

#include "heatvit_fixed.h"
#include "heatvit_rows.h"

namespace nnet {

// Floor of the square root, two bits of the operand at a time, without a multiplication. Golden: quant.approx.integer_sqrt.
inline ap_uint<16> heatvit_integer_sqrt(ap_uint<32> x) {
    ap_uint<19> rest = 0;
    ap_uint<16> root = 0;
Digits:
    for (int i = 0; i < 16; i++) {
        #pragma HLS UNROLL
        rest = (rest << 2) | ap_uint<19>(x >> 30);
        x <<= 2;
        ap_uint<19> trial = (ap_uint<19>(root) << 2) | 1;
        root <<= 1;
        if (rest >= trial) {
            rest -= trial;
            root[0] = 1;
        }
    }
    return root;
}

// Multiplier and shift of 2**10 / sqrt(variance), variance 1..2**53-1. Golden: quant.approx.reciprocal_sqrt.
inline heatvit_scale heatvit_reciprocal_sqrt(ap_uint<53> variance) {
    int exponent = 0;
Length:
    for (int i = 1; i < 53; i++) {
        #pragma HLS UNROLL
        if (variance[i])
            exponent = i;
    }
    // The normalised variance has 31 or 32 bits; it moves by an even number of them.
    int half = exponent >= 30 ? (exponent - 30) / 2 : -((31 - exponent) / 2);
    ap_uint<32> normalised = half >= 0 ? ap_uint<32>(variance >> (2 * half)) : ap_uint<32>(variance << (-2 * half));
    ap_uint<32> quotient = ap_uint<32>(1u << 31) / heatvit_integer_sqrt(normalised);
    heatvit_scale scale;
    scale.mult = quotient > 65535 ? ap_uint<16>(65535) : ap_uint<16>(quotient);
    scale.shift = half + 21;
    return scale;
}

struct heatvit_layer_norm_kernel {
    template <class CONFIG_T, class data_T, class res_T>
    static void row(const data_T data[], res_T res[], const ap_int<16> gamma[], const ap_int<32> beta[]) {
        ap_int<26> total = 0;
        ap_uint<41> squares = 0;
    Sums:
        for (unsigned c = 0; c < CONFIG_T::n_in; c++) {
            ap_int<16> x = data[c];
            total += x;
            squares += ap_uint<31>(x * x);
        }
        const ap_uint<11> size = CONFIG_T::n_in;
        // n * sum(x**2) is never below sum(x)**2, so the difference needs no sign.
        ap_uint<53> variance = ap_int<54>(size * squares) - ap_int<54>(total * total) + ap_int<54>(CONFIG_T::eps);
        heatvit_scale scale = heatvit_reciprocal_sqrt(variance);
    Channels:
        for (unsigned c = 0; c < CONFIG_T::n_out; c++) {
            ap_int<28> centred = ap_int<28>(ap_int<16>(data[c]) * ap_int<12>(size)) - total;
            ap_int<16> norm = heatvit_requantize<16>(centred, scale.mult, scale.shift);
            ap_int<34> affine = norm * gamma[c] + beta[c];
            res[c] = heatvit_saturate<8>(heatvit_round(affine, CONFIG_T::shift));
        }
    }
};

} // namespace nnet

#endif
