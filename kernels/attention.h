/* attention.h - causal attention over sequences laid end to end, with grouped kv heads (Dao 2023, FlashAttention-2).
 *
 * A sequence's query row i (row q_begin + i of q) stands at position p = q_pos + i and sees the keys j <= p, j < k_len
 * (row k_begin + j of k and v). Query head h reads kv head g = h / (H/KV). With s_ij = scale q_i . k_j:
 * forward   lse_i = log sum_j exp(s_ij)     P_ij = exp(s_ij - lse_i)     o_i = sum_j P_ij v_j
 * backward  delta_i = do_i . o_i            dS_ij = P_ij (do_i . v_j - delta_i)
 *           dq_i = scale sum_j dS_ij k_j    dk_j = scale sum_{h,i} dS_ij q_i    dv_j = sum_{h,i} P_ij do_i
 *           where h runs over the H/KV query heads of the kv head; dq, dk and dv are set, never added to.
 * A row that sees no key gives zeros and lse = -inf. The backward is for sequences that are their own keys (T_k = T).
 *
 * One struct is every use:           q_begin  q_len  k_begin        k_len         q_pos
 *   packed training                  start    len    start          len           0
 *   padded as published (right)      start    len    start          keys < len    0
 *   new tokens, keys in pages        row      new    place in pages past + new    past
 *
 * Pages: where `pages` is given, k and v are pools of pages of LC_PAGE rows, and key row j of a sequence is row j % LC_PAGE
 * of page pages[k_begin + j / LC_PAGE] (Kwon et al. 2023, PagedAttention). Forward only.
 *
 * Both tile lists come from the host: every LC_ATTENTION_TILE-th row of every sequence, in any order (longest first is
 * fastest). Query tiles cover q_len rows. Key tiles, which only the backward needs, cover max(q_len, k_len) rows: rows
 * that no query sees get zero gradients. Rows outside every tile are not written.
 */
#pragma once
#include "lc.h"

#define LC_ATTENTION_TILE 128
#define LC_PAGE 64

/* Shapes of a kernel's blocks (device/attention.cuh), by the shared memory of a multiprocessor they are made for. Results
 * differ in the last bits, so one device always takes the same. */
typedef enum lc_attention_blocks {
    LC_ATTENTION_AUTO = 0, /* as the device has  */
    LC_ATTENTION_100K = 1, /* sm_86, 89, 120     */
    LC_ATTENTION_164K = 2, /* sm_80; sm_90 where attention_wgmma.h does not fit */
    LC_ATTENTION_SM90 = 3  /* attention_wgmma.h  */
} lc_attention_blocks;

typedef struct lc_sequence {
    int32_t q_begin, q_len; /* rows of q and o                      */
    int32_t k_begin, k_len; /* rows of k and v, or place in pages; keys that are seen */
    int32_t q_pos;          /* position of the first query row      */
} lc_sequence;

typedef struct lc_tile {
    int32_t sequence; /* index into the sequences                           */
    int32_t first;    /* first row inside it: a multiple of LC_ATTENTION_TILE */
} lc_tile;

typedef struct lc_attention_fwd_args {
    const lc_act *q;              /* [T,H*D]    in, row stride ldq                         */
    const lc_act *k;              /* [T_k,KV*D] in, row stride ldk; T_k rows as sequences say */
    const lc_act *v;              /* [T_k,KV*D] in, row stride ldv                         */
    const lc_sequence *sequences; /* [S]        in, device memory                          */
    const lc_tile *q_tiles;       /* [n_q_tiles] in, device memory                         */
    const int32_t *pages;         /* [..]       in, device memory; NULL: no pages          */
    lc_act *o;                    /* [T,H*D]    out, row stride ldo                        */
    float *lse;                   /* [H,T]      out, saved for the backward                */
    int32_t n_q_tiles, T, H, KV, D; /* H % KV == 0; D one of 16, 32, 64, 128               */
    int32_t ldq, ldk, ldv, ldo;     /* in elements, multiples of 8                         */
    float scale;                    /* > 0, usually 1/sqrt(D)                              */
    int32_t blocks;                 /* lc_attention_blocks                                 */
    int32_t own_keys;               /* 1: T_k = T, every row of k and v is a row of some sequence; 0: e.g. a cache */
} lc_attention_fwd_args;

typedef struct lc_attention_bwd_args {
    const lc_act *d_o;            /* [T,H*D]    in, row stride ldd_o (`do` is a word of C)    */
    const lc_act *q;              /* [T,H*D]    in, as in the forward                         */
    const lc_act *k;              /* [T_k,KV*D] in                                            */
    const lc_act *v;              /* [T_k,KV*D] in                                            */
    const lc_act *o;              /* [T,H*D]    in, the forward's result                      */
    const float *lse;             /* [H,T]      in, the forward's                             */
    const lc_sequence *sequences; /* [S]        in                                            */
    const lc_tile *q_tiles;       /* [n_q_tiles] in                                           */
    const lc_tile *k_tiles;       /* [n_k_tiles] in                                           */
    float *delta;                 /* [H,T]      scratch                                       */
    lc_act *dq;                   /* [T,H*D]    out, row stride lddq                          */
    lc_act *dk;                   /* [T_k,KV*D] out, row stride lddk                          */
    lc_act *dv;                   /* [T_k,KV*D] out, row stride lddv                          */
    int32_t n_q_tiles, n_k_tiles, T, H, KV, D;
    int32_t ldq, ldk, ldv, ldo, ldd_o, lddq, lddk, lddv;
    float scale;
    int32_t blocks; /* lc_attention_blocks */
} lc_attention_bwd_args;

LC_API lc_status LC(attention_fwd)(const lc_attention_fwd_args *a, lc_stream stream);
LC_API lc_status LC(attention_bwd)(const lc_attention_bwd_args *a, lc_stream stream);
/* The backward's first part, delta. */
LC_API lc_status LC(attention_delta)(const lc_attention_bwd_args *a, lc_stream stream);
