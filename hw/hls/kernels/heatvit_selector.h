// What is a token selector's own: the mean over the live tokens beside every token, and the keep score of a token.
#ifndef HEATVIT_SELECTOR_H_
#define HEATVIT_SELECTOR_H_

#include "heatvit_fixed.h"
#include "heatvit_rows.h"

namespace nnet {

// Every token with the int8 mean over tokens 1..live-1 behind it: n_in channels give 2 * n_in. A row beyond the live ones gets
// the mean too. Golden: quant.layers.pooled_mean, and the concatenation in quant.reference.
template <class CONFIG_T, class value_T>
void heatvit_mean(const value_T rows[], unsigned live, ap_int<8> mean[CONFIG_T::n_in]) {
    heatvit_scale scale = heatvit_row_scale(live - 1, CONFIG_T::pool_mult, CONFIG_T::pool_shift);
Channels:
    for (unsigned c = 0; c < CONFIG_T::n_in; c++) {
        ap_int<17> total = 0;
    Tokens:
        for (unsigned t = 1; t < CONFIG_T::n_tokens; t++) {
            #pragma HLS PIPELINE
            ap_int<8> x = rows[t * CONFIG_T::n_in + c];
            if (t < live)
                total += x == -128 ? ap_int<8>(-127) : x; // the array that shares this sum has symmetric weights
        }
        mean[c] = heatvit_requantize<8>(total, scale.mult, scale.shift);
    }
}

template <class CONFIG_T, class data_T, class live_T, class res_T>
void heatvit_mean_join(const data_T data[], const live_T live[], res_T res[]) {
    ap_int<8> mean[CONFIG_T::n_in];
    heatvit_mean<CONFIG_T>(data, live[0].to_uint(), mean);
Tokens:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        for (unsigned c = 0; c < CONFIG_T::n_in; c++) {
            res[t * CONFIG_T::n_out + c] = data[t * CONFIG_T::n_in + c];
            res[t * CONFIG_T::n_out + CONFIG_T::n_in + c] = mean[c];
        }
    }
}

template <class CONFIG_T, class data_T, class live_T, class res_T>
void heatvit_mean_join(hls::stream<data_T> &data, hls::stream<live_T> &live, hls::stream<res_T> &res) {
    ap_int<8> rows[CONFIG_T::n_tokens * CONFIG_T::n_in], mean[CONFIG_T::n_in];
Read:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        heatvit_unpack(data.read(), rows + t * CONFIG_T::n_in);
    }
    heatvit_mean<CONFIG_T>(rows, live.read()[0].to_uint(), mean);
Write:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        res_T word;
        for (unsigned c = 0; c < CONFIG_T::n_in; c++) {
            #pragma HLS UNROLL
            word[c] = rows[t * CONFIG_T::n_in + c];
            word[CONFIG_T::n_in + c] = mean[c];
        }
        res.write(word);
    }
}

// Keep score of a token from its n_in keep probabilities and head importances, u16; CLS, token 0, has the highest.
// Golden: quant.approx.keep_scores, quant.layers.CLS_SCORE.
struct heatvit_keep_score_kernel {
    template <class CONFIG_T, class left_T, class right_T, class res_T>
    static void row(unsigned token, const left_T probability[], const right_T importance[], res_T res[]) {
        ap_uint<20> weighted = 0, plain = 0;
        ap_uint<12> total = 0;
    Heads:
        for (unsigned h = 0; h < CONFIG_T::n_in; h++) {
            #pragma HLS UNROLL
            weighted += probability[h] * importance[h];
            plain += probability[h];
            total += importance[h];
        }
        // Without any importance all heads weigh the same.
        ap_uint<28> dividend = ap_uint<28>(total == 0 ? plain : weighted) << 8;
        ap_uint<12> divisor = total == 0 ? ap_uint<12>(CONFIG_T::n_in) : total;
        res[0] = token == 0 ? ap_uint<16>(65535) : ap_uint<16>(dividend / divisor);
    }
};

} // namespace nnet

#endif
