// int32 accumulators to int8 or int16, a multiplier and a shift for every output channel. Golden: quant.layers.linear.
#ifndef HEATVIT_REQUANTIZE_H_
#define HEATVIT_REQUANTIZE_H_

#include "heatvit_fixed.h"
#include "heatvit_rows.h"

namespace nnet {

struct heatvit_requantize_kernel {
    template <class CONFIG_T, class data_T, class res_T>
    static void row(const data_T data[], res_T res[], const heatvit_mult_t mult[], const heatvit_shift_t shift[]) {
    Channels:
        for (unsigned c = 0; c < CONFIG_T::n_out; c++) {
            #pragma HLS UNROLL
            res[c] = heatvit_requantize<res_T::width>(ap_int<32>(data[c]), mult[c], shift[c]);
        }
    }
};

// sat16(residual + result): the new residual stream. Golden: quant.layers.residual_linear.
struct heatvit_residual_kernel {
    template <class CONFIG_T, class left_T, class right_T, class res_T>
    static void row(unsigned, const left_T residual[], const right_T result[], res_T res[]) {
    Channels:
        for (unsigned c = 0; c < CONFIG_T::n_out; c++) {
            #pragma HLS UNROLL
            res[c] = heatvit_saturate<16>(ap_int<17>(ap_int<16>(residual[c]) + ap_int<16>(result[c])));
        }
    }
};

} // namespace nnet

#endif
