/* Q2_K, Q4_K and Q5_K: sub-blocks of a scale and a minimum, byte for byte as GGML quantises them.
 *
 * A super-block is 256 values in sub-blocks of 16 or 32, x ~ scale * level - minimum. Each sub-block's scale and
 * minimum are searched; then they are themselves quantised, to 4 or 6 bits and an f16 for the super-block, and the
 * levels are rounded anew to what that left. With importance (an importance matrix's row) both steps weigh by it.
 */
#include "_grid.h"
#include "_ranks.h"

enum { BATCH = 16, SUBS = 16, SUBS_MAX = BATCH * SUBS };

typedef enum { Q2_K, Q4_K, Q5_K } kind_t;

INLINE grid_t grid_of(kind_t kind, bool weighted) {
    grid_t grid = {.size = kind == Q2_K ? 16 : 32, .levels = kind == Q2_K ? 3 : kind == Q4_K ? 15 : 31};
    grid.steps = weighted ? 36 : kind == Q4_K ? 20 : 15;
    grid.first = weighted ? -0.9f : kind == Q4_K ? -1.0f : -0.5f;
    grid.step = weighted ? 0.05f : 0.1f;
    grid.absolute = kind == Q2_K && !weighted;
    return grid;
}

/* What a batch's searches found, by sub-block; its levels are nearest(inverse * (x - base)). */
typedef struct { float scale[SUBS_MAX], min[SUBS_MAX], inverse[SUBS_MAX], base[SUBS_MAX], sum_w[SUBS_MAX]; } found_t;

/* A super-block's sub-blocks into lanes: `field` is &line.x or &line.weight of its first lane. */
INLINE void load(const float *restrict x, int size, float *restrict field) {
    const ptrdiff_t stride = sizeof(line_t) / sizeof(float);
    ROLLED for (int sub = 0; sub < SUPER_BLOCK / size; sub += 4)
        ROLLED for (int i = 0; i < size; i += 4)
            transpose_quad(x + sub * size + i, size, field + i * stride + sub, stride);
}

/* Sums of squares of the batch's super-blocks, each in the order of its elements. */
INLINE void squares(const float *restrict x, float *restrict sums) {
    for (int k = 0; k < BATCH; k++)
        sums[k] = 0;
    for (int i = 0; i < SUPER_BLOCK; i += 4) {
        float quads[4][BATCH] __attribute__((aligned(64)));
        for (int block = 0; block < BATCH; block += 4)
            transpose_quad(x + block * SUPER_BLOCK + i, SUPER_BLOCK, &quads[0][block], BATCH);
        for (int j = 0; j < 4; j++)
            for (int k = 0; k < BATCH; k++)
                sums[k] += quads[j][k] * quads[j][k];
    }
}

/* With importance: importance * sqrt(sigma2 + x^2), with the super-block's variance. */
INLINE void weigh_by_importance(line_t *restrict lines, int size, const float *restrict variance) {
    for (int i = 0; i < size; i++)
        EACH lines[i].weight[k] *= sqrtf(variance[k] + lines[i].x[k] * lines[i].x[k]);
}

/* Without: |x|, and for sub-blocks of 32 their root mean square more. */
INLINE void weigh(line_t *restrict lines, int size) {
    chunk_t floor;
    EACH floor[k] = 0;
    if (size == 32) {
        for (int i = 0; i < size; i++)
            EACH floor[k] += lines[i].x[k] * lines[i].x[k];
        EACH floor[k] = sqrtf(floor[k] / 32);
    }
    for (int i = 0; i < size; i++)
        EACH lines[i].weight[k] = floor[k] + fabsf(lines[i].x[k]);
}

INLINE void search_batch(const float *restrict x, const float *const *importance, kind_t kind, found_t *restrict found) {
    const grid_t grid = grid_of(kind, importance != NULL);
    const int subs = SUPER_BLOCK / grid.size;
    float variances[BATCH] __attribute__((aligned(64)));
    line_t lines[CHUNKS][LINES];
    if (importance)
        squares(x, variances);
    for (int first = 0; first < BATCH * subs; first += GROUP) {
        for (int sub = 0; sub < GROUP; sub += subs) {
            int block = (first + sub) / subs;
            load(x + block * SUPER_BLOCK, grid.size, &lines[sub / CHUNK][0].x[sub % CHUNK]);
            if (importance)
                load(importance[block], grid.size, &lines[sub / CHUNK][0].weight[sub % CHUNK]);
        }
        EACH_CHUNK {
            if (importance) {
                chunk_t variance;
                EACH {
                    float squared = variances[(first + c * CHUNK + k) / subs];
                    variance[k] = (kind == Q2_K ? squared : 2 * squared) / SUPER_BLOCK;
                }
                weigh_by_importance(lines[c], grid.size, variance);
            } else
                weigh(lines[c], grid.size);
        }
        search_t searches[CHUNKS];
        search_group(searches, lines, grid);
        EACH_CHUNK EACH {
            int sub = first + c * CHUNK + k;
            found->scale[sub] = searches[c].scale[k];
            found->min[sub] = -searches[c].min[k];
            found->inverse[sub] = searches[c].inverse[k];
            found->base[sub] = searches[c].base[k];
            found->sum_w[sub] = searches[c].sum_w[k];
        }
    }
}

/* A super-block's quantised scales and minimums. */
typedef struct { uint8_t scale[SUBS], min[SUBS]; uint16_t d, d_min; } scales_t;

/* With importance: for the whole batch, its scales in the first lanes and its minimums in the others. */
INLINE void weighted_scales(const found_t *restrict found, kind_t kind, int subs, scales_t *restrict scales) {
    lanes_t x[SUBS], w[SUBS], d;
    lanes_int_t l[SUBS];
    for (int i = 0; i < subs; i++)
        for (int block = 0; block < BATCH; block++) {
            x[i][block] = found->scale[block * subs + i];
            x[i][BATCH + block] = found->min[block * subs + i];
            w[i][block] = w[i][BATCH + block] = found->sum_w[block * subs + i];
        }
    quantize_scales(x, w, subs, kind == Q2_K ? 15 : 63, l, d);
    ROLLED for (int block = 0; block < BATCH; block++) {
        for (int i = 0; i < subs; i++) {
            int32_t scale = l[i][block], min = l[i][BATCH + block];
            scales[block].scale[i] = (uint8_t)(kind == Q5_K && scale > 63 ? 63 : scale);
            scales[block].min[i] = (uint8_t)(kind == Q5_K && min > 63 ? 63 : min);
        }
        scales[block].d = f16_narrow(d[block]);
        scales[block].d_min = f16_narrow(d[BATCH + block]);
    }
}

/* The scales' and minimums' bytes of a block; `scales` is left as a reader will unpack it. */
INLINE void pack_scales(scales_t *restrict scales, kind_t kind, uint8_t *restrict out) {
    uint8_t *scale = scales->scale, *min = scales->min;
    if (kind == Q2_K) {
        for (int i = 0; i < 16; i++) {
            out[i] = scale[i] | (uint8_t)(min[i] << 4);
            scale[i] = out[i] & 15;
            min[i] = out[i] >> 4;
        }
        return;
    }
    for (int i = 0; i < 4; i++) {
        out[i] = (uint8_t)(scale[i] | (scale[i + 4] >> 4) << 6);
        out[i + 4] = (uint8_t)(min[i] | (min[i + 4] >> 4) << 6);
        out[i + 8] = (uint8_t)((scale[i + 4] & 15) | (min[i + 4] & 15) << 4);
    }
    for (int i = 0; i < 4; i++) {
        scale[i] = out[i] & 63;
        min[i] = out[i + 4] & 63;
        scale[i + 4] = (uint8_t)((out[i + 8] & 15) | (out[i] >> 6) << 4);
        min[i + 4] = (uint8_t)(out[i + 8] >> 4 | (out[i + 4] >> 6) << 4);
    }
}

/* Levels of 16 elements for a quantised scale and minimum. */
INLINE void levels_of(const float *restrict x, int levels, float scale, float min, uint8_t *restrict l) {
    EACH l[k] = (uint8_t)clamp_int(nearest_int((x[k] + min) / scale), 0, levels);
}

/* Where the scale became 0 they stay as the search left them. */
INLINE void searched_levels(const float *restrict x, int levels, float inverse, float base, uint8_t *restrict l) {
    EACH l[k] = (uint8_t)clamp_int(nearest_int(inverse * (x[k] - base)), 0, levels);
}

/* A super-block's levels: fields of 2 bits for Q2_K, else of 4 with the fifth bits before them for Q5_K. */
INLINE void pack_levels(const uint8_t *restrict l, kind_t kind, uint8_t *restrict out) {
    if (kind == Q2_K)
        ROLLED for (int half = 0; half < 2; half++, l += 128, out += 32)
            for (int i = 0; i < 32; i++)
                out[i] = (uint8_t)(l[i] | l[i + 32] << 2 | l[i + 64] << 4 | l[i + 96] << 6);
    else {
        if (kind == Q5_K) {
            for (int i = 0; i < 32; i++) {
                uint8_t fifths = 0;
                for (int sub = 0; sub < 8; sub++)
                    fifths |= (uint8_t)(l[32 * sub + i] >> 4 << sub);
                out[i] = fifths;
            }
            out += 32;
        }
        ROLLED for (int pair = 0; pair < 4; pair++, l += 64, out += 32)
            for (int i = 0; i < 32; i++)
                out[i] = (uint8_t)((l[i] & 15) | l[i + 32] << 4);
    }
}

INLINE void write_block(const float *restrict x, kind_t kind, grid_t grid, const found_t *restrict found, int first,
                        scales_t *restrict scales, uint8_t *restrict out) {
    uint8_t l[SUPER_BLOCK] __attribute__((aligned(64)));
    float d = f16_widen(scales->d), d_min = f16_widen(scales->d_min);
    uint8_t *halves = kind == Q2_K ? out + 80 : out; /* Q2_K ends in the two f16 that the others begin with */
    store_f16(halves, scales->d);
    store_f16(halves + 2, scales->d_min);
    pack_scales(scales, kind, kind == Q2_K ? out : out + 4);
    ROLLED for (int i = 0; i < SUPER_BLOCK; i += CHUNK) {
        const int sub = i / grid.size;
        const float scale = d * (float)scales->scale[sub], min = d_min * (float)scales->min[sub];
        if (scale == 0)
            searched_levels(x + i, grid.levels, found->inverse[first + sub], found->base[first + sub], l + i);
        else
            levels_of(x + i, grid.levels, scale, min, l + i);
    }
    pack_levels(l, kind, out + 16);
}

/* A batch, of which `count` super-blocks are written. */
INLINE void quantize_batch(const float *restrict x, const float *const *importance, kind_t kind, uint8_t *restrict out, int count) {
    const grid_t grid = grid_of(kind, importance != NULL);
    const int subs = SUPER_BLOCK / grid.size, nbytes = kind == Q2_K ? 84 : kind == Q4_K ? 144 : 176;
    found_t found;
    scales_t scales[BATCH];
    search_batch(x, importance, kind, &found);
    if (importance)
        weighted_scales(&found, kind, subs, scales);
    else
        for (int block = 0; block < BATCH; block++) {
            scales[block].d = proportional(found.scale + block * subs, subs, kind == Q2_K ? 15 : 63, scales[block].scale);
            scales[block].d_min = proportional(found.min + block * subs, subs, kind == Q2_K ? 15 : 63, scales[block].min);
        }
    for (int block = 0; block < count; block++)
        write_block(x + block * SUPER_BLOCK, kind, grid, &found, block * subs, &scales[block], out + block * nbytes);
}

/* Batches run over the ends of rows; the last is filled up with zeros. */
KERNEL static void quantize(const float *restrict x, const float *importance, uint8_t *restrict out, ptrdiff_t rows,
                            ptrdiff_t columns, kind_t kind) {
    const int nbytes = kind == Q2_K ? 84 : kind == Q4_K ? 144 : 176;
    const ptrdiff_t blocks = rows * columns / SUPER_BLOCK;
    float filled[BATCH * SUPER_BLOCK] __attribute__((aligned(64)));
    for (ptrdiff_t first = 0; first < blocks; first += BATCH) {
        const int count = blocks - first < BATCH ? (int)(blocks - first) : BATCH;
        const float *batch = x + first * SUPER_BLOCK, *weights[BATCH];
        if (count < BATCH) {
            memset(filled, 0, sizeof filled);
            memcpy(filled, batch, (size_t)count * SUPER_BLOCK * sizeof(float));
            batch = filled;
        }
        if (importance) {
            for (int block = 0; block < BATCH; block++)
                weights[block] = importance + (first + block) * SUPER_BLOCK % columns;
            quantize_batch(batch, weights, kind, out + first * nbytes, count);
        } else
            quantize_batch(batch, NULL, kind, out + first * nbytes, count);
    }
}

#define QUANTIZE(name, kind)                                                                                          \
    void name(const float *x, const float *importance, uint8_t *out, ptrdiff_t rows, ptrdiff_t columns) {     \
        quantize(x, importance, out, rows, columns, kind);                                                            \
    }

QUANTIZE(quantize_q2_k, Q2_K)
QUANTIZE(quantize_q4_k, Q4_K)
QUANTIZE(quantize_q5_k, Q5_K)
