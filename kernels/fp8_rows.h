/* fp8_rows.h - a matrix in e4m3 with one scale a row: an operand of matmul_fp8 (device/fp8.cuh says what e4m3 is).
 *
 *   scale[t] = max_k |x[t,k]| / 448          1 where the row is zeros (its maximum below 1e-30)
 *   code[t,k] = e4m3(x[t,k] (1 / scale[t]))  to nearest, ties to even
 *
 * What is not finite is not lost: NaN becomes NaN, and a row with an infinity comes out as NaN where the infinity stood.
 */
#pragma once
#include "lc.h"

typedef struct lc_fp8_rows_args {
    const lc_act *x; /* [T,K] in            */
    uint8_t *codes;  /* [T,K] out           */
    float *scales;   /* [T] out             */
    int32_t T, K;    /* K a multiple of 16  */
} lc_fp8_rows_args;

LC_API lc_status LC(fp8_rows)(const lc_fp8_rows_args *a, lc_stream stream);
