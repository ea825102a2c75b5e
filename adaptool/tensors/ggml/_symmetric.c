/* Types whose sub-blocks have a scale and no offset: Q3_K and Q6_K.
 *
 * Byte for byte GGML's reference quantisers (ggml-quants.c), huge, tiny and constant rows included.
 */
#include "_lanes.h"
#include "_scales.h"

#include <math.h>

enum { SIZE = 16, SUB_BLOCKS = SUPER_BLOCK / SIZE };

/* GGML rounds x / d to integers in [-most, most); where d is 0 it keeps those of the search. `most` is added. */
INLINE void final_integers(const float *restrict x, float d, float inverse, int most, uint8_t *restrict l) {
    if (d == 0.0f)
        searched_integers(x, inverse, SIZE, most, l);
    else
        for (int i = 0; i < SIZE; i++)
            l[i] = (uint8_t)(clamp_int(nearest_int(x[i] / d), -most, most - 1) + most);
}

/* The scale of the largest magnitude, with its sign; NaN never wins. */
INLINE float largest_scale(const float *restrict scale, int count) {
    float found = 0.0f;
    for (int i = 0; i < count; i++)
        found = fabsf(scale[i]) > fabsf(found) ? scale[i] : found;
    return found;
}

/* Q6_K: 128 bytes of low nibbles, 64 of high bit pairs, 16 scales, d. */
INLINE void store_q6_k(const float *restrict x, const float *restrict scale, const float *restrict inverse,
                       uint8_t *restrict out) {
    uint8_t l[SUPER_BLOCK];
    float peak = largest_scale(scale, SUB_BLOCKS);
    if (fabsf(peak) < NOTHING) {
        memset(out, 0, 210);
        return;
    }
    float times = -128.0f / peak;
    uint16_t h = f16_narrow(1.0f / times);
    float d = f16_widen(h);
    for (int j = 0; j < SUB_BLOCKS; j++) {
        int32_t s = nearest_int(times * scale[j]);
        int8_t held = (int8_t)(s > 127 ? 127 : s);
        out[192 + j] = (uint8_t)held;
        final_integers(x + SIZE * j, d * (float)held, inverse[j], 32, l + SIZE * j);
    }
    for (int half = 0; half < 2; half++) {
        const uint8_t *q = l + 128 * half;
        for (int i = 0; i < 32; i++) {
            out[64 * half + i] = (uint8_t)((q[i] & 15) | (q[i + 64] << 4));
            out[64 * half + i + 32] = (uint8_t)((q[i + 32] & 15) | (q[i + 96] << 4));
            out[128 + 32 * half + i] =
                (uint8_t)((q[i] >> 4) | (q[i + 32] >> 4 << 2) | (q[i + 64] >> 4 << 4) | (q[i + 96] >> 4 << 6));
        }
    }
    store_f16(out + 208, h);
}

KERNEL void quantize_q6_k(const float *restrict x, const float *restrict importance, uint8_t *restrict out, ptrdiff_t rows,
                          ptrdiff_t columns) {
    lanes_t xs[SIZE], w[SIZE], wx[SIZE], scale, inverse;
    ptrdiff_t total = rows * columns;
    for (ptrdiff_t at = 0; at < total; at += KERNEL_LANES * SIZE) {
        ptrdiff_t left = (total - at) / SIZE;
        int count = left < KERNEL_LANES ? (int)left : KERNEL_LANES;
        load_lanes(x + at, count, SIZE, xs);
        if (importance)
            load_weights(importance, columns, at, count, SIZE, w);
        for (int i = 0; i < SIZE; i++)
            for (int lane = 0; lane < KERNEL_LANES; lane++) {
                w[i][lane] = importance ? w[i][lane] : xs[i][lane] * xs[i][lane];
                wx[i][lane] = w[i][lane] * xs[i][lane];
            }
        search_scales(xs, w, wx, SIZE, 32, scale, inverse);
        for (int j = 0; j < count; j += SUB_BLOCKS, out += 210)
            store_q6_k(x + at + SIZE * j, scale + j, inverse + j, out);
    }
}

/* GGML's make_q3_quants: from the rounded x / scale, five rounds of moving one integer at a time where that fits better,
 * each weighted by x * x. `l` is left as they stand, in [-4, 4). */
INLINE void descend(const lanes_t *restrict x, lanes_t *restrict l, float *restrict scale) {
    lanes_t peak, lx, l2;
    largest(x, SIZE, peak);
    for (int lane = 0; lane < KERNEL_LANES; lane++)
        lx[lane] = l2[lane] = 0.0f;
    for (int i = 0; i < SIZE; i++)
        for (int lane = 0; lane < KERNEL_LANES; lane++) {
            float v = x[i][lane], w = v * v, q = (float)clamp_int(nearest_int(-4.0f / peak[lane] * v), -4, 3);
            l[i][lane] = q;
            lx[lane] += w * v * q;
            l2[lane] += w * q * q;
        }
    for (int round = 0, moved = 1; round < 5 && moved; round++) {
        lanes_int_t changed = {0};
        for (int i = 0; i < SIZE; i++)
            for (int lane = 0; lane < KERNEL_LANES; lane++) {
                float v = x[i][lane], w = v * v, old = l[i][lane];
                float lx_rest = lx[lane] - w * v * old, l2_rest = l2[lane] - w * old * old;
                float q = (float)clamp_int(nearest_int(v * l2_rest / lx_rest), -4, 3);
                float lx_new = lx_rest + w * v * q, l2_new = l2_rest + w * q * q;
                int move = (lx_rest > 0.0f) & (q != old) & (l2_new > 0.0f) &
                           (lx_new * lx_new * l2[lane] > lx[lane] * lx[lane] * l2_new);
                l[i][lane] = move ? q : old;
                lx[lane] = move ? lx_new : lx[lane];
                l2[lane] = move ? l2_new : l2[lane];
                changed[lane] = move ? 1 : changed[lane];
            }
        moved = 0;
        for (int lane = 0; lane < KERNEL_LANES; lane++)
            moved |= changed[lane];
    }
    for (int lane = 0; lane < KERNEL_LANES; lane++) {
        float fit = lx[lane] / l2[lane];
        scale[lane] = ((fabsf(peak[lane]) >= NOTHING) & (l2[lane] > 0.0f)) ? fit : 0.0f;
        for (int i = 0; i < SIZE; i++)
            l[i][lane] = fabsf(peak[lane]) < NOTHING ? -4.0f : l[i][lane];
    }
}

/* Q3_K: 32 bytes of high bits, 64 of low bit pairs, 16 scales of 6 bits (plus 32) in 12 bytes, d. */
INLINE void store_q3_k(const uint8_t *restrict l, const int *restrict held, uint16_t h, uint8_t *restrict out) {
    memset(out, 0, 108);
    for (int bit = 0; bit < 8; bit++)
        for (int i = 0; i < 32; i++)
            out[i] |= (uint8_t)(l[32 * bit + i] >> 2 << bit);
    for (int half = 0; half < 2; half++) {
        const uint8_t *q = l + 128 * half;
        for (int i = 0; i < 32; i++)
            out[32 + 32 * half + i] = (uint8_t)((q[i] & 3) | (q[i + 32] & 3) << 2 | (q[i + 64] & 3) << 4 | (q[i + 96] & 3) << 6);
    }
    for (int j = 0; j < SUB_BLOCKS; j++) {
        out[96 + j % 8] |= (uint8_t)((held[j] & 15) << (j < 8 ? 0 : 4));
        out[104 + j % 4] |= (uint8_t)(held[j] >> 4 << (2 * (j / 4)));
    }
    store_f16(out + 108, h);
}

/* One super-block of a search over scales: they are themselves rounded to 6 bits, by the largest of them. */
INLINE uint16_t hold_scales(const float *restrict scale, int *restrict held) {
    float peak = largest_scale(scale, SUB_BLOCKS);
    float times = -32.0f / peak;
    for (int j = 0; j < SUB_BLOCKS; j++)
        held[j] = peak == 0.0f ? 0 : clamp_int((int8_t)nearest_int(times * scale[j]), -32, 31) + 32;
    return peak == 0.0f ? 0 : f16_narrow(1.0f / times);
}

INLINE void quantize_q3_k_plain(const float *restrict x, int count, uint8_t *restrict out) {
    lanes_t xs[SIZE], searched[SIZE], scale;
    load_lanes(x, count, SIZE, xs);
    descend(xs, searched, scale);
    for (int from = 0; from < count; from += SUB_BLOCKS, out += 110) {
        int held[SUB_BLOCKS];
        uint8_t l[SUPER_BLOCK];
        uint16_t h = hold_scales(scale + from, held);
        for (int j = 0; j < SUB_BLOCKS; j++) {
            float d = f16_widen(h) * (float)(held[j] - 32);
            if (d == 0.0f)
                for (int i = 0; i < SIZE; i++)
                    l[SIZE * j + i] = (uint8_t)(searched[i][from + j] + 4.0f);
            else
                final_integers(x + SIZE * (from + j), d, NAN, 4, l + SIZE * j);
        }
        store_q3_k(l, held, h, out);
    }
}

/* Importance weighs by sqrt(2 * mean square + x * x); a super-block's scales by the weight of their sub-blocks. */
INLINE void quantize_q3_k_weighted(const float *restrict x, const float *restrict importance, ptrdiff_t columns,
                                   ptrdiff_t at, int count, uint8_t *restrict out) {
    lanes_t xs[SIZE], w[SIZE], wx[SIZE], mean, total, scale, inverse;
    load_lanes(x, count, SIZE, xs);
    load_weights(importance, columns, at, count, SIZE, w);
    for (int from = 0; from < KERNEL_LANES; from += SUB_BLOCKS) {
        float sum = 0.0f;
        for (int i = 0; from < count && i < SUPER_BLOCK; i++)
            sum += x[SIZE * from + i] * x[SIZE * from + i];
        for (int j = 0; j < SUB_BLOCKS; j++)
            mean[from + j] = 2.0f * sum / (float)SUPER_BLOCK, total[from + j] = 0.0f;
    }
    for (int i = 0; i < SIZE; i++)
        for (int lane = 0; lane < KERNEL_LANES; lane++) {
            float v = xs[i][lane], weight = w[i][lane] * sqrtf(mean[lane] + v * v);
            w[i][lane] = weight;
            wx[i][lane] = weight * v;
            total[lane] += weight;
        }
    search_scales(xs, w, wx, SIZE, 4, scale, inverse);
    for (int from = 0; from < count; from += SUB_BLOCKS, out += 110) {
        int held[SUB_BLOCKS];
        uint8_t l[SUPER_BLOCK], rounded[SUB_BLOCKS];
        float times, block = search_scale(scale + from, total + from, 32, &times);
        uint16_t h = f16_narrow(block);
        searched_integers(scale + from, times, SUB_BLOCKS, 32, rounded);
        for (int j = 0; j < SUB_BLOCKS; j++) {
            held[j] = rounded[j];
            float d = f16_widen(h) * (float)(held[j] - 32);
            final_integers(x + SIZE * (from + j), d, inverse[from + j], 4, l + SIZE * j);
        }
        store_q3_k(l, held, h, out);
    }
}

KERNEL void quantize_q3_k(const float *restrict x, const float *restrict importance, uint8_t *restrict out, ptrdiff_t rows,
                          ptrdiff_t columns) {
    ptrdiff_t total = rows * columns;
    for (ptrdiff_t at = 0; at < total; at += KERNEL_LANES * SIZE) {
        ptrdiff_t left = (total - at) / SIZE;
        int count = left < KERNEL_LANES ? (int)left : KERNEL_LANES;
        uint8_t *blocks = out + at / SUPER_BLOCK * 110;
        if (importance)
            quantize_q3_k_weighted(x + at, importance, columns, at, count, blocks);
        else
            quantize_q3_k_plain(x + at, count, blocks);
    }
}
