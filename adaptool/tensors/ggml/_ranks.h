/* Scales of sub-blocks as small integers times one scale of the super-block. */
#ifndef ADAPTOOL_RANKS_H
#define ADAPTOOL_RANKS_H

#include "_lanes.h"

#include <stdbool.h>

#define EACH_LANE for (int k = 0; k < KERNEL_LANES; k++)

/* In proportion to the largest. */
INLINE uint16_t proportional(const float *restrict x, int count, int most, uint8_t *restrict l) {
    float peak = 0;
    for (int i = 0; i < count; i++)
        peak = x[i] > peak ? x[i] : peak;
    float inverse = peak > 0 ? (float)most / peak : 0;
    for (int i = 0; i < count; i++) {
        uint8_t near = (uint8_t)nearest_int(inverse * x[i]);
        l[i] = most == 63 && near > most ? 63 : near;
    }
    return f16_narrow(peak > 0 ? peak / (float)most : 0);
}

/* Nonnegative scales to integers, in lanes: GGML's make_qp_quants.
 *
 * Nine common scales are tried, then up to five rounds of moving single integers where that lessens the weighted
 * error. Integers are kept as bytes, which a negative one wraps around.
 */
INLINE void quantize_scales(const lanes_t *restrict x, const lanes_t *restrict w, int count, int most, lanes_int_t *restrict l,
                            float *restrict scale) {
    lanes_t peak, best, inverse, sum_lx, sum_l2;
    EACH_LANE peak[k] = 0;
    for (int i = 0; i < count; i++)
        EACH_LANE peak[k] = peak[k] > x[i][k] ? peak[k] : x[i][k];
    ROLLED for (int trial = 0; trial < 9; trial++) {
        int step = trial == 0 ? 0 : trial < 5 ? trial - 5 : trial - 4;
        lanes_t times, back, error;
        EACH_LANE {
            times[k] = (step == 0 ? (float)most : 0.1f * (float)step + (float)most) / peak[k];
            back[k] = 1 / times[k];
            error[k] = 0;
        }
        for (int i = 0; i < count; i++)
            EACH_LANE {
                int32_t near = nearest_int(times[k] * x[i][k]);
                near = step == 0 ? near & 255 : near > most ? most : near;
                float d = x[i][k] - back[k] * (float)near;
                error[k] += w[i][k] * d * d;
            }
        EACH_LANE {
            uint32_t better = trial == 0 ? ~0u : -(uint32_t)(error[k] < best[k]);
            best[k] = pick(better, error[k], best[k]);
            inverse[k] = pick(better, times[k], inverse[k]);
        }
    }
    EACH_LANE sum_lx[k] = sum_l2[k] = 0;
    for (int i = 0; i < count; i++)
        EACH_LANE {
            int32_t near = nearest_int(inverse[k] * x[i][k]);
            near = near > most ? most : near;
            l[i][k] = near & 255;
            sum_lx[k] += w[i][k] * x[i][k] * (float)near;
            sum_l2[k] += w[i][k] * (float)near * (float)near;
        }
    ROLLED for (int round = 0; round < 5; round++) {
        int32_t changed = 0;
        for (int i = 0; i < count; i++)
            EACH_LANE {
                float level = (float)l[i][k], wx = w[i][k] * x[i][k];
                float lx = sum_lx[k] - wx * level, l2 = sum_l2[k] - w[i][k] * level * level;
                int32_t near = nearest_int(x[i][k] * l2 / lx);
                near = near > most ? most : near;
                int32_t moved = (lx > 0) & (l2 > 0) & (near != l[i][k]);
                lx += wx * (float)near;
                l2 += w[i][k] * (float)near * (float)near;
                moved &= lx * lx * sum_l2[k] > sum_lx[k] * sum_lx[k] * l2;
                changed |= moved;
                sum_lx[k] = pick(-(uint32_t)moved, lx, sum_lx[k]);
                sum_l2[k] = pick(-(uint32_t)moved, l2, sum_l2[k]);
                l[i][k] = moved ? near & 255 : l[i][k];
            }
        if (!changed)
            break;
    }
    EACH_LANE {
        bool nothing = peak[k] < 1e-15f;
        float fitted = sum_lx[k] / sum_l2[k];
        scale[k] = !nothing & (sum_l2[k] > 0) ? fitted : 0;
        for (int i = 0; i < count; i++)
            l[i][k] = nothing ? 0 : l[i][k];
    }
}

#endif
