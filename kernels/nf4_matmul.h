/* nf4_matmul.h - y = x W^T for a few tokens and up to three W that share x, decoded from NF4 in registers (nf4.h).
 *
 *   y[m,n] (=|+=) sum over blocks of 64 of scale[block] sum_k map16[code[n,k]] x[m,k]
 *
 * The scale is applied to a partial sum, in fp32. On tensor cores map16 is rounded to the storage type, as weights are that
 * were decoded first; otherwise nothing is rounded on the way. Either result is as near to the exact one as
 * dequantise-then-multiply, and not its bytes.
 */
#pragma once
#include "nf4.h"

#define LC_NF4_MATMUL_PARTS 3

typedef enum lc_nf4_matmul_way {
    LC_NF4_MATMUL_AUTO = 0,  /* tensor cores on a GPU, where every K is a multiple of 64 */
    LC_NF4_MATMUL_PLAIN = 1,
    LC_NF4_MATMUL_TENSOR = 2 /* bf16 storage only                                        */
} lc_nf4_matmul_way;

typedef struct lc_nf4_matmul_part {
    lc_nf4 w;    /* [N,K] in; the same K, a multiple of 8, in every part */
    lc_act *y;   /* [M,N] out, rows ldy apart                            */
    int32_t ldy;
} lc_nf4_matmul_part;

typedef struct lc_nf4_matmul_args {
    lc_nf4_matmul_part part[LC_NF4_MATMUL_PARTS];
    const lc_act *x; /* [M,K] in, rows ldx apart                      */
    int32_t n_parts;
    int32_t M;       /* meant for 1 to 16                             */
    int32_t ldx;     /* a multiple of 8                               */
    int32_t write;   /* lc_write                                      */
    int32_t way;     /* lc_nf4_matmul_way                             */
} lc_nf4_matmul_args;

LC_API lc_status LC(nf4_matmul)(const lc_nf4_matmul_args *a, lc_stream stream);
