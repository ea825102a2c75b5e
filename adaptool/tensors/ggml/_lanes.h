/* What the quantisers share: many sub-blocks side by side, one in each lane, and GGML's roundings.
 *
 * A search for a sub-block's scale is a chain of float additions whose order decides the bytes, so it cannot be
 * spread over a vector; but every sub-block's search is independent, so KERNEL_LANES of them run in step. Data lie
 * as [element of the sub-block][lane]; branches become selects. Compile with -ffp-contract=off: a fused
 * multiply-add rounds once where GGML's reference rounds twice.
 */
#ifndef ADAPTOOL_LANES_H
#define ADAPTOOL_LANES_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(ADAPTOOL_CLONES)
#define KERNEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define KERNEL
#endif

/* Everything a kernel calls is inlined into it, so that it is compiled for each of the kernel's processors. */
#define INLINE static inline __attribute__((always_inline, unused))

/* Before a loop of few rounds with a large body: unrolling it would only cost code. */
#define ROLLED _Pragma("GCC unroll 1")

enum { KERNEL_LANES = 32, SUPER_BLOCK = 256 };

/* One float (or int) for each lane. */
typedef float lanes_t[KERNEL_LANES] __attribute__((aligned(64)));
typedef int32_t lanes_int_t[KERNEL_LANES] __attribute__((aligned(64)));

INLINE float as_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
INLINE uint32_t as_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

/* a where the mask is all ones, b where it is 0. On bits, for a conditional store in a search's chain of additions
 * would become a mispredicted branch. */
INLINE float pick(uint32_t mask, float a, float b) { return as_float(as_bits(b) ^ ((as_bits(a) ^ as_bits(b)) & mask)); }

/* To the nearest integer, ties to even, for |x| < 2^22; beyond that the same nonsense as GGML's nearest_int. */
INLINE int32_t nearest_int(float x) { return (int32_t)(as_bits(x + 12582912.0f) & 0x007FFFFFu) - 0x00400000; }

INLINE int32_t clamp_int(int32_t x, int32_t low, int32_t high) {
    x = x > high ? high : x;
    return x < low ? low : x;
}

/* f16: the exponent is rebased by one exact multiplication, which also normalises subnormals. */
INLINE float f16_widen(uint16_t h) {
    uint32_t magnitude = (uint32_t)(h & 0x7FFFu) << 13;
    uint32_t bits = as_bits(as_float(magnitude) * as_float(0x77800000u)); /* 2^112 */
    bits = magnitude >= 0x0F800000u ? (magnitude | 0x7F800000u) : bits;   /* inf, nan */
    return as_float(bits | ((uint32_t)(h & 0x8000u) << 16));
}

/* Rounds to nearest even; any NaN becomes 0x7E00 with its sign, as in GGML. */
INLINE uint16_t f16_narrow(float x) {
    uint32_t bits = as_bits(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
    /* below 2^-14 the result is subnormal: let one addition of 0.5 align and round the mantissa */
    uint32_t tiny = as_bits(as_float(magnitude) + 0.5f) - 0x3F000000u;
    uint32_t normal = (magnitude - 0x38000000u + 0x0FFFu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t result = magnitude < 0x38800000u ? tiny : normal;
    result = magnitude >= 0x477FF000u ? 0x7C00u : result; /* rounds past 65504 */
    result = magnitude > 0x7F800000u ? 0x7E00u : result;
    return (uint16_t)(sign | result);
}

INLINE void store_f16(uint8_t *out, uint16_t h) { memcpy(out, &h, 2); } /* GGML files are little-endian */

#if defined(__clang__) || __GNUC__ >= 12
typedef float quad_t __attribute__((vector_size(16)));

INLINE quad_t load_quad(const float *x) { quad_t v; memcpy(&v, x, 16); return v; }

/* out[i][j] = x[j][i] for a square of four. */
INLINE void transpose_quad(const float *x, ptrdiff_t x_stride, float *out, ptrdiff_t out_stride) {
    quad_t a = load_quad(x), b = load_quad(x + x_stride), c = load_quad(x + 2 * x_stride), d = load_quad(x + 3 * x_stride);
    quad_t ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    quad_t cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    quad_t columns[4] = {
        __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5), __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7),
        __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5), __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7)};
    for (int i = 0; i < 4; i++)
        memcpy(out + i * out_stride, &columns[i], 16);
}
#else
INLINE void transpose_quad(const float *x, ptrdiff_t x_stride, float *out, ptrdiff_t out_stride) {
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++)
            out[i * out_stride + j] = x[j * x_stride + i];
}
#endif

/* `count` consecutive sub-blocks of `size` floats into lanes; both are multiples of four. Lanes past `count` get zeros. */
INLINE void load_lanes(const float *restrict x, int count, int size, lanes_t *restrict out) {
    for (int lane = 0; lane < KERNEL_LANES; lane += 4)
        for (int i = 0; i < size; i += 4)
            if (lane < count)
                transpose_quad(x + (ptrdiff_t)lane * size + i, size, &out[i][lane], KERNEL_LANES);
            else
                for (int k = 0; k < 4; k++)
                    memset(&out[i + k][lane], 0, 16);
}

#endif
