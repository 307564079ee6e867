// Un-normalised polynomial softmax of one row of attention scores, int16 in log2 units to 0..127. Columns from the live count
// on give 0. The division is left to who uses the row: see heatvit_row_scale. Golden: quant.approx.softmax_rows.
#ifndef HEATVIT_SOFTMAX_H_
#define HEATVIT_SOFTMAX_H_

#include "heatvit_fixed.h"
#include "heatvit_rows.h"

namespace nnet {

// 128 * 2**-(distance / 256), at most 127. Golden: quant.approx.exp2_negative.
inline ap_uint<7> heatvit_exp2(ap_uint<16> distance) {
    #pragma HLS INLINE
    ap_uint<8> whole = distance >> 8, fraction = distance;
    ap_uint<13> base = 7995 - (ap_uint<13>(fraction) << 4);              // 1.353 / ln2 in Q12
    ap_uint<17> square = ap_uint<26>(base * base) >> 9;                  // Q15
    ap_int<18> power = (ap_uint<31>(square * ap_uint<14>(11288)) >> 16) + 11272; // 0.3585 * ln2**2 in Q16, 0.344 in Q15
    ap_int<19> rounded = heatvit_round(power, heatvit_shift_t(8 + (whole > 15 ? 15 : whole.to_int())));
    return rounded > 127 ? ap_uint<7>(127) : ap_uint<7>(rounded);
}

template <class CONFIG_T, class data_T, class res_T>
void heatvit_softmax_row(const data_T data[], unsigned live, res_T res[]) {
    ap_int<16> peak = -32768;
Peak:
    for (unsigned c = 0; c < CONFIG_T::n_in; c++) {
        if (c < live && data[c] > peak)
            peak = data[c];
    }
Exponentials:
    for (unsigned c = 0; c < CONFIG_T::n_in; c++) {
        #pragma HLS PIPELINE
        res[c] = c < live ? heatvit_exp2(ap_uint<16>(ap_int<17>(peak) - ap_int<17>(data[c]))) : ap_uint<7>(0);
    }
}

template <class CONFIG_T, class data_T, class live_T, class res_T>
void heatvit_softmax(const data_T data[], const live_T live[], res_T res[]) {
    heatvit_softmax_row<CONFIG_T>(data, live[0].to_uint(), res);
}

template <class CONFIG_T, class data_T, class live_T, class res_T>
void heatvit_softmax(hls::stream<data_T> &data, hls::stream<live_T> &live, hls::stream<res_T> &res) {
    typename data_T::value_type row[CONFIG_T::n_in];
    typename res_T::value_type out[CONFIG_T::n_in];
    heatvit_read(data, 0, row);
    heatvit_softmax_row<CONFIG_T>(row, live.read()[0].to_uint(), out);
    heatvit_write(out, res, 0);
}

} // namespace nnet

#endif
