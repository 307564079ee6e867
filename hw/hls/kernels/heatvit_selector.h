// What is a token selector's own: the mean over the live tokens beside every token, the keep score of a token, and the selection.
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
        ap_int<8> row[CONFIG_T::n_in];
        heatvit_read(data, t, row);
        heatvit_write<CONFIG_T::n_in>(row, rows, t);
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

// The tokens that stay, moved together in their order, and the package of the others behind them. state[0] is the number of live
// rows, state[1] says whether the last of them is an earlier package. The result starts with a header: the number of rows that
// follow, and whether the last is a package. Rows behind them are zero.
// Golden: quant.layers.select, quant.approx.package_token, and the compaction in quant.reference.
template <class CONFIG_T, class value_T, class score_T, class res_T>
void heatvit_select(const value_T rows[], const score_T score[], unsigned live, bool has_package, res_T res[]) {
    bool kept[CONFIG_T::n_tokens], merged[CONFIG_T::n_tokens];
    ap_uint<17> weights = 0, count = 0;
Decide:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        bool is_package = has_package && t == live - 1;
        kept[t] = t < live && !is_package && score[t] >= ap_uint<16>(CONFIG_T::threshold);
        merged[t] = t < live && !kept[t];
        if (merged[t]) {
            weights += ap_uint<8>(score[t] >> 8);
            count += 1;
        }
    }
    // Without any weight all merged tokens weigh the same.
    const bool is_weightless = weights == 0;
    heatvit_scale scale = heatvit_row_scale(is_weightless ? count : weights, 1 << 15, 15);
    unsigned rows_out = 0;
Move:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        if (kept[t]) {
            rows_out++;
        MoveChannels:
            for (unsigned c = 0; c < CONFIG_T::n_in; c++) {
                #pragma HLS PIPELINE
                res[rows_out * CONFIG_T::n_in + c] = rows[t * CONFIG_T::n_in + c];
            }
        }
    }
    if (count != 0) {
        rows_out++;
    Package:
        for (unsigned c = 0; c < CONFIG_T::n_in; c++) {
            ap_int<33> total = 0;
        Merge:
            for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
                #pragma HLS PIPELINE
                ap_uint<8> weight = is_weightless ? ap_uint<8>(1) : ap_uint<8>(score[t] >> 8);
                if (merged[t])
                    total += ap_int<16>(rows[t * CONFIG_T::n_in + c]) * weight;
            }
            res[rows_out * CONFIG_T::n_in + c] = heatvit_requantize<16>(total, scale.mult, scale.shift);
        }
    }
Header:
    for (unsigned c = 0; c < CONFIG_T::n_in; c++) {
        #pragma HLS PIPELINE
        res[c] = c == 0 ? ap_int<16>(rows_out) : ap_int<16>(c == 1 && count != 0);
    }
Clear:
    for (unsigned i = (rows_out + 1) * CONFIG_T::n_in; i < (CONFIG_T::n_tokens + 1) * CONFIG_T::n_in; i++) {
        #pragma HLS PIPELINE
        res[i] = 0;
    }
}

template <class CONFIG_T, class data_T, class score_T, class state_T, class res_T>
void heatvit_compact(const data_T data[], const score_T score[], const state_T state[], res_T res[]) {
    heatvit_select<CONFIG_T>(data, score, state[0].to_uint(), state[1] != 0, res);
}

template <class CONFIG_T, class data_T, class score_T, class state_T, class res_T>
void heatvit_compact(hls::stream<data_T> &data, hls::stream<score_T> &score, hls::stream<state_T> &state,
                     hls::stream<res_T> &res) {
    ap_int<16> rows[CONFIG_T::n_tokens * CONFIG_T::n_in], out[(CONFIG_T::n_tokens + 1) * CONFIG_T::n_in];
    ap_uint<16> scores[CONFIG_T::n_tokens];
Read:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        ap_int<16> row[CONFIG_T::n_in];
        heatvit_read(data, t, row);
        heatvit_write<CONFIG_T::n_in>(row, rows, t);
        scores[t] = score.read()[0];
    }
    state_T word = state.read();
    heatvit_select<CONFIG_T>(rows, scores, word[0].to_uint(), word[1] != 0, out);
Write:
    for (unsigned t = 0; t < CONFIG_T::n_tokens + 1; t++) {
        #pragma HLS PIPELINE
        ap_int<16> row[CONFIG_T::n_in];
        heatvit_read<CONFIG_T::n_in>(out, t, row);
        heatvit_write(row, res, t);
    }
}

} // namespace nnet

#endif
