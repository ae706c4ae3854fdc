/* swiglu.h - the gate of Llama's MLP (Shazeer 2020).
 *
 * forward   y = silu(gate) up                          silu(g) = g s,  s = 1/(1 + exp(-g))
 * backward  dgate = dy up s (1 + g (1 - s))            dup = dy g s     recomputed from gate and up: y is not needed
 */
#pragma once
#include "lc.h"

typedef struct lc_swiglu_fwd_args {
    const lc_act *gate; /* [n] in                   */
    const lc_act *up;   /* [n] in                   */
    lc_act *y;          /* [n] out; may be gate or up */
    int64_t n;          /* T F, n % 8 == 0          */
} lc_swiglu_fwd_args;

typedef struct lc_swiglu_bwd_args {
    const lc_act *dy;   /* [n] in                                            */
    const lc_act *gate; /* [n] in                                            */
    const lc_act *up;   /* [n] in                                            */
    lc_act *dgate;      /* [n] out, written as `write_dgate` says; may be gate */
    lc_act *dup;        /* [n] out, written as `write_dup` says; may be up   */
    int64_t n;          /* n % 8 == 0                                        */
    int32_t write_dgate, write_dup; /* lc_write                              */
} lc_swiglu_bwd_args;

LC_API lc_status LC(swiglu_fwd)(const lc_swiglu_fwd_args *a, lc_stream stream);
LC_API lc_status LC(swiglu_bwd)(const lc_swiglu_bwd_args *a, lc_stream stream);
