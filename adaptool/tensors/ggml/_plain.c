/* Types whose blocks of 32 stand alone: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, MXFP4.
 *
 * Byte for byte GGML's reference quantisers (ggml-quants.c). Each block's range and scale are found a block in a lane,
 * its elements rounded as they lie.
 */
#include "_blocks.h"
#include "_lanes.h"
#include "_scales.h"

#include <math.h>

/* What the blocks of a group are written with: d and m as f16; the offset and 1 / d as they are rounded by. */
typedef struct { uint16_t d[KERNEL_LANES], m[KERNEL_LANES]; lanes_t low, inverse; } ranges_t;

KERNEL int all_finite(const float *restrict x, ptrdiff_t n) {
    uint32_t worst = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t magnitude = as_bits(x[i]) & 0x7FFFFFFFu;
        worst = magnitude > worst ? magnitude : worst;
    }
    return worst < 0x7F800000u;
}

/* d and 1 / d of blocks whose integers are x / d; 0 for blocks of zeros. */
INLINE void hold(const float *restrict d, ranges_t *restrict out) {
    for (int lane = 0; lane < KERNEL_LANES; lane++) {
        out->d[lane] = f16_narrow(d[lane]);
        out->inverse[lane] = d[lane] != 0.0f ? 1.0f / d[lane] : 0.0f;
    }
}

/* The largest element becomes `end`: -8 or -16, as the integers reach one further below zero than above; 127. */
INLINE void symmetric_ranges(const float *restrict x, int count, int end, ranges_t *restrict out) {
    lanes_t xs[BLOCK], peak, d;
    load_lanes(x, count, BLOCK, xs);
    largest(xs, BLOCK, peak);
    for (int lane = 0; lane < KERNEL_LANES; lane++)
        d[lane] = (end > 0 ? fabsf(peak[lane]) : peak[lane]) / (float)end;
    hold(d, out);
}

/* From the smallest element, 0, to the largest, `end`. */
INLINE void affine_ranges(const float *restrict x, int count, int end, ranges_t *restrict out) {
    lanes_t xs[BLOCK], d;
    load_lanes(x, count, BLOCK, xs);
    for (int lane = 0; lane < KERNEL_LANES; lane++) {
        float low = xs[0][lane], high = low;
        for (int i = 1; i < BLOCK; i++) {
            low = xs[i][lane] < low ? xs[i][lane] : low;
            high = xs[i][lane] > high ? xs[i][lane] : high;
        }
        d[lane] = (high - low) / (float)end;
        out->low[lane] = low;
    }
    hold(d, out);
    for (int lane = 0; lane < KERNEL_LANES; lane++)
        out->m[lane] = f16_narrow(out->low[lane]);
}

/* To the nearest integer, ties away from zero; what does not fit int32 is the processor's affair, as in GGML. */
INLINE int8_t round_away(float x) {
    int32_t whole = (int32_t)x;
    float rest = x - (float)whole;
    return (int8_t)(whole + ((rest >= 0.5f) & (rest < 1.0f)) - ((rest <= -0.5f) & (rest > -1.0f)));
}


KERNEL void quantize_q8_0(const float *restrict x, const float *restrict importance, uint8_t *restrict out, ptrdiff_t rows,
                          ptrdiff_t columns) {
    ptrdiff_t total = rows * columns;
    ranges_t ranges;
    (void)importance; /* GGML takes no notice either */
    for (ptrdiff_t at = 0; at < total; at += KERNEL_LANES * BLOCK) {
        int count = blocks_left(at, total);
        symmetric_ranges(x + at, count, 127, &ranges);
        for (int j = 0; j < count; j++, out += 34) {
            const float *block = x + at + BLOCK * j;
            store_f16(out, ranges.d[j]);
            for (int i = 0; i < BLOCK; i++)
                out[2 + i] = (uint8_t)round_away(block[i] * ranges.inverse[j]);
        }
    }
}

/* x / d + half, cut off to an integer: GGML's way of rounding to [0, 15] and [0, 31]. Past int32 (rows of denormals) the
 * low byte of what the processor makes of it stays. */
INLINE uint8_t cut(float x, int most) {
    int8_t l = (int8_t)(int32_t)x;
    return (uint8_t)(l > most ? most : l);
}

INLINE void quantize_symmetric(const float *restrict x, uint8_t *restrict out, ptrdiff_t total, int half) {
    ranges_t ranges;
    for (ptrdiff_t at = 0; at < total; at += KERNEL_LANES * BLOCK) {
        int count = blocks_left(at, total);
        symmetric_ranges(x + at, count, -half, &ranges);
        for (int j = 0; j < count; j++) {
            const float *block = x + at + BLOCK * j;
            uint8_t l[BLOCK];
            for (int i = 0; i < BLOCK; i++)
                l[i] = cut(block[i] * ranges.inverse[j] + ((float)half + 0.5f), 2 * half - 1);
            out = store_block(ranges.d[j], NULL, l, half == 16, out);
        }
    }
}

INLINE void quantize_affine(const float *restrict x, uint8_t *restrict out, ptrdiff_t total, int most) {
    ranges_t ranges;
    for (ptrdiff_t at = 0; at < total; at += KERNEL_LANES * BLOCK) {
        int count = blocks_left(at, total);
        affine_ranges(x + at, count, most, &ranges);
        for (int j = 0; j < count; j++) {
            const float *block = x + at + BLOCK * j;
            uint8_t l[BLOCK];
            for (int i = 0; i < BLOCK; i++)
                l[i] = cut((block[i] - ranges.low[j]) * ranges.inverse[j] + 0.5f, most);
            out = store_block(ranges.d[j], &ranges.m[j], l, most == 31, out);
        }
    }
}

#define TYPE(name, quantise, quantise_weighted, range)                                                                   \
    KERNEL void quantize_##name(const float *restrict x, const float *restrict importance, uint8_t *restrict out,       \
                                ptrdiff_t rows, ptrdiff_t columns) {                                                    \
        if (importance)                                                                                                 \
            quantise_weighted(x, importance, out, rows, columns, range);                                                \
        else                                                                                                            \
            quantise(x, out, rows * columns, range);                                                                    \
    }

TYPE(q4_0, quantize_symmetric, quantize_symmetric_weighted, 8)
TYPE(q5_0, quantize_symmetric, quantize_symmetric_weighted, 16)
TYPE(q4_1, quantize_affine, quantize_affine_weighted, 15)
TYPE(q5_1, quantize_affine, quantize_affine_weighted, 31)

/* Which of 0 1 2 3 4 6 8 12, times d, is nearest to x; midway the smaller. */
INLINE int32_t fp4_level(float x, float d) {
    return (x > 0.5f * d) + (x > 1.5f * d) + (x > 2.5f * d) + (x > 3.5f * d) + (x > 5.0f * d) + (x > 7.0f * d) +
           (x > 10.0f * d);
}

/* MXFP4: a power of two in a byte, then values of 1 sign, 2 exponent and 1 mantissa bits; here doubled, so integers. */
KERNEL void quantize_mxfp4(const float *restrict x, const float *restrict importance, uint8_t *restrict out, ptrdiff_t rows,
                           ptrdiff_t columns) {
    (void)importance; /* GGML takes no notice either */
    for (const float *end = x + rows * columns; x < end; x += BLOCK, out += 17) {
        uint32_t peak = 0;
        uint8_t l[BLOCK];
        for (int i = 0; i < BLOCK; i++) {
            uint32_t magnitude = as_bits(x[i]) & 0x7FFFFFFFu;
            peak = magnitude > peak ? magnitude : peak;
        }
        /* below 2^-125 the exponent wraps around in its byte, in GGML too */
        uint8_t e = peak ? (uint8_t)(int32_t)(floorf(log2f(as_float(peak))) - 2.0f + 127.0f) : 0;
        float d = as_float(e < 2 ? 0x00200000u << e : (uint32_t)(e - 1) << 23);
        for (int i = 0; i < BLOCK; i++) {
            int32_t level = fp4_level(fabsf(x[i]), d);
            l[i] = (uint8_t)(level | ((level > 0) & (x[i] < 0.0f)) << 3);
        }
        out[0] = e;
        store_nibbles(l, out + 1);
    }
}
