// Polynomial GELU and the requantize behind it, Q5.10 to int8. Golden: quant.approx.gelu in quant.layers.gelu_linear.
#ifndef HEATVIT_GELU_H_
#define HEATVIT_GELU_H_

#include "heatvit_fixed.h"
#include "heatvit_rows.h"

namespace nnet {

// Q26 of x/2 * (1 + L_erf(x / sqrt(2))) + OFFSET for x in Q5.10, OFFSET in Q11. ONE is delta1 in Q15, CURVE
// delta1 * 0.1444 in Q15.
template <int ONE, int CURVE, int OFFSET> ap_int<33> heatvit_gelu_q26(ap_int<16> x) {
    #pragma HLS INLINE
    const int knee = 2562; // 1.769 * sqrt(2) in Q10
    ap_uint<16> magnitude = x < 0 ? ap_uint<16>(-ap_int<17>(x)) : ap_uint<16>(x);
    ap_uint<12> below = magnitude < knee ? ap_uint<12>(knee - magnitude) : ap_uint<12>(0);
    ap_uint<17> square = ap_uint<24>(below * below) >> 7;
    ap_int<31> bend = square * ap_uint<13>(CURVE);
    ap_int<17> erf = ONE - heatvit_round(bend, 13);
    return (ap_int<33>(x + OFFSET) << 15) + ap_int<33>(magnitude * erf);
}

struct heatvit_gelu_kernel {
    template <class CONFIG_T, class data_T, class res_T> static void row(const data_T data[], res_T res[]) {
    Channels:
        for (unsigned c = 0; c < CONFIG_T::n_out; c++) {
            #pragma HLS UNROLL
            ap_int<33> active = heatvit_gelu_q26<CONFIG_T::one, CONFIG_T::curve, CONFIG_T::out_offset>(data[c]);
            res[c] = heatvit_requantize<8>(active, CONFIG_T::out_mult, CONFIG_T::out_shift);
        }
    }
};

} // namespace nnet

#endif
