/* Blocks back to float32, for the types GGUF files are mostly made of. Each is GGML's to_float, bit for bit. */
#include "_lanes.h"

INLINE float load_f16(const uint8_t *bytes) { uint16_t h; memcpy(&h, bytes, 2); return f16_widen(h); }

/* 32 elements of 4 bits, or of 5 where `high` holds their fifth bits: (l - zero) * d + m. */
INLINE void nibbles(const uint8_t *restrict low, const uint8_t *high, int zero, float d, const float *m, float *restrict y) {
    uint32_t fifth = 0;
    if (high)
        memcpy(&fifth, high, 4);
    for (int i = 0; i < 32; i++) {
        int l = i < 16 ? low[i] & 15 : low[i - 16] >> 4;
        float v = (float)((l | (int)(fifth >> i & 1) << 4) - zero) * d;
        y[i] = m ? v + *m : v;
    }
}

INLINE void q4_0_block(const uint8_t *restrict b, float *restrict y) { nibbles(b + 2, NULL, 8, load_f16(b), NULL, y); }

INLINE void q4_1_block(const uint8_t *restrict b, float *restrict y) {
    float m = load_f16(b + 2);
    nibbles(b + 4, NULL, 0, load_f16(b), &m, y);
}

INLINE void q5_0_block(const uint8_t *restrict b, float *restrict y) { nibbles(b + 6, b + 2, 16, load_f16(b), NULL, y); }

INLINE void q5_1_block(const uint8_t *restrict b, float *restrict y) {
    float m = load_f16(b + 2);
    nibbles(b + 8, b + 4, 0, load_f16(b), &m, y);
}

INLINE void q8_0_block(const uint8_t *restrict b, float *restrict y) {
    float d = load_f16(b);
    for (int i = 0; i < 32; i++)
        y[i] = (float)(int8_t)b[2 + i] * d;
}

/* Q2_K: 16 scales and offsets of 4 bits, 64 bytes of bit pairs, d, dmin. */
INLINE void q2_k_block(const uint8_t *restrict b, float *restrict y) {
    float d = load_f16(b + 80), d_low = load_f16(b + 82);
    for (int j = 0; j < 16; j++) {
        const uint8_t *q = b + 16 + 32 * (j / 8) + 16 * (j % 2);
        float scale = d * (float)(b[j] & 15), low = d_low * (float)(b[j] >> 4);
        for (int i = 0; i < 16; i++)
            y[16 * j + i] = scale * (float)(q[i] >> (j % 8 / 2 * 2) & 3) - low;
    }
}

/* Q3_K: 32 bytes of high bits, 64 of bit pairs, 16 scales of 6 bits in 12, d. */
INLINE void q3_k_block(const uint8_t *restrict b, float *restrict y) {
    float d = load_f16(b + 108);
    for (int j = 0; j < 16; j++) {
        const uint8_t *q = b + 32 + 32 * (j / 8) + 16 * (j % 2), *high = b + 16 * (j % 2);
        int held = (b[96 + j % 8] >> (j < 8 ? 0 : 4) & 15) | (b[104 + j % 4] >> (2 * (j / 4)) & 3) << 4;
        float scale = d * (float)(held - 32);
        for (int i = 0; i < 16; i++)
            y[16 * j + i] = scale * (float)((q[i] >> (j % 8 / 2 * 2) & 3) + (high[i] >> (j / 2) & 1) * 4 - 4);
    }
}

/* The j-th scale and offset of Q4_K and Q5_K: 6 bits each, the last four spread over what the first leave. */
INLINE void scale_and_low(const uint8_t *restrict packed, int j, float d, float d_low, float *scale, float *low) {
    int s = j < 4 ? packed[j] & 63 : (packed[j + 4] & 15) | packed[j - 4] >> 6 << 4;
    int m = j < 4 ? packed[j + 4] & 63 : packed[j + 4] >> 4 | packed[j] >> 6 << 4;
    *scale = d * (float)s;
    *low = d_low * (float)m;
}

/* Q4_K: d, dmin, 12 bytes of scales and offsets, 128 of nibbles. Q5_K: 32 bytes of fifth bits before these. */
INLINE void k_block(const uint8_t *restrict b, const uint8_t *restrict fifth, const uint8_t *restrict q, float *restrict y) {
    for (int j = 0; j < 8; j++) {
        float scale, low;
        scale_and_low(b + 4, j, load_f16(b), load_f16(b + 2), &scale, &low);
        for (int i = 0; i < 32; i++) {
            int l = q[32 * (j / 2) + i] >> (j % 2 * 4) & 15;
            y[32 * j + i] = scale * (float)(fifth ? l | (fifth[i] >> j & 1) << 4 : l) - low;
        }
    }
}

INLINE void q4_k_block(const uint8_t *restrict b, float *restrict y) { k_block(b, NULL, b + 16, y); }
INLINE void q5_k_block(const uint8_t *restrict b, float *restrict y) { k_block(b, b + 16, b + 48, y); }

/* Q6_K: 128 bytes of low nibbles, 64 of high bit pairs, 16 scales, d. */
INLINE void q6_k_block(const uint8_t *restrict b, float *restrict y) {
    float d = load_f16(b + 208);
    for (int j = 0; j < 16; j++) {
        const uint8_t *low = b + 64 * (j / 8) + 16 * (j % 4), *high = b + 128 + 32 * (j / 8) + 16 * (j % 2);
        float scale = d * (float)(int8_t)b[192 + j];
        for (int i = 0; i < 16; i++)
            y[16 * j + i] = scale * (float)(((low[i] >> (j % 8 / 4 * 4) & 15) | (high[i] >> (j % 8 / 2 * 2) & 3) << 4) - 32);
    }
}

/* 32 elements as nibbles that name one of 16 values. */
INLINE void named(const uint8_t *restrict q, const int8_t *restrict values, float d, float *restrict y) {
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)values[q[i] & 15];
        y[i + 16] = d * (float)values[q[i] >> 4];
    }
}

static const int8_t IQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t FP4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}; /* doubled */

INLINE void iq4_nl_block(const uint8_t *restrict b, float *restrict y) { named(b + 2, IQ4, load_f16(b), y); }

/* IQ4_XS: d, the 8 scales' high bit pairs in 2 bytes and low nibbles in 4, 128 bytes of nibbles. */
INLINE void iq4_xs_block(const uint8_t *restrict b, float *restrict y) {
    for (int j = 0; j < 8; j++) {
        int held = (b[4 + j / 2] >> (j % 2 * 4) & 15) | (b[2 + j / 4] >> (j % 4 * 2) & 3) << 4;
        named(b + 8 + 16 * j, IQ4, load_f16(b) * (float)(held - 32), y + 32 * j);
    }
}

INLINE void mxfp4_block(const uint8_t *restrict b, float *restrict y) {
    named(b + 1, FP4, as_float(b[0] < 2 ? 0x00200000u << b[0] : (uint32_t)(b[0] - 1) << 23), y);
}

#define TYPE(name, elements, nbytes)                                                                                    \
    KERNEL void dequantize_##name(const uint8_t *restrict blocks, float *restrict out, ptrdiff_t n) {                   \
        for (ptrdiff_t at = 0; at < n; at += elements, blocks += nbytes)                                                \
            name##_block(blocks, out + at);                                                                             \
    }

TYPE(q4_0, 32, 18)
TYPE(q4_1, 32, 20)
TYPE(q5_0, 32, 22)
TYPE(q5_1, 32, 24)
TYPE(q8_0, 32, 34)
TYPE(q2_k, 256, 84)
TYPE(q3_k, 256, 110)
TYPE(q4_k, 256, 144)
TYPE(q5_k, 256, 176)
TYPE(q6_k, 256, 210)
TYPE(iq4_nl, 32, 18)
TYPE(iq4_xs, 256, 136)
TYPE(mxfp4, 32, 17)
