/* IQ4_NL and IQ4_XS: four bits that name one of sixteen unevenly spaced values, times a scale.
 *
 * Byte for byte GGML's reference quantisers (ggml-quants.c).
 */
#include "_lanes.h"
#include "_scales.h"

#include <math.h>

enum { SIZE = 32, LEVELS = 16, SUB_BLOCKS = SUPER_BLOCK / SIZE };

/* The values, and what lies midway between neighbours: there the upper one is nearest. */
static const int8_t VALUES[LEVELS] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
#define MIDWAY(k) (0.5f * (float)(VALUES[k] + VALUES[(k) + 1]))

/* The value nearest to x, which is not NaN. Written out, as only a loop without a loop in it is vectorised everywhere. */
INLINE float nearest_value(float x) {
    float q = VALUES[0];
#define FROM(level) q = x >= MIDWAY(level - 1) ? (float)VALUES[level] : q
    FROM(1), FROM(2), FROM(3), FROM(4), FROM(5), FROM(6), FROM(7), FROM(8);
    FROM(9), FROM(10), FROM(11), FROM(12), FROM(13), FROM(14), FROM(15);
#undef FROM
    return q;
}

/* The number of the value nearest to x; the last for NaN. */
INLINE uint8_t nearest_index(float x) {
    int32_t found = LEVELS - 1;
    for (int k = 0; k < LEVELS - 1; k++)
        found -= x < MIDWAY(k);
    return (uint8_t)found;
}

/* For each lane the scale whose values fit x best under the weights w: sixteen candidates for its inverse are tried, each
 * gives the least-squares scale of the values it rounds to. 0 for zeros. */
INLINE void search_values(const lanes_t *restrict x, const lanes_t *restrict w, float *restrict scale) {
    lanes_t peak, best, times, sum_qx, sum_q2;
    largest(x, SIZE, peak);
    for (int candidate = -8; candidate <= 7; candidate++) {
        for (int lane = 0; lane < KERNEL_LANES; lane++) {
            float first = 1.0f / (-peak[lane] / (float)VALUES[0]);
            times[lane] = candidate == -8 ? first : (float)(candidate + VALUES[0]) / peak[lane];
        }
        for (int from = 0; from < KERNEL_LANES; from += STEP) {
            float qx[STEP] = {0}, q2[STEP] = {0};
            for (int i = 0; i < SIZE; i++)
                for (int k = 0; k < STEP; k++) {
                    float v = x[i][from + k], q = nearest_value(times[from + k] * v), wq = w[i][from + k] * q;
                    qx[k] += wq * v;
                    q2[k] += wq * q;
                }
            for (int k = 0; k < STEP; k++)
                sum_qx[from + k] = qx[k], sum_q2[from + k] = q2[k];
        }
        for (int lane = 0; lane < KERNEL_LANES; lane++) {
            float qx = sum_qx[lane], q2 = sum_q2[lane], fit = qx / q2;
            float first = q2 > 0.0f ? fit : 0.0f;
            int better = (q2 > 0.0f) & (qx * qx > best[lane] * q2);
            scale[lane] = candidate == -8 ? first : better ? fit : scale[lane];
            best[lane] = candidate == -8 ? first * qx : better ? fit * qx : best[lane];
        }
    }
    for (int lane = 0; lane < KERNEL_LANES; lane++)
        scale[lane] = fabsf(peak[lane]) < NOTHING ? 0.0f : scale[lane];
}

/* In each lane twice the mean square of the `run` sub-blocks it belongs to, summed in the order of their elements. */
INLINE void mean_squares(const float *restrict x, int count, int run, float *restrict mean) {
    for (int lane = 0; lane < KERNEL_LANES; lane += run) {
        float sum = 0.0f;
        for (int i = 0; lane < count && i < run * SIZE; i++)
            sum += x[SIZE * lane + i] * x[SIZE * lane + i];
        for (int j = 0; j < run; j++)
            mean[lane + j] = sum * (2.0f / (float)(run * SIZE));
    }
}

/* The scales of `count` sub-blocks from element `at` on, `run` of which make a block. */
INLINE void find_scales(const float *restrict x, const float *restrict importance, ptrdiff_t columns, ptrdiff_t at, int count,
                        int run, float *restrict scale) {
    lanes_t xs[SIZE], w[SIZE], mean = {0};
    load_lanes(x, count, SIZE, xs);
    if (importance) {
        load_weights(importance, columns, at, count, SIZE, w);
        mean_squares(x, count, run, mean);
    }
    for (int i = 0; i < SIZE; i++)
        for (int lane = 0; lane < KERNEL_LANES; lane++) {
            float v = xs[i][lane];
            w[i][lane] = importance ? w[i][lane] * sqrtf(mean[lane] + v * v) : v * v;
        }
    search_values(xs, w, scale);
}

/* 32 elements as 16 bytes: the first half in the low nibbles. */
INLINE void store_nibbles(const float *restrict x, float times, uint8_t *restrict out) {
    uint8_t l[SIZE];
    for (int i = 0; i < SIZE; i++)
        l[i] = nearest_index(times * x[i]);
    for (int i = 0; i < SIZE / 2; i++)
        out[i] = (uint8_t)(l[i] | l[i + SIZE / 2] << 4);
}

KERNEL void quantize_iq4_nl(const float *restrict x, const float *restrict importance, uint8_t *restrict out, ptrdiff_t rows,
                            ptrdiff_t columns) {
    ptrdiff_t total = rows * columns;
    lanes_t scale;
    for (ptrdiff_t at = 0; at < total; at += KERNEL_LANES * SIZE) {
        ptrdiff_t left = (total - at) / SIZE;
        int count = left < KERNEL_LANES ? (int)left : KERNEL_LANES;
        find_scales(x + at, importance, columns, at, count, 1, scale);
        for (int j = 0; j < count; j++, out += 18) {
            store_f16(out, f16_narrow(scale[j]));
            store_nibbles(x + at + SIZE * j, scale[j] != 0.0f ? 1.0f / scale[j] : 0.0f, out + 2);
        }
    }
}

/* IQ4_XS: d, the 8 scales' high bit pairs in 2 bytes and low nibbles in 4, 128 bytes of nibbles. */
INLINE void store_iq4_xs(const float *restrict x, const float *restrict scale, uint8_t *restrict out) {
    float peak = 0.0f;
    for (int j = 0; j < SUB_BLOCKS; j++)
        peak = fabsf(scale[j]) > fabsf(peak) ? scale[j] : peak;
    float d = -peak / 32.0f, times = d != 0.0f ? 1.0f / d : 0.0f;
    store_f16(out, f16_narrow(d));
    memset(out + 2, 0, 6);
    for (int j = 0; j < SUB_BLOCKS; j++) {
        int held = clamp_int(nearest_int(times * scale[j]), -32, 31);
        float dl = d * (float)held;
        store_nibbles(x + SIZE * j, dl != 0.0f ? 1.0f / dl : 0.0f, out + 8 + 16 * j);
        held += 32;
        out[2 + j / 4] |= (uint8_t)(held >> 4 << (2 * (j % 4)));
        out[4 + j / 2] |= (uint8_t)((held & 15) << (4 * (j % 2)));
    }
}

KERNEL void quantize_iq4_xs(const float *restrict x, const float *restrict importance, uint8_t *restrict out, ptrdiff_t rows,
                            ptrdiff_t columns) {
    ptrdiff_t total = rows * columns;
    lanes_t scale;
    for (ptrdiff_t at = 0; at < total; at += KERNEL_LANES * SIZE) {
        ptrdiff_t left = (total - at) / SIZE;
        int count = left < KERNEL_LANES ? (int)left : KERNEL_LANES;
        find_scales(x + at, importance, columns, at, count, SUB_BLOCKS, scale);
        for (int j = 0; j < count; j += SUB_BLOCKS, out += 136)
            store_iq4_xs(x + at + SIZE * j, scale + j, out);
    }
}
