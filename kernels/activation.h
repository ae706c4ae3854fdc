/* activation.h - the pointwise functions between the layers of the ECI head, fp32.
 *
 * forward   y[i] = f(x[i])
 * backward  dx[i] (=|+=) dy[i] f'(x[i])               by the saved input
 *
 *   identity x | relu max(x,0) | leaky_relu x or slope x | gelu x (1 + erf(x/sqrt 2))/2 | tanh | silu x/(1 + exp(-x))
 */
#pragma once
#include "lc.h"

typedef enum lc_activation_kind {
    LC_IDENTITY = 0,
    LC_RELU = 1,
    LC_LEAKY_RELU = 2,
    LC_GELU = 3,
    LC_TANH = 4,
    LC_SILU = 5,
} lc_activation_kind;

typedef struct lc_activation_fwd_args {
    const float *x; /* [n] in                 */
    float *y;       /* [n] out                */
    int64_t n;
    int32_t kind;   /* lc_activation_kind     */
    float slope;    /* LC_LEAKY_RELU, x < 0   */
} lc_activation_fwd_args;

typedef struct lc_activation_bwd_args {
    const float *dy; /* [n] in                               */
    const float *x;  /* [n] in                               */
    float *dx;       /* [n] out, written as `write` says     */
    int64_t n;
    int32_t kind;    /* lc_activation_kind                   */
    float slope;
    int32_t write;   /* lc_write                             */
} lc_activation_bwd_args;

LC_API lc_status LC(activation_fwd)(const lc_activation_fwd_args *a, lc_stream stream);
LC_API lc_status LC(activation_bwd)(const lc_activation_bwd_args *a, lc_stream stream);
