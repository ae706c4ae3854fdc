/* attention_decode.h - attention of one new token a sequence over keys in pages (attention.h): o_s = softmax(scale q_s K_sᵀ) V_s.
 *
 * Sequence s has one query row, row s of q, and sees its k_len keys. Query head h reads kv head g = h / (H/KV). A page i of the
 * sequence gives, with s_j = scale q . k_j over its keys alone,
 *   m_i = max_j s_j     l_i = sum_j exp(s_j - m_i)     a_i = sum_j exp(s_j - m_i) v_j
 * and the pages are joined by    o = sum_i e^(m_i - m) a_i / sum_i e^(m_i - m) l_i,    m = max_i m_i.
 */
#pragma once
#include "attention.h"

typedef struct lc_attention_decode_args {
    const lc_act *q;              /* [S,H*D]   in, row stride ldq                                   */
    const lc_act *k;              /* [..,KV*D] in, pool of pages, row stride ldk                     */
    const lc_act *v;              /* [..,KV*D] in, as k                                              */
    const lc_sequence *sequences; /* [S]       in: k_begin, a place in pages; k_len >= 1             */
    const int32_t *pages;         /* [..]      in                                                    */
    float *sums;                  /* [S,H,n_pages,D] scratch, a_i                                    */
    float *peaks;                 /* [S,H,n_pages,2] scratch, m_i in powers of 2, l_i                */
    lc_act *o;                    /* [S,H*D]   out, row stride ldo                                   */
    int32_t S, H, KV, D;          /* H/KV one of 1, 2, 4, 8; D one of 16, 32, 64, 128                */
    int32_t n_pages;              /* of the longest sequence: ceil(k_len / LC_PAGE)                  */
    int32_t ldq, ldk, ldo;        /* in elements, multiples of 8                                     */
    float scale;                  /* > 0                                                             */
} lc_attention_decode_args;

LC_API lc_status LC(attention_decode)(const lc_attention_decode_args *a, lc_stream stream);
