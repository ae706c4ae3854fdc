/* nf4.h - a frozen weight [N,K] in NF4, as bitsandbytes lays it out; what the nf4_ operations take.
 *
 * Blocks of 64 over the flattened row-major weight (they run across rows); element 2i of a byte in the high nibble.
 *   w[e]         = map16[code[e]] scale[e / 64]
 *   scale[b]     = absmax[b]                                                          plain
 *                = nested_map[absmax_q[b]] nested_absmax[b / 256] + offset            double quantisation
 * Every product and the sum is rounded to fp32 by itself; then w is rounded to the storage type once.
 */
#pragma once
#include "lc.h"

typedef enum lc_nf4_size { LC_NF4_BLOCK = 64, LC_NF4_NESTED_BLOCK = 256 } lc_nf4_size;

typedef struct lc_nf4 {
    const uint8_t *packed;      /* [ceil(N K / 2)]                                    */
    const float *absmax;        /* [n_blocks], n_blocks = ceil(N K / 64); or NULL     */
    const uint8_t *absmax_q;    /* [n_blocks]              the rest where absmax is NULL */
    const float *nested_absmax; /* [ceil(n_blocks / 256)]                             */
    const float *nested_map;    /* [256] ascending                                    */
    const float *offset;        /* [1]                                                */
    int32_t N, K;
} lc_nf4;
