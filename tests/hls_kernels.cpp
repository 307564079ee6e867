// The kernels of hw/hls/kernels behind a C interface of 64-bit values, for tests/test_hw_hls_kernels.py.
#include "ap_fixed.h"
#include "ap_int.h"

#include "heatvit_gelu.h"
#include "heatvit_layer_norm.h"
#include "heatvit_requantize.h"
#include "heatvit_selector.h"
#include "heatvit_sigmoid.h"
#include "heatvit_softmax.h"

#include <vector>

typedef long long i64;

// Sizes and constants that a project fixes when it is compiled, here set by each call.
struct Config {
    static i64 n_tokens, n_in, n_out, shift, eps, pool_mult, pool_shift;
};
i64 Config::n_tokens, Config::n_in, Config::n_out, Config::shift, Config::eps, Config::pool_mult, Config::pool_shift;

struct MeanConfig : Config {
    static const i64 n_tokens = 9, n_in = 3, n_out = 6;
};

struct SelectConfig {
    static const i64 n_tokens = 9, n_in = 2, threshold = 32768;
};

template <class T> static std::vector<T> typed(const i64 *values, i64 count) {
    return std::vector<T>(values, values + count);
}

extern "C" {

void requantize(const i64 *acc, const i64 *mult, const i64 *shift, i64 *int8, i64 *int16, i64 count) {
    for (i64 i = 0; i < count; i++) {
        int8[i] = nnet::heatvit_requantize<8>(ap_int<32>(acc[i]), mult[i], shift[i]).to_int64();
        int16[i] = nnet::heatvit_requantize<16>(ap_int<32>(acc[i]), mult[i], shift[i]).to_int64();
    }
}

void residual(const i64 *left, const i64 *right, i64 *result, i64 count) {
    Config::n_out = count;
    std::vector<ap_int<16>> a = typed<ap_int<16>>(left, count), b = typed<ap_int<16>>(right, count), sum(count);
    nnet::heatvit_residual_kernel::row<Config>(0, a.data(), b.data(), sum.data());
    for (i64 i = 0; i < count; i++)
        result[i] = sum[i].to_int64();
}

void gelu(const i64 *x, i64 *full, i64 *half, i64 count) {
    for (i64 i = 0; i < count; i++) {
        full[i] = nnet::heatvit_gelu_q26<ONE_FULL, CURVE_FULL, -2345>(x[i]).to_int64();
        half[i] = nnet::heatvit_gelu_q26<ONE_HALF, CURVE_HALF, 0>(x[i]).to_int64();
    }
}

void sigmoid(const i64 *x, i64 *result, i64 count) {
    for (i64 i = 0; i < count; i++)
        result[i] = nnet::heatvit_sigmoid(x[i]).to_int64();
}

void integer_sqrt(const i64 *x, i64 *result, i64 count) {
    for (i64 i = 0; i < count; i++)
        result[i] = nnet::heatvit_integer_sqrt(x[i]).to_int64();
}

void reciprocal_sqrt(const i64 *x, i64 *mult, i64 *shift, i64 count) {
    for (i64 i = 0; i < count; i++) {
        nnet::heatvit_scale scale = nnet::heatvit_reciprocal_sqrt(x[i]);
        mult[i] = scale.mult.to_int64();
        shift[i] = scale.shift.to_int64();
    }
}

void row_scale(const i64 *sum, i64 mult, i64 shift, i64 *row_mult, i64 *row_shift, i64 count) {
    for (i64 i = 0; i < count; i++) {
        nnet::heatvit_scale scale = nnet::heatvit_row_scale(sum[i], mult, shift);
        row_mult[i] = scale.mult.to_int64();
        row_shift[i] = scale.shift.to_int64();
    }
}

void layer_norm(const i64 *x, const i64 *gamma, const i64 *beta, i64 shift, i64 eps, i64 *result, i64 size) {
    Config::n_in = Config::n_out = size;
    Config::shift = shift;
    Config::eps = eps;
    std::vector<ap_int<16>> data = typed<ap_int<16>>(x, size), scale = typed<ap_int<16>>(gamma, size);
    std::vector<ap_int<32>> offset = typed<ap_int<32>>(beta, size);
    std::vector<ap_int<8>> norm(size);
    nnet::heatvit_layer_norm_kernel::row<Config>(data.data(), norm.data(), scale.data(), offset.data());
    for (i64 i = 0; i < size; i++)
        result[i] = norm[i].to_int64();
}

void softmax(const i64 *scores, i64 live, i64 *result, i64 size) {
    Config::n_in = size;
    std::vector<ap_int<16>> row = typed<ap_int<16>>(scores, size);
    std::vector<ap_uint<8>> out(size);
    nnet::heatvit_softmax_row<Config>(row.data(), live, out.data());
    for (i64 i = 0; i < size; i++)
        result[i] = out[i].to_int64();
}

void mean(const i64 *rows, i64 live, i64 mult, i64 shift, i64 *result) {
    Config::pool_mult = mult;
    Config::pool_shift = shift;
    std::vector<ap_int<8>> data = typed<ap_int<8>>(rows, MeanConfig::n_tokens * MeanConfig::n_in);
    ap_int<8> out[MeanConfig::n_in];
    nnet::heatvit_mean<MeanConfig>(data.data(), live, out);
    for (i64 i = 0; i < MeanConfig::n_in; i++)
        result[i] = out[i].to_int64();
}

void keep_score(i64 token, const i64 *probability, const i64 *importance, i64 *result, i64 heads) {
    Config::n_in = heads;
    std::vector<ap_uint<8>> keep = typed<ap_uint<8>>(probability, heads), weight = typed<ap_uint<8>>(importance, heads);
    ap_uint<16> score[1];
    nnet::heatvit_keep_score_kernel::row<Config>(token, keep.data(), weight.data(), score);
    result[0] = score[0].to_int64();
}

void selection(const i64 *rows, const i64 *score, i64 live, i64 has_package, i64 *result) {
    const i64 tokens = SelectConfig::n_tokens, channels = SelectConfig::n_in;
    std::vector<ap_int<16>> data = typed<ap_int<16>>(rows, tokens * channels), out((tokens + 1) * channels);
    std::vector<ap_uint<16>> scores = typed<ap_uint<16>>(score, tokens);
    nnet::heatvit_select<SelectConfig>(data.data(), scores.data(), live, has_package != 0, out.data());
    for (i64 i = 0; i < (tokens + 1) * channels; i++)
        result[i] = out[i].to_int64();
}
}
