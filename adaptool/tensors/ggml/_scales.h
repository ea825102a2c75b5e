/* Searching the scale of sub-blocks without an offset, KERNEL_LANES of them in step. */
#ifndef ADAPTOOL_SCALES_H
#define ADAPTOOL_SCALES_H

#include "_lanes.h"

#include <math.h>

/* A sub-block with nothing larger counts as zeros. */
#define NOTHING 1e-15f

/* Lanes whose sums are carried from element to element: as many as registers hold. The loop over them is innermost and of
 * constant length, which every compiler vectorises. */
enum { STEP = 32 };

/* The `columns` weights of a row for `count` sub-blocks of `size`, the first of them the row's (first % columns)-th
 * element: rows follow each other without a gap, and each begins the weights anew. */
INLINE void load_weights(const float *restrict importance, ptrdiff_t columns, ptrdiff_t first, int count, int size,
                         lanes_t *restrict out) {
    float aside[KERNEL_LANES * 32];
    ptrdiff_t at = first % columns;
    for (int lane = 0; lane < count; lane++) {
        memcpy(aside + lane * size, importance + at, (size_t)size * sizeof(float));
        at += size;
        at = at == columns ? 0 : at;
    }
    load_lanes(aside, count, size, out);
}

/* In each lane the element of the largest magnitude, with its sign; of equals the first. */
INLINE void largest(const lanes_t *restrict x, int size, float *restrict peak) {
    for (int lane = 0; lane < KERNEL_LANES; lane++) {
        float found = 0.0f;
        for (int i = 0; i < size; i++)
            found = fabsf(x[i][lane]) > fabsf(found) ? x[i][lane] : found;
        peak[lane] = found;
    }
}

/* The nearest integer within [-most, most), for finite x no further than 2^22. Adding 1.5 * 2^23 leaves it in the low
 * bits, where it is clamped before it is taken off again: one step less than by nearest_int. */
INLINE float near_integer(float x, int most) {
    const int32_t zero = 0x4B400000, bits = (int32_t)as_bits(x + 12582912.0f);
    return as_float((uint32_t)clamp_int(bits, zero - most, zero + most - 1)) - 12582912.0f;
}

/* What l = round(times * x), within [-most, most), says of x: the sums of w * x * l and of w * l * l. */
INLINE void explain(const lanes_t *restrict x, const lanes_t *restrict w, const lanes_t *restrict wx, int size, int most,
                    int finite, const float *restrict times, float *restrict sum_lx, float *restrict sum_l2) {
    for (int from = 0; from < KERNEL_LANES; from += STEP) {
        float lx[STEP] = {0}, l2[STEP] = {0};
        for (int i = 0; i < size; i++)
            for (int k = 0; k < STEP; k++) {
                float v = times[from + k] * x[i][from + k];
                float l = finite ? near_integer(v, most) : (float)clamp_int(nearest_int(v), -most, most - 1);
                lx[k] += wx[i][from + k] * l;
                l2[k] += w[i][from + k] * l * l;
            }
        for (int k = 0; k < STEP; k++)
            sum_lx[from + k] = lx[k], sum_l2[from + k] = l2[k];
    }
}

/* GGML's make_qx_quants: the scale with which integers in [-most, most) fit x best under the weights w (wx is w * x).
 *
 * Nineteen candidates for its inverse are tried around -most / peak; each gives the least-squares scale of the
 * integers it rounds to. `inverse` is the candidate that won: the one GGML's integers come from. For zeros the scale is 0 and
 * the inverse NaN. */
INLINE void search_scales(const lanes_t *restrict x, const lanes_t *restrict w, const lanes_t *restrict wx, int size,
                          int most, float *restrict scale, float *restrict inverse) {
    lanes_t peak, best, times, sum_lx, sum_l2;
    largest(x, size, peak);
    for (int lane = 0; lane < KERNEL_LANES; lane++)
        inverse[lane] = (float)-most / peak[lane];
    explain(x, w, wx, size, most, 1, inverse, sum_lx, sum_l2);
    for (int lane = 0; lane < KERNEL_LANES; lane++) {
        float fit = sum_lx[lane] / sum_l2[lane];
        scale[lane] = sum_l2[lane] != 0.0f ? fit : 0.0f;
        best[lane] = scale[lane] * sum_lx[lane];
    }
    for (int step = -9; step <= 9; step++) {
        if (step == 0)
            continue;
        float numerator = -((float)most + 0.1f * (float)step);
        for (int lane = 0; lane < KERNEL_LANES; lane++)
            times[lane] = numerator / peak[lane];
        explain(x, w, wx, size, most, 1, times, sum_lx, sum_l2);
        for (int lane = 0; lane < KERNEL_LANES; lane++) {
            float lx = sum_lx[lane], l2 = sum_l2[lane], fit = lx / l2;
            int better = (l2 > 0.0f) & (lx * lx > best[lane] * l2);
            scale[lane] = better ? fit : scale[lane];
            best[lane] = better ? fit * lx : best[lane];
            inverse[lane] = better ? times[lane] : inverse[lane];
        }
    }
    for (int lane = 0; lane < KERNEL_LANES; lane++) {
        int nothing = fabsf(peak[lane]) < NOTHING;
        scale[lane] = nothing ? 0.0f : scale[lane];
        inverse[lane] = nothing ? NAN : inverse[lane];
    }
}

/* search_scales for one sub-block of 16 alone, whose values may have overflowed: its candidates are what
 * runs in step. */
INLINE float search_scale(const float *restrict x, const float *restrict w, int most, float *restrict inverse) {
    enum { SIZE_ALONE = 16, CANDIDATES = 19 };
    lanes_t xs[SIZE_ALONE], ws[SIZE_ALONE], wx[SIZE_ALONE], times, sum_lx, sum_l2;
    float peak = 0.0f;
    for (int i = 0; i < SIZE_ALONE; i++) {
        peak = fabsf(x[i]) > fabsf(peak) ? x[i] : peak;
        for (int lane = 0; lane < KERNEL_LANES; lane++)
            xs[i][lane] = x[i], ws[i][lane] = w[i], wx[i][lane] = w[i] * x[i];
    }
    *inverse = NAN;
    if (fabsf(peak) < NOTHING)
        return 0.0f;
    for (int lane = 0; lane < KERNEL_LANES; lane++) { /* first -most / peak, then steps -9 to -1 and 1 to 9 */
        int step = lane < 10 ? lane - 10 : lane - 9;
        times[lane] = (lane == 0 ? (float)-most : -((float)most + 0.1f * (float)step)) / peak;
    }
    explain(xs, ws, wx, SIZE_ALONE, most, 0, times, sum_lx, sum_l2);
    float scale = sum_l2[0] != 0.0f ? sum_lx[0] / sum_l2[0] : 0.0f, best = scale * sum_lx[0];
    *inverse = times[0];
    for (int c = 1; c < CANDIDATES; c++)
        if (sum_l2[c] > 0.0f && sum_lx[c] * sum_lx[c] > best * sum_l2[c]) {
            scale = sum_lx[c] / sum_l2[c];
            best = scale * sum_lx[c];
            *inverse = times[c];
        }
    return scale;
}

/* The integers make_qx_quants leaves behind, `most` added: round(inverse * x), or 0 where there was nothing. */
INLINE void searched_integers(const float *restrict x, float inverse, int size, int most, uint8_t *restrict l) {
    for (int i = 0; i < size; i++)
        l[i] = inverse != inverse ? 0 : (uint8_t)(clamp_int(nearest_int(inverse * x[i]), -most, most - 1) + most);
}

#endif
