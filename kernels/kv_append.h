/* kv_append.h - new tokens' queries, keys and values made ready for attention over a cache, in one pass.
 *
 * With R_t the rotation by position positions[t] (rotary.h):   q_t = R_t q_t in place,   k_pool[rows[t]] = R_t k_t,
 * v_pool[rows[t]] = v_t. No two rows are the same; other rows of the pools stay as they are.
 */
#pragma once
#include "lc.h"

typedef struct lc_kv_append_args {
    lc_act *q;                /* [T,H*D]   in and out, row stride ldq                     */
    const lc_act *k;          /* [T,KV*D]  in, row stride ldk                             */
    const lc_act *v;          /* [T,KV*D]  in, row stride ldk                             */
    const int32_t *positions; /* [T]       in, each in 0 .. n_positions-1                 */
    const int32_t *rows;      /* [T]       in, each a row of the pools                    */
    const float *cos;         /* [n_positions,D/2] in                                     */
    const float *sin;         /* [n_positions,D/2] in                                     */
    lc_act *k_pool;           /* [..,KV*D] out                                            */
    lc_act *v_pool;           /* [..,KV*D] out                                            */
    int32_t T, H, KV, D;      /* D % 16 == 0                                              */
    int32_t ldq, ldk;         /* in elements, multiples of 8                              */
} lc_kv_append_args;

LC_API lc_status LC(kv_append)(const lc_kv_append_args *a, lc_stream stream);
