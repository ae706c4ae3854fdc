/* eci_pool.h - the reduction in front of the ECI head: MaxPool 8, then AvgPool 8 over the hidden axis of each token, the
 * positions of a sequence laid side by side in a slab of fixed length.
 *
 * forward   features[q, p C/64 + j] = 1/8 sum_{w<8} max_{i<8} h[cu_seqlens[q] + p, 64 j + 8 w + i]    p < n_keep[q]
 *                                   = 0                                                                  other p < s
 * backward  dh (=|+=) dfeatures / 8 at the first maximum of each window, 0 elsewhere and at tokens not kept
 */
#pragma once
#include "lc.h"

typedef struct lc_eci_pool_fwd_args {
    const lc_act *h;           /* [T,C]        in  final hidden states, S sequences end to end      */
    const int32_t *cu_seqlens; /* [S+1]        in                                                   */
    const int32_t *n_keep;     /* [S]          in  first tokens used; <= s and <= the sequence's    */
    float *features;           /* [S,s*C/64]   out                                                  */
    int32_t T, C, S, s;        /* C % 64 == 0                                                       */
} lc_eci_pool_fwd_args;

typedef struct lc_eci_pool_bwd_args {
    const float *dfeatures;    /* [S,s*C/64]   in                                   */
    const lc_act *h;           /* [T,C]        in  as in the forward                */
    const int32_t *cu_seqlens; /* [S+1]        in                                   */
    const int32_t *n_keep;     /* [S]          in                                   */
    lc_act *dh;                /* [T,C]        out, written as `write` says         */
    int32_t T, C, S, s;        /* C % 64 == 0                                       */
    int32_t write;             /* lc_write                                          */
} lc_eci_pool_bwd_args;

LC_API lc_status LC(eci_pool_fwd)(const lc_eci_pool_fwd_args *a, lc_stream stream);
LC_API lc_status LC(eci_pool_bwd)(const lc_eci_pool_bwd_args *a, lc_stream stream);
