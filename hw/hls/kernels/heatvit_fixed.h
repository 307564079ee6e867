// Rounding, saturation and requantization on exact widths. Golden: quant/fixed.py, and row_scale of quant/approx.py.
#ifndef HEATVIT_FIXED_H_
#define HEATVIT_FIXED_H_

#include "ap_int.h"
#include "hls_stream.h"

namespace nnet {

typedef ap_uint<16> heatvit_mult_t;
typedef ap_uint<6> heatvit_shift_t;

// Clamp to BITS signed bits. Golden: quant.fixed.saturate.
template <int BITS, int WIDTH> ap_int<BITS> heatvit_saturate(ap_int<WIDTH> x) {
    #pragma HLS INLINE
    const ap_int<WIDTH> high = (ap_int<WIDTH>(1) << (BITS - 1)) - 1;
    if (x > high)
        return high;
    if (x < -high - 1)
        return -high - 1;
    return x;
}

// x / 2**shift, halves towards plus infinity; shift 0..47. Golden: quant.fixed.round_half_up.
// The discarded bit of highest weight is the carry, so nothing is added before the shift.
template <int WIDTH> ap_int<WIDTH + 1> heatvit_round(ap_int<WIDTH> x, heatvit_shift_t shift) {
    #pragma HLS INLINE
    ap_int<WIDTH + 1> doubled = x;
    doubled <<= 1;
    // Bit 0 is the half that rounds up; a shift of 0 leaves a zero there.
    ap_int<WIDTH + 1> shifted = doubled >> shift;
    return (shifted >> 1) + ap_int<WIDTH + 1>(shifted & 1);
}

// saturate(round(acc * mult / 2**shift)). Golden: quant.fixed.requantize.
template <int BITS, int WIDTH> ap_int<BITS> heatvit_requantize(ap_int<WIDTH> acc, heatvit_mult_t mult, heatvit_shift_t shift) {
    #pragma HLS INLINE
    ap_int<WIDTH + 17> product = acc * ap_int<17>(mult);
    return heatvit_saturate<BITS>(heatvit_round(product, shift));
}

// The multiplier and shift by which a sum over rows is divided by their weight. Golden: quant.approx.row_scale.
struct heatvit_scale {
    heatvit_mult_t mult;
    heatvit_shift_t shift;
};

inline heatvit_scale heatvit_row_scale(ap_uint<17> row_sum, heatvit_mult_t mult, heatvit_shift_t shift) {
    ap_uint<17> divisor = row_sum == 0 ? ap_uint<17>(1) : row_sum;
    heatvit_shift_t target = shift + 16;
Normalise:
    for (int i = 0; i < 16; i++) {
        #pragma HLS UNROLL
        if (!divisor[16]) {
            divisor <<= 1;
            target -= 1;
        }
    }
    heatvit_scale scale;
    scale.mult = (ap_uint<32>(mult) << 16) / divisor;
    scale.shift = target;
    return scale;
}

} // namespace nnet

#endif
