/* The inner loop of a merge, fused: widen, scale, add, round once, in one pass over memory.
 *
 * Each function computes bit for bit what the NumPy fallback in compute.py computes: no fused multiply-add
 * (-ffp-contract=off), rounding to nearest even, NaN as the one quiet NaN PyTorch writes. Loaded through ctypes,
 * which releases the GIL; nothing here knows of Python.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(ADAPTOOL_CLONES)
#define KERNEL __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define KERNEL
#endif

static inline float as_float(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
static inline uint32_t as_bits(float x) { uint32_t bits; memcpy(&bits, &x, 4); return bits; }

static inline float bf16_widen(uint16_t h) { return as_float((uint32_t)h << 16); }

static inline uint16_t bf16_narrow(float x) {
    uint32_t bits = as_bits(x);
    uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)(x != x ? 0x7FC0u : rounded);
}

/* f16: the exponent is rebased by one exact multiplication, which also normalises subnormals. */
static inline float f16_widen(uint16_t h) {
    uint32_t magnitude = (uint32_t)(h & 0x7FFFu) << 13;
    float x = as_float(magnitude) * as_float(0x77800000u); /* 2^112 */
    uint32_t bits = as_bits(x);
    bits = magnitude >= 0x0F800000u ? (magnitude | 0x7F800000u) : bits; /* inf, nan */
    return as_float(bits | ((uint32_t)(h & 0x8000u) << 16));
}

static inline uint16_t f16_narrow(float x) {
    uint32_t bits = as_bits(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
    /* below 2^-14 the result is subnormal: let one addition of 0.5 align and round the mantissa */
    uint32_t tiny = as_bits(as_float(magnitude) + 0.5f) - 0x3F000000u;
    uint32_t normal = (magnitude - 0x38000000u + 0x0FFFu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t result = magnitude < 0x38800000u ? tiny : normal;
    result = magnitude >= 0x477FF000u ? 0x7C00u : result; /* rounds past 65504 */
    result = magnitude > 0x7F800000u ? (0x7E00u | ((bits >> 13) & 0x3FFu)) : result;
    return (uint16_t)(sign | result);
}

#define FUNCTIONS(type)                                                                                         \
    KERNEL void add_once_##type(uint16_t *restrict w, const float *restrict delta, float scale, ptrdiff_t n) { \
        for (ptrdiff_t i = 0; i < n; i++)                                                                       \
            w[i] = type##_narrow(type##_widen(w[i]) + delta[i] * scale);                                        \
    }                                                                                                           \
    KERNEL void add_safe_##type(uint16_t *restrict w, const float *restrict delta, float scale, ptrdiff_t n) { \
        for (ptrdiff_t i = 0; i < n; i++)                                                                       \
            w[i] = type##_narrow(type##_widen(w[i]) + type##_widen(type##_narrow(delta[i] * scale)));           \
    }                                                                                                           \
    KERNEL void widen_##type(const uint16_t *restrict w, float *restrict x, ptrdiff_t n) {                      \
        for (ptrdiff_t i = 0; i < n; i++)                                                                       \
            x[i] = type##_widen(w[i]);                                                                          \
    }                                                                                                           \
    KERNEL void narrow_##type(const float *restrict x, uint16_t *restrict w, ptrdiff_t n) {                     \
        for (ptrdiff_t i = 0; i < n; i++)                                                                       \
            w[i] = type##_narrow(x[i]);                                                                         \
    }

FUNCTIONS(bf16)
FUNCTIONS(f16)

KERNEL void add_once_f32(float *restrict w, const float *restrict delta, float scale, ptrdiff_t n) {
    for (ptrdiff_t i = 0; i < n; i++)
        w[i] += delta[i] * scale;
}

/* Sums of squares of each row in eight lanes, one after another: the order PyTorch's CPU norm sums in. */
KERNEL void row_squares_f32(const float *restrict x, float *restrict sums, ptrdiff_t rows, ptrdiff_t columns) {
    for (ptrdiff_t row = 0; row < rows; row++, x += columns) {
        float lanes[8] = {0};
        ptrdiff_t i = 0;
        for (; i + 8 <= columns; i += 8)
            for (int lane = 0; lane < 8; lane++)
                lanes[lane] += x[i + lane] * x[i + lane];
        float sum = lanes[0];
        for (int lane = 1; lane < 8; lane++)
            sum += lanes[lane];
        for (; i < columns; i++)
            sum += x[i] * x[i];
        sums[row] = sum;
    }
}
