/* token_pool.h - one vector a sequence: the mean, the last or the maximum over its first n_keep tokens.
 *
 * forward   y[q,c] = mean | last | max over p < n_keep[q] of h[cu_seqlens[q] + p, c]
 * backward  dh (=|+=) dy / n_keep at every kept token | dy at the last kept | dy at the first maximum; 0 elsewhere
 */
#pragma once
#include "lc.h"

typedef enum lc_token_pool_kind { LC_POOL_MEAN = 0, LC_POOL_LAST = 1, LC_POOL_MAX = 2 } lc_token_pool_kind;

typedef struct lc_token_pool_fwd_args {
    const lc_act *h;           /* [T,C] in   S sequences end to end                           */
    const int32_t *cu_seqlens; /* [S+1] in                                                    */
    const int32_t *n_keep;     /* [S]   in   1 <= n_keep[q] <= the sequence's length          */
    float *y;                  /* [S,C] out                                                   */
    int32_t *best;             /* [S,C] out  token of the maximum; LC_POOL_MAX only, else NULL */
    int32_t T, C, S;           /* C % 8 == 0                                                  */
    int32_t kind;              /* lc_token_pool_kind                                          */
} lc_token_pool_fwd_args;

typedef struct lc_token_pool_bwd_args {
    const float *dy;           /* [S,C] in                                        */
    const int32_t *cu_seqlens; /* [S+1] in                                        */
    const int32_t *n_keep;     /* [S]   in                                        */
    const int32_t *best;       /* [S,C] in   LC_POOL_MAX only, else NULL          */
    lc_act *dh;                /* [T,C] out, written as `write` says              */
    int32_t T, C, S;           /* C % 8 == 0                                      */
    int32_t kind;              /* lc_token_pool_kind                              */
    int32_t write;             /* lc_write                                        */
} lc_token_pool_bwd_args;

LC_API lc_status LC(token_pool_fwd)(const lc_token_pool_fwd_args *a, lc_stream stream);
LC_API lc_status LC(token_pool_bwd)(const lc_token_pool_bwd_args *a, lc_stream stream);
