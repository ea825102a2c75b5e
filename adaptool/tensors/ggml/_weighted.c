/* Q4_0, Q4_1, Q5_0 and Q5_1 under importance: a block's elements weigh importance * sqrt(the row's mean square + x * x).
 *
 * Byte for byte GGML's reference quantisers (ggml-quants.c).
 */
#include "_blocks.h"
#include "_lanes.h"
#include "_scales.h"

#include <math.h>

enum { ROWS = 4 };

/* Of each of up to four rows, the mean square: each is one chain of additions, so four go side by side. */
INLINE void mean_squares(const float *restrict x, ptrdiff_t rows, ptrdiff_t columns, float *restrict mean) {
    float sum[ROWS] = {0};
    if (rows == ROWS)
        for (ptrdiff_t i = 0; i < columns; i++)
            for (int r = 0; r < ROWS; r++)
                sum[r] += x[r * columns + i] * x[r * columns + i];
    else
        for (ptrdiff_t r = 0; r < rows; r++)
            for (ptrdiff_t i = 0; i < columns; i++)
                sum[r] += x[r * columns + i] * x[r * columns + i];
    for (int r = 0; r < ROWS; r++)
        mean[r] = sum[r] / (float)columns;
}

/* `count` blocks from element `at` of a few rows, and their weights. */
INLINE void load_weighted(const float *restrict x, const float *restrict importance, ptrdiff_t columns, ptrdiff_t at, int count,
                          const float *restrict mean, lanes_t *restrict xs, lanes_t *restrict w) {
    lanes_t means;
    for (int lane = 0; lane < KERNEL_LANES; lane++)
        means[lane] = lane < count ? mean[(at + BLOCK * lane) / columns] : 0.0f;
    load_lanes(x + at, count, BLOCK, xs);
    load_weights(importance, columns, at, count, BLOCK, w);
    for (int i = 0; i < BLOCK; i++)
        for (int lane = 0; lane < KERNEL_LANES; lane++)
            w[i][lane] = w[i][lane] * sqrtf(means[lane] + xs[i][lane] * xs[i][lane]);
}

KERNEL void quantize_symmetric_weighted(const float *restrict x, const float *restrict importance, uint8_t *restrict out,
                                        ptrdiff_t rows, ptrdiff_t columns, int half) {
    lanes_t xs[BLOCK], w[BLOCK], wx[BLOCK], scale, inverse;
    float mean[ROWS];
    for (; rows > 0; rows -= ROWS, x += ROWS * columns) {
        ptrdiff_t here = rows < ROWS ? rows : ROWS;
        mean_squares(x, here, columns, mean);
        for (ptrdiff_t at = 0; at < here * columns; at += KERNEL_LANES * BLOCK) {
            int count = blocks_left(at, here * columns);
            load_weighted(x, importance, columns, at, count, mean, xs, w);
            for (int i = 0; i < BLOCK; i++)
                for (int lane = 0; lane < KERNEL_LANES; lane++)
                    wx[i][lane] = w[i][lane] * xs[i][lane];
            search_scales(xs, w, wx, BLOCK, half, scale, inverse);
            for (int j = 0; j < count; j++) {
                uint8_t l[BLOCK];
                searched_integers(x + at + BLOCK * j, inverse[j], BLOCK, half, l);
                out = store_block(f16_narrow(scale[j]), NULL, l, half == 16, out);
            }
        }
    }
}

/* A search for the scale and the offset of each lane's block. */
typedef struct {
    lanes_t low, high, sum_w, sum_x; /* the range of x, not above 0 at its lower end; sums of w and of w * x */
    lanes_t scale, offset, error;    /* the best so far */
    lanes_t times, from;             /* its integers are round(times * (x - from)) */
    lanes_t flat;                    /* 1 where there is no range: then the offset is all there is */
} search_t;

INLINE float integer(float x, float times, float from, int most) {
    return (float)clamp_int(nearest_int(times * (x - from)), 0, most);
}

/* Weighted squares of what scale * l + offset misses x by. */
INLINE void misfit(const lanes_t *restrict x, const lanes_t *restrict w, int most, const float *restrict times,
                   const float *restrict from, const float *restrict scale, const float *restrict offset,
                   float *restrict error) {
    for (int lane = 0; lane < KERNEL_LANES; lane++) {
        float sum = 0.0f;
        for (int i = 0; i < BLOCK; i++) {
            float apart = scale[lane] * integer(x[i][lane], times[lane], from[lane], most) + offset[lane] - x[i][lane];
            sum += w[i][lane] * (apart * apart);
        }
        error[lane] = sum;
    }
}

INLINE void begin(const lanes_t *restrict x, const lanes_t *restrict w, int most, search_t *restrict s) {
    for (int lane = 0; lane < KERNEL_LANES; lane++) {
        float low = x[0][lane], high = low, sum_w = w[0][lane], sum_x = sum_w * low;
        for (int i = 1; i < BLOCK; i++) {
            low = x[i][lane] < low ? x[i][lane] : low;
            high = x[i][lane] > high ? x[i][lane] : high;
            sum_w += w[i][lane];
            sum_x += w[i][lane] * x[i][lane];
        }
        low = low > 0.0f ? 0.0f : low;
        s->low[lane] = s->offset[lane] = s->from[lane] = low;
        s->high[lane] = high, s->sum_w[lane] = sum_w, s->sum_x[lane] = sum_x;
        s->flat[lane] = high <= low ? 1.0f : 0.0f;
        s->times[lane] = (float)most / (high - low);
        s->scale[lane] = 1.0f / s->times[lane];
    }
    misfit(x, w, most, s->times, s->from, s->scale, s->offset, s->error);
}

/* One more candidate, numerator / range: the least-squares scale and offset of the integers it rounds to. */
INLINE void improve(const lanes_t *restrict x, const lanes_t *restrict w, int most, float numerator, search_t *restrict s) {
    lanes_t times, sum_l, sum_l2, sum_xl, scale, offset, error, solvable;
    for (int lane = 0; lane < KERNEL_LANES; lane++)
        times[lane] = numerator / (s->high[lane] - s->offset[lane]);
    for (int lane = 0; lane < KERNEL_LANES; lane++) {
        float l_1 = 0.0f, l_2 = 0.0f, x_l = 0.0f;
        for (int i = 0; i < BLOCK; i++) {
            float l = integer(x[i][lane], times[lane], s->offset[lane], most), wl = w[i][lane] * l;
            l_1 += wl;
            l_2 += wl * l;
            x_l += wl * x[i][lane];
        }
        sum_l[lane] = l_1, sum_l2[lane] = l_2, sum_xl[lane] = x_l;
    }
    for (int lane = 0; lane < KERNEL_LANES; lane++) {
        float l_1 = sum_l[lane], l_2 = sum_l2[lane], x_l = sum_xl[lane];
        float D = s->sum_w[lane] * l_2 - l_1 * l_1, through_zero = x_l / l_2;
        float both = (s->sum_w[lane] * x_l - s->sum_x[lane] * l_1) / D;
        float low = (l_2 * s->sum_x[lane] - l_1 * x_l) / D;
        scale[lane] = low > 0.0f ? through_zero : both;
        offset[lane] = low > 0.0f ? 0.0f : low;
        solvable[lane] = D > 0.0f ? 1.0f : 0.0f;
    }
    misfit(x, w, most, times, s->offset, scale, offset, error);
    for (int lane = 0; lane < KERNEL_LANES; lane++) {
        int better = (solvable[lane] > 0.0f) & (error[lane] < s->error[lane]);
        s->from[lane] = better ? s->offset[lane] : s->from[lane];
        s->times[lane] = better ? times[lane] : s->times[lane];
        s->scale[lane] = better ? scale[lane] : s->scale[lane];
        s->offset[lane] = better ? offset[lane] : s->offset[lane];
        s->error[lane] = better ? error[lane] : s->error[lane];
    }
}

/* GGML's make_qkx3_quants, with the steps these types call it with. */
KERNEL void quantize_affine_weighted(const float *restrict x, const float *restrict importance, uint8_t *restrict out,
                                     ptrdiff_t rows, ptrdiff_t columns, int most) {
    lanes_t xs[BLOCK], w[BLOCK];
    search_t s;
    float mean[ROWS];
    for (; rows > 0; rows -= ROWS, x += ROWS * columns) {
        ptrdiff_t here = rows < ROWS ? rows : ROWS;
        mean_squares(x, here, columns, mean);
        for (ptrdiff_t at = 0; at < here * columns; at += KERNEL_LANES * BLOCK) {
            int count = blocks_left(at, here * columns);
            load_weighted(x, importance, columns, at, count, mean, xs, w);
            begin(xs, w, most, &s);
            for (int step = 0; step <= 36; step++)
                improve(xs, w, most, -0.9f + 0.05f * (float)step + (float)most, &s);
            for (int j = 0; j < count; j++) {
                const float *block = x + at + BLOCK * j;
                int flat = s.flat[j] > 0.0f;
                uint8_t l[BLOCK];
                for (int i = 0; i < BLOCK; i++)
                    l[i] = flat ? 0 : (uint8_t)integer(block[i], s.times[j], s.from[j], most);
                uint16_t m = f16_narrow(flat ? s.low[j] : s.offset[j]);
                out = store_block(f16_narrow(flat ? 0.0f : s.scale[j]), &m, l, most == 31, out);
            }
        }
    }
}
