/* rotary.h - rotary position embedding (Su et al. 2021) in Llama's half-rotated form, in place.
 *
 * With a = positions[t] * inv_freq[i], for every head and every pair (x_i, x_{i+D/2}), i < D/2:
 * forward   y_i = x_i cos a - x_{i+D/2} sin a      y_{i+D/2} = x_{i+D/2} cos a + x_i sin a
 * backward  the rotation by -a: a rotation's transpose is its inverse, so nothing but the positions is needed.
 * cos and sin come from tables [n_positions, D/2], written once for a model (src/ops/rotary.rs).
 */
#pragma once
#include "lc.h"

typedef struct lc_rotary_args {
    lc_act *x;                /* [T,n_heads*D] in and out (the gradient in the backward), row stride ldx */
    const int32_t *positions; /* [T] in, each in 0 .. n_positions-1                                      */
    const float *cos;         /* [n_positions,D/2] in                                                    */
    const float *sin;         /* [n_positions,D/2] in                                                    */
    int32_t T, n_heads, D;    /* D % 16 == 0                                                             */
    int32_t ldx;              /* in elements, a multiple of 8                                            */
} lc_rotary_args;

LC_API lc_status LC(rotary_fwd)(const lc_rotary_args *a, lc_stream stream);
LC_API lc_status LC(rotary_bwd)(const lc_rotary_args *a, lc_stream stream);
