/* Types whose blocks stand alone, and what they need of every block. */
#include <stddef.h>
#include <stdint.h>

int all_finite(const float *x, ptrdiff_t n) {
    const uint32_t *bits = (const uint32_t *)x;
    uint32_t worst = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t magnitude = bits[i] & 0x7FFFFFFFu;
        worst = magnitude > worst ? magnitude : worst;
    }
    return worst < 0x7F800000u;
}
