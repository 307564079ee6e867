// How a kernel meets its tokens. A kernel is a struct with a static `row` that computes one token from arrays; the functions
// here call it for every token of an io_parallel array or of an io_stream FIFO, one word a token.
#ifndef HEATVIT_ROWS_H_
#define HEATVIT_ROWS_H_

#include "hls_stream.h"
#include "nnet_types.h"

namespace nnet {

// A word of a stream as a plain array, and back.
template <class word_T, class value_T> void heatvit_unpack(const word_T &word, value_T values[word_T::size]) {
    #pragma HLS INLINE
Unpack:
    for (unsigned i = 0; i < word_T::size; i++) {
        #pragma HLS UNROLL
        values[i] = word[i];
    }
}

template <class word_T, class value_T> word_T heatvit_pack(const value_T values[word_T::size]) {
    #pragma HLS INLINE
    word_T word;
Pack:
    for (unsigned i = 0; i < word_T::size; i++) {
        #pragma HLS UNROLL
        word[i] = values[i];
    }
    return word;
}

// One input without parameters.
template <class KERNEL, class CONFIG_T, class data_T, class res_T>
void heatvit_rows(const data_T data[], res_T res[]) {
Tokens:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        KERNEL::template row<CONFIG_T>(data + t * CONFIG_T::n_in, res + t * CONFIG_T::n_out);
    }
}

template <class KERNEL, class CONFIG_T, class data_T, class res_T>
void heatvit_rows(hls::stream<data_T> &data, hls::stream<res_T> &res) {
Tokens:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        typename data_T::value_type row[CONFIG_T::n_in];
        typename res_T::value_type out[CONFIG_T::n_out];
        heatvit_unpack(data.read(), row);
        KERNEL::template row<CONFIG_T>(row, out);
        res.write(heatvit_pack<res_T>(out));
    }
}

// One input and two arrays of parameters a channel.
template <class KERNEL, class CONFIG_T, class data_T, class res_T, class first_T, class second_T>
void heatvit_rows(const data_T data[], res_T res[], const first_T first[], const second_T second[]) {
Tokens:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        KERNEL::template row<CONFIG_T>(data + t * CONFIG_T::n_in, res + t * CONFIG_T::n_out, first, second);
    }
}

template <class KERNEL, class CONFIG_T, class data_T, class res_T, class first_T, class second_T>
void heatvit_rows(hls::stream<data_T> &data, hls::stream<res_T> &res, const first_T first[], const second_T second[]) {
Tokens:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        typename data_T::value_type row[CONFIG_T::n_in];
        typename res_T::value_type out[CONFIG_T::n_out];
        heatvit_unpack(data.read(), row);
        KERNEL::template row<CONFIG_T>(row, out, first, second);
        res.write(heatvit_pack<res_T>(out));
    }
}

// Two inputs of a token each.
template <class KERNEL, class CONFIG_T, class left_T, class right_T, class res_T>
void heatvit_row_pairs(const left_T left[], const right_T right[], res_T res[]) {
Tokens:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        KERNEL::template row<CONFIG_T>(t, left + t * CONFIG_T::n_in, right + t * CONFIG_T::n_in, res + t * CONFIG_T::n_out);
    }
}

template <class KERNEL, class CONFIG_T, class left_T, class right_T, class res_T>
void heatvit_row_pairs(hls::stream<left_T> &left, hls::stream<right_T> &right, hls::stream<res_T> &res) {
Tokens:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        typename left_T::value_type row_left[CONFIG_T::n_in];
        typename right_T::value_type row_right[CONFIG_T::n_in];
        typename res_T::value_type out[CONFIG_T::n_out];
        heatvit_unpack(left.read(), row_left);
        heatvit_unpack(right.read(), row_right);
        KERNEL::template row<CONFIG_T>(t, row_left, row_right, out);
        res.write(heatvit_pack<res_T>(out));
    }
}

} // namespace nnet

#endif
