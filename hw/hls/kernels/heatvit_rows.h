// How a kernel meets its tokens. A kernel is a struct with a static `row` that computes one token from arrays; the functions
// here call it for every token of an io_parallel array or of an io_stream FIFO, one word a token.
#ifndef HEATVIT_ROWS_H_
#define HEATVIT_ROWS_H_

#include "hls_stream.h"
#include "nnet_types.h"

namespace nnet {

// A word of a stream, or row `t` of an array, as values of a token of its own, and back. Copies, because a pointer into an array
// that is split into registers is nothing that hardware has.
template <class word_T, class value_T> void heatvit_read(hls::stream<word_T> &stream, unsigned, value_T values[word_T::size]) {
    #pragma HLS INLINE
    word_T word = stream.read();
Unpack:
    for (unsigned i = 0; i < word_T::size; i++) {
        #pragma HLS UNROLL
        values[i] = word[i];
    }
}

template <unsigned SIZE, class value_T> void heatvit_read(const value_T rows[], unsigned t, value_T values[SIZE]) {
    #pragma HLS INLINE
Copy:
    for (unsigned i = 0; i < SIZE; i++) {
        #pragma HLS UNROLL
        values[i] = rows[t * SIZE + i];
    }
}

template <class word_T, class value_T>
void heatvit_write(const value_T values[word_T::size], hls::stream<word_T> &stream, unsigned) {
    #pragma HLS INLINE
    word_T word;
Pack:
    for (unsigned i = 0; i < word_T::size; i++) {
        #pragma HLS UNROLL
        word[i] = values[i];
    }
    stream.write(word);
}

template <unsigned SIZE, class value_T> void heatvit_write(const value_T values[SIZE], value_T rows[], unsigned t) {
    #pragma HLS INLINE
Copy:
    for (unsigned i = 0; i < SIZE; i++) {
        #pragma HLS UNROLL
        rows[t * SIZE + i] = values[i];
    }
}

// One input without parameters.
template <class KERNEL, class CONFIG_T, class data_T, class res_T> void heatvit_rows(const data_T data[], res_T res[]) {
Tokens:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        data_T row[CONFIG_T::n_in];
        res_T out[CONFIG_T::n_out];
        heatvit_read<CONFIG_T::n_in>(data, t, row);
        KERNEL::template row<CONFIG_T>(row, out);
        heatvit_write<CONFIG_T::n_out>(out, res, t);
    }
}

template <class KERNEL, class CONFIG_T, class data_T, class res_T>
void heatvit_rows(hls::stream<data_T> &data, hls::stream<res_T> &res) {
Tokens:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        typename data_T::value_type row[CONFIG_T::n_in];
        typename res_T::value_type out[CONFIG_T::n_out];
        heatvit_read(data, t, row);
        KERNEL::template row<CONFIG_T>(row, out);
        heatvit_write(out, res, t);
    }
}

// One input and two arrays of parameters a channel.
template <class KERNEL, class CONFIG_T, class data_T, class res_T, class first_T, class second_T>
void heatvit_rows(const data_T data[], res_T res[], const first_T first[], const second_T second[]) {
Tokens:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        data_T row[CONFIG_T::n_in];
        res_T out[CONFIG_T::n_out];
        heatvit_read<CONFIG_T::n_in>(data, t, row);
        KERNEL::template row<CONFIG_T>(row, out, first, second);
        heatvit_write<CONFIG_T::n_out>(out, res, t);
    }
}

template <class KERNEL, class CONFIG_T, class data_T, class res_T, class first_T, class second_T>
void heatvit_rows(hls::stream<data_T> &data, hls::stream<res_T> &res, const first_T first[], const second_T second[]) {
Tokens:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        typename data_T::value_type row[CONFIG_T::n_in];
        typename res_T::value_type out[CONFIG_T::n_out];
        heatvit_read(data, t, row);
        KERNEL::template row<CONFIG_T>(row, out, first, second);
        heatvit_write(out, res, t);
    }
}

// Two inputs of a token each; the kernel is told which token it is.
template <class KERNEL, class CONFIG_T, class left_T, class right_T, class res_T>
void heatvit_row_pairs(const left_T left[], const right_T right[], res_T res[]) {
Tokens:
    for (unsigned t = 0; t < CONFIG_T::n_tokens; t++) {
        #pragma HLS PIPELINE
        left_T row_left[CONFIG_T::n_in];
        right_T row_right[CONFIG_T::n_in];
        res_T out[CONFIG_T::n_out];
        heatvit_read<CONFIG_T::n_in>(left, t, row_left);
        heatvit_read<CONFIG_T::n_in>(right, t, row_right);
        KERNEL::template row<CONFIG_T>(t, row_left, row_right, out);
        heatvit_write<CONFIG_T::n_out>(out, res, t);
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
        heatvit_read(left, t, row_left);
        heatvit_read(right, t, row_right);
        KERNEL::template row<CONFIG_T>(t, row_left, row_right, out);
        heatvit_write(out, res, t);
    }
}

} // namespace nnet

#endif
