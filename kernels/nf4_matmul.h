/* nf4_matmul.h - y = x W^T for a few tokens, W decoded from NF4 in registers (nf4.h).
 *
 *   y[m,n] (=|+=) sum over blocks of 64 of scale[block] sum_k map16[code[n,k]] x[m,k]
 *
 * The scale is applied to a partial sum, in fp32: w is not rounded to the storage type on the way, so the result is
 * nearer to the exact one than dequantise-then-multiply, and not its bytes.
 */
#pragma once
#include "nf4.h"

typedef struct lc_nf4_matmul_args {
    lc_nf4 w;        /* [N,K] in; K a multiple of 8                   */
    const lc_act *x; /* [M,K] in, rows ldx apart                      */
    lc_act *y;       /* [M,N] out, rows ldy apart                     */
    int32_t M;       /* meant for 1 to 16                             */
    int32_t ldx;     /* a multiple of 8                               */
    int32_t ldy;
    int32_t write;   /* lc_write                                      */
} lc_nf4_matmul_args;

LC_API lc_status LC(nf4_matmul)(const lc_nf4_matmul_args *a, lc_stream stream);
