/* dense.h - a linear layer of the ECI head: fp32, many inputs, a small batch. Bound by reading W.
 *
 * forward   y[b,o] = sum_i x[b,i] W[o,i] + bias[o]
 * backward  dx[b,i] (=|+=) sum_o dy[b,o] W[o,i]
 *           dW[o,i] (=|+=) sum_b dy[b,o] x[b,i]        dbias[o] (=|+=) sum_b dy[b,o]
 * Rows are added one by one, with a fused multiply-add, to what is there: see gradient.h for keeping dy and x instead.
 */
#pragma once
#include "lc.h"

typedef struct lc_dense_fwd_args {
    const float *x;      /* [B,n_in]     in  */
    const float *W;      /* [n_out,n_in] in  */
    const float *bias;   /* [n_out]      in  */
    float *y;            /* [B,n_out]    out */
    int32_t B, n_in, n_out;
} lc_dense_fwd_args;

typedef struct lc_dense_bwd_args {
    const float *dy;     /* [B,n_out]    in                                           */
    const float *x;      /* [B,n_in]     in                                           */
    const float *W;      /* [n_out,n_in] in                                           */
    float *dx;           /* [B,n_in]     out, or NULL; written as `write_dx` says     */
    float *dW;           /* [n_out,n_in] out, or NULL where dy and x are kept instead */
    float *dbias;        /* [n_out]      out; written as `write_dbias` says           */
    int32_t B, n_in, n_out;
    int32_t write_dx, write_dw, write_dbias; /* lc_write                              */
} lc_dense_bwd_args;

LC_API lc_status LC(dense_fwd)(const lc_dense_fwd_args *a, lc_stream stream);
LC_API lc_status LC(dense_bwd)(const lc_dense_bwd_args *a, lc_stream stream);
