/* Q4_0, Q4_1, Q5_0 and Q5_1 under importance: a block's elements weigh importance * sqrt(the row's mean square + x * x).
 *
 * Byte for byte GGML's reference quantisers (ggml-quants.c).
 */
#include "_blocks.h"
#include "_grid.h"
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

/* The blocks of _grid.h's lanes: KERNEL_LANES at a time, then interleaved. */
INLINE void fill_lines(const lanes_t *restrict xs, const lanes_t *restrict w, int half, line_t (*restrict lines)[LINES]) {
    for (int i = 0; i < BLOCK; i++)
        for (int lane = 0; lane < KERNEL_LANES; lane++) {
            int at = half * KERNEL_LANES + lane;
            lines[at / CHUNK][i].x[at % CHUNK] = xs[i][lane];
            lines[at / CHUNK][i].weight[at % CHUNK] = w[i][lane];
        }
}

KERNEL void quantize_affine_weighted(const float *restrict x, const float *restrict importance, uint8_t *restrict out,
                                     ptrdiff_t rows, ptrdiff_t columns, int most) {
    const grid_t grid = {.size = BLOCK, .levels = most, .steps = 36, .first = -0.9f, .step = 0.05f, .absolute = false};
    lanes_t xs[BLOCK], w[BLOCK];
    line_t lines[CHUNKS][LINES];
    search_t searches[CHUNKS];
    float mean[ROWS];
    for (; rows > 0; rows -= ROWS, x += ROWS * columns) {
        ptrdiff_t here = rows < ROWS ? rows : ROWS, total = here * columns;
        mean_squares(x, here, columns, mean);
        for (ptrdiff_t at = 0; at < total; at += GROUP * BLOCK) {
            ptrdiff_t left = (total - at) / BLOCK, count = left < GROUP ? left : GROUP;
            for (int half = 0; half < GROUP / KERNEL_LANES; half++) {
                ptrdiff_t from = at + half * KERNEL_LANES * BLOCK;
                load_weighted(x, importance, columns, from, from < total ? blocks_left(from, total) : 0, mean, xs, w);
                fill_lines(xs, w, half, lines);
            }
            search_group(searches, lines, grid);
            for (int j = 0; j < count; j++) {
                const search_t *s = &searches[j / CHUNK];
                float times = s->inverse[j % CHUNK], base = s->base[j % CHUNK];
                uint8_t l[BLOCK];
                for (int i = 0; i < BLOCK; i++)
                    l[i] = (uint8_t)clamp_int(nearest_int(times * (x[at + BLOCK * j + i] - base)), 0, most);
                uint16_t m = f16_narrow(s->min[j % CHUNK]);
                out = store_block(f16_narrow(s->scale[j % CHUNK]), &m, l, most == 31, out);
            }
        }
    }
}
