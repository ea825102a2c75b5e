/* The search for a sub-block's scale and minimum, x ~ scale * level + min with min <= 0, many sub-blocks in step.
 *
 * GGML's make_qkx2_quants and make_qkx3_quants: a grid of scales is tried; each rounds x to levels, to which a scale
 * and a minimum are fitted by weighted least squares; the fit of least error wins, and its minimum is where the next
 * trial starts from. Loops over a chunk's lanes (EACH) are innermost and of constant length: compilers vectorise them.
 */
#ifndef ADAPTOOL_GRID_H
#define ADAPTOOL_GRID_H

#include "_lanes.h"

#include <math.h>
#include <stdbool.h>

enum { CHUNK = 16, CHUNKS = 4, GROUP = CHUNK * CHUNKS, LINES = 32 };

#define EACH for (int k = 0; k < CHUNK; k++)
#define EACH_CHUNK ROLLED for (int c = 0; c < CHUNKS; c++)

typedef float chunk_t[CHUNK] __attribute__((aligned(64)));
typedef int32_t chunk_int_t[CHUNK] __attribute__((aligned(64)));

/* Which scales are tried: (levels + first + step * i) / range for i = 0 .. steps; the error is |d| or d squared. */
typedef struct { int size, levels, steps; float first, step; bool absolute; } grid_t;

/* One element of each sub-block of a chunk: interleaved, for arrays a multiple of 4 KiB apart alias in the L1 cache. */
typedef struct { chunk_t x, weight, level; } line_t;

/* A chunk's searches: the data's range and sums, the best fit so far, and the fit on trial. */
typedef struct {
    chunk_t x_min, x_max, sum_w, sum_x;
    chunk_t error, scale, min, inverse, base; /* the best; its levels are nearest(inverse * (x - base)) */
    chunk_t trial_inverse, trial_scale, trial_min, determinant;
    chunk_int_t inexact; /* whether a trial left the range in which level_of's shortcut holds */
} search_t;

enum level_mode { ANY_VALUE, AT_MOST_LEVELS, IN_RANGE };
static const float NEAREST_RANGE = 4194303.0f;

/* The clamped nearest level, as a float. Adding 1.5 * 2^23 leaves the integer in the low bits of the sum. */
INLINE float level_of(float v, int levels, enum level_mode mode) {
    const int32_t zero = 0x4B400000;
    if (mode == ANY_VALUE)
        return (float)clamp_int(nearest_int(v), 0, levels);
    int32_t bits = (int32_t)as_bits(v + 12582912.0f);
    if (mode == IN_RANGE)
        bits = bits > zero + levels ? zero + levels : bits;
    bits = bits < zero ? zero : bits;
    return as_float((uint32_t)bits) - 12582912.0f;
}

INLINE void start(search_t *restrict s, const line_t *restrict lines, grid_t grid, enum level_mode mode) {
    chunk_t low, high, sum_w, sum_x, inverse, scale, error;
    chunk_int_t flat;
    EACH {
        low[k] = high[k] = lines[0].x[k];
        sum_w[k] = lines[0].weight[k];
        sum_x[k] = sum_w[k] * low[k];
        error[k] = 0;
    }
    for (int i = 1; i < grid.size; i++)
        EACH {
            float x = lines[i].x[k], w = lines[i].weight[k];
            low[k] = x < low[k] ? x : low[k];
            high[k] = x > high[k] ? x : high[k];
            sum_w[k] += w;
            sum_x[k] += w * x;
        }
    EACH {
        s->x_min[k] = low[k];
        low[k] = low[k] > 0 ? 0 : low[k];
        flat[k] = high[k] <= low[k];
        s->x_max[k] = flat[k] ? low[k] + 1 : high[k]; /* any range: a flat sub-block's trials are never taken */
        s->sum_w[k] = sum_w[k];
        s->sum_x[k] = sum_x[k];
        inverse[k] = (float)grid.levels / (s->x_max[k] - low[k]);
        scale[k] = 1 / inverse[k];
        s->scale[k] = flat[k] ? 0 : scale[k];
        s->inverse[k] = flat[k] ? 0 : inverse[k];
        s->min[k] = s->base[k] = low[k];
        float span = inverse[k] * (s->x_max[k] - low[k]);
        s->inexact[k] = !(span <= NEAREST_RANGE);
    }
    for (int i = 0; i < grid.size; i++)
        EACH {
            float x = lines[i].x[k];
            float d = scale[k] * level_of(inverse[k] * (x - low[k]), grid.levels, mode) + low[k] - x;
            error[k] += lines[i].weight[k] * (grid.absolute ? fabsf(d) : d * d);
        }
    EACH s->error[k] = flat[k] ? -INFINITY : error[k];
}

/* The next scale to try, from the minimum that is best so far. */
INLINE void aim(search_t *restrict s, float numerator, float limit) {
    EACH {
        float range = s->x_max[k] - s->min[k];
        float inverse = numerator / range;
        float first = inverse * (s->x_min[k] - s->min[k]), last = inverse * range;
        s->trial_inverse[k] = inverse;
        s->inexact[k] |= !((first >= -NEAREST_RANGE) & (first <= limit) & (last >= -NEAREST_RANGE) & (last <= limit));
    }
}

/* Levels at the trial's scale, and the weighted least-squares fit of a scale and a minimum <= 0 to them. */
INLINE void fit(search_t *restrict s, line_t *restrict lines, grid_t grid, enum level_mode mode) {
    chunk_t sum_l, sum_l2, sum_xl, inverse, base;
    EACH {
        sum_l[k] = sum_l2[k] = sum_xl[k] = 0;
        inverse[k] = s->trial_inverse[k];
        base[k] = s->min[k];
    }
    for (int i = 0; i < grid.size; i++)
        EACH {
            float x = lines[i].x[k];
            float level = level_of(inverse[k] * (x - base[k]), grid.levels, mode);
            float wl = lines[i].weight[k] * level;
            lines[i].level[k] = level;
            sum_l[k] += wl;
            sum_l2[k] += wl * level;
            sum_xl[k] += wl * x;
        }
    EACH {
        float w = s->sum_w[k], x = s->sum_x[k];
        float determinant = w * sum_l2[k] - sum_l[k] * sum_l[k];
        float scale = (w * sum_xl[k] - x * sum_l[k]) / determinant;
        float min = (sum_l2[k] * x - sum_l[k] * sum_xl[k]) / determinant;
        float scale_alone = sum_xl[k] / sum_l2[k];
        uint32_t positive = -(uint32_t)(min > 0);
        s->determinant[k] = determinant;
        s->trial_scale[k] = pick(positive, scale_alone, scale);
        s->trial_min[k] = pick(positive, 0, min);
    }
}

/* Keeps the trial where its error is less. */
INLINE void judge(search_t *restrict s, const line_t *restrict lines, int size, bool absolute) {
    chunk_t error, scale, min;
    EACH {
        error[k] = 0;
        scale[k] = s->trial_scale[k];
        min[k] = s->trial_min[k];
    }
    for (int i = 0; i < size; i++)
        EACH {
            float d = scale[k] * lines[i].level[k] + min[k] - lines[i].x[k];
            error[k] += lines[i].weight[k] * (absolute ? fabsf(d) : d * d);
        }
    EACH {
        uint32_t better = -(uint32_t)((s->determinant[k] > 0) & (error[k] < s->error[k]));
        s->error[k] = pick(better, error[k], s->error[k]);
        s->scale[k] = pick(better, scale[k], s->scale[k]);
        s->inverse[k] = pick(better, s->trial_inverse[k], s->inverse[k]);
        s->base[k] = pick(better, s->min[k], s->base[k]);
        s->min[k] = pick(better, min[k], s->min[k]);
    }
}

/* All of a group's chunks take a step before any takes the next, so that one's divisions overlap another's sums. */
INLINE void try_scale(search_t *restrict searches, line_t (*restrict lines)[LINES], grid_t grid, int i, enum level_mode mode) {
    float numerator = grid.first + grid.step * (float)i + (float)grid.levels;
    float limit = mode == AT_MOST_LEVELS ? (float)grid.levels + 0.45f : NEAREST_RANGE;
    EACH_CHUNK aim(&searches[c], numerator, limit);
    EACH_CHUNK fit(&searches[c], lines[c], grid, mode);
    if (grid.absolute)
        EACH_CHUNK judge(&searches[c], lines[c], grid.size, true);
    else
        EACH_CHUNK judge(&searches[c], lines[c], grid.size, false);
}

/* The same search for any values whatever, as GGML's arithmetic has it even where its rounding overflows. */
static __attribute__((noinline, cold)) void search_any(search_t *restrict searches, line_t (*restrict lines)[LINES], grid_t grid) {
    EACH_CHUNK start(&searches[c], lines[c], grid, ANY_VALUE);
    for (int i = 0; i <= grid.steps; i++)
        try_scale(searches, lines, grid, i, ANY_VALUE);
}

INLINE void search_group(search_t *restrict searches, line_t (*restrict lines)[LINES], grid_t grid) {
    int i = 0;
    EACH_CHUNK start(&searches[c], lines[c], grid, AT_MOST_LEVELS);
    for (; grid.first + grid.step * (float)i < 0.43f; i++) /* the largest value cannot round past the last level */
        try_scale(searches, lines, grid, i, AT_MOST_LEVELS);
    for (; i <= grid.steps; i++)
        try_scale(searches, lines, grid, i, IN_RANGE);
    int32_t inexact = 0;
    EACH_CHUNK EACH inexact |= searches[c].inexact[k];
    if (inexact)
        search_any(searches, lines, grid);
}

#endif
