/* nf4_fp8.h - an NF4 weight as an operand of matmul_fp8: e4m3 with one scale a row, in either orientation (nf4.h, fp8_rows.h).
 *
 *   v[n,k] = map16[code[n,k]] scale[(n K + k) / 64]                        in fp32, not rounded to the storage type
 *   row_scales[n] = max_k |v[n,k]| / 448      column_scales[k] = max_n |v[n,k]| / 448        1 where the maximum is below 1e-30
 *   y[n,k] = e4m3(v[n,k] (1 / row_scales[n]))      or, transposed, y[k,n] = e4m3(v[n,k] (1 / column_scales[k]))
 *
 * Tensor cores take both operands of an 8-bit product with k contiguous, so the input gradient needs the weight turned. The
 * scales are a property of the weight: nf4_fp8_scales runs once, at loading, nf4_fp8 before every product.
 */
#pragma once
#include "nf4.h"

typedef struct lc_nf4_fp8_scales_args {
    lc_nf4 w;             /* [N,K] in; N and K multiples of 16 */
    float *row_scales;    /* [N] out                           */
    float *column_scales; /* [K] out                           */
} lc_nf4_fp8_scales_args;

typedef struct lc_nf4_fp8_args {
    lc_nf4 w;            /* [N,K] in; N and K multiples of 16                */
    const float *scales; /* [N] in; [K] if transposed                        */
    uint8_t *y;          /* [N,K] out; [K,N] if transposed                   */
    int32_t transposed;  /* 0 or 1                                           */
} lc_nf4_fp8_args;

LC_API lc_status LC(nf4_fp8_scales)(const lc_nf4_fp8_scales_args *a, lc_stream stream);
LC_API lc_status LC(nf4_fp8)(const lc_nf4_fp8_args *a, lc_stream stream);
