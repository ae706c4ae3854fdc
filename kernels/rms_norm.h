/* rms_norm.h - RMSNorm over the hidden axis, with the residual sum (Zhang and Sennrich 2019; Llama's pre-norm).
 *
 * forward   h[t,c] = x[t,c] + residual[t,c]            (residual == NULL: h = x, and h is not written)
 *           rstd[t] = 1/sqrt(mean_c h[t,c]^2 + eps)    y[t,c] = h[t,c] rstd[t] w[c]
 * backward  dh[t,c] (=|+=) rstd[t] (dy[t,c] w[c] - h[t,c] rstd[t]^2 mean_c(dy[t,c] w[c] h[t,c]))
 *           the gradient of x and of residual is dh itself. w is frozen: no dw.
 */
#pragma once
#include "lc.h"

typedef struct lc_rms_norm_fwd_args {
    const lc_act *x;        /* [T,C] in                                   */
    const lc_act *residual; /* [T,C] in, or NULL                          */
    const lc_act *w;        /* [C]   in, frozen                           */
    lc_act *h;              /* [T,C] out  x + residual; NULL without one  */
    lc_act *y;              /* [T,C] out                                  */
    float *rstd;            /* [T]   out, saved for the backward          */
    int32_t T, C;           /* C % 8 == 0                                 */
    float eps;
} lc_rms_norm_fwd_args;

typedef struct lc_rms_norm_bwd_args {
    const lc_act *dy;  /* [T,C] in                                          */
    const lc_act *h;   /* [T,C] in, what was normalised                     */
    const lc_act *w;   /* [C]   in                                          */
    const float *rstd; /* [T]   in                                          */
    lc_act *dh;        /* [T,C] out, written as `write` says                */
    int32_t T, C;      /* C % 8 == 0                                        */
    int32_t write;     /* lc_write                                          */
} lc_rms_norm_bwd_args;

LC_API lc_status LC(rms_norm_fwd)(const lc_rms_norm_fwd_args *a, lc_stream stream);
LC_API lc_status LC(rms_norm_bwd)(const lc_rms_norm_bwd_args *a, lc_stream stream);
