// PLAN sigmoid, Q5.10 to u8 with 8 fraction bits. Golden: quant.approx.sigmoid.
#ifndef HEATVIT_SIGMOID_H_
#define HEATVIT_SIGMOID_H_

#include "heatvit_fixed.h"
#include "heatvit_rows.h"

namespace nnet {

inline ap_uint<8> heatvit_sigmoid(ap_int<16> x) {
    #pragma HLS INLINE
    ap_uint<16> magnitude = x < 0 ? ap_uint<16>(-ap_int<17>(x)) : ap_uint<16>(x);
    ap_uint<16> right; // of the value at |x|, Q15
    if (magnitude >= 5120) // 5
        right = 32768;
    else if (magnitude >= 2432) // 2.375: |x|/32 + 27/32
        right = magnitude + 27648;
    else if (magnitude >= 1024) // 1: |x|/8 + 5/8
        right = (magnitude << 2) + 20480;
    else // |x|/4 + 1/2
        right = (magnitude << 3) + 16384;
    ap_int<17> value = x < 0 ? ap_int<17>(32768 - right) : ap_int<17>(right);
    ap_int<18> rounded = heatvit_round(value, 7);
    return rounded > 255 ? ap_uint<8>(255) : ap_uint<8>(rounded);
}

struct heatvit_sigmoid_kernel {
    template <class CONFIG_T, class data_T, class res_T> static void row(const data_T data[], res_T res[]) {
    Channels:
        for (unsigned c = 0; c < CONFIG_T::n_out; c++) {
            #pragma HLS UNROLL
            res[c] = heatvit_sigmoid(data[c]);
        }
    }
};

} // namespace nnet

#endif
