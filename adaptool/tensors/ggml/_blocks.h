/* Blocks of 32 elements of 4 or 5 bits: how they lie, and what quantises them where importance is given. */
#ifndef ADAPTOOL_BLOCKS_H
#define ADAPTOOL_BLOCKS_H

#include "_lanes.h"

enum { BLOCK = 32 };

/* How many blocks from element `at` on go side by side. */
INLINE int blocks_left(ptrdiff_t at, ptrdiff_t total) {
    ptrdiff_t left = (total - at) / BLOCK;
    return left < KERNEL_LANES ? (int)left : KERNEL_LANES;
}

/* The first half in the low nibbles of 16 bytes, the second in the high ones. */
INLINE void store_nibbles(const uint8_t *restrict l, uint8_t *restrict out) {
    for (int i = 0; i < BLOCK / 2; i++)
        out[i] = (uint8_t)((l[i] & 15) | l[i + BLOCK / 2] << 4);
}

/* d; the offset m of the types that have one; the fifth bits of those that have five; the nibbles. Where the next lies. */
INLINE uint8_t *store_block(uint16_t d, const uint16_t *m, const uint8_t *restrict l, int five, uint8_t *restrict out) {
    store_f16(out, d);
    out += 2;
    if (m) {
        store_f16(out, *m);
        out += 2;
    }
    if (five) {
        uint32_t bits = 0;
        for (int i = 0; i < BLOCK; i++)
            bits |= (uint32_t)(l[i] >> 4 & 1) << i;
        memcpy(out, &bits, 4);
        out += 4;
    }
    store_nibbles(l, out);
    return out + BLOCK / 2;
}

/* Under importance the scale (and offset) of a block is searched: integers in [-half, half), in [0, most]. */
void quantize_symmetric_weighted(const float *x, const float *importance, uint8_t *out, ptrdiff_t rows, ptrdiff_t columns,
                                 int half);
void quantize_affine_weighted(const float *x, const float *importance, uint8_t *out, ptrdiff_t rows, ptrdiff_t columns,
                              int most);

#endif
