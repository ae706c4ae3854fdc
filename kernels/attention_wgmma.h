/* attention_wgmma.h - attention.h as sm_90 computes it: bulk copies and wgmma, where keys and queries are rows of one batch.
 *
 * The same arguments, the same formulas (o_i = sum_j P_ij v_j ...) and, up to rounding, the same results as LC(attention_fwd)
 * and LC(attention_bwd), for D = 64 and 128. Those call these on sm_90 by themselves, and anywhere with
 * blocks = LC_ATTENTION_SM90; refused where there is no sm_90 (the CPU device runs them, except with fp32 storage).
 *
 * A copy brings boxes of whole tiles. Rows of a box that are not the sequence's own are its neighbour's, and are multiplied
 * by a P of 0; behind row T come zeros. So k and v must be the rows of the same batch (own_keys: T_k = T, every row a
 * row of some sequence, and written), as in training; a key-value cache, whose free rows hold anything, is refused.
 * A NaN in one sequence may show in its neighbours. Everything else about one sequence is independent of all others, bit
 * by bit.
 */
#pragma once
#include "attention.h"

LC_API lc_status LC(attention_wgmma_fwd)(const lc_attention_fwd_args *a, lc_stream stream);
LC_API lc_status LC(attention_wgmma_bwd)(const lc_attention_bwd_args *a, lc_stream stream);
